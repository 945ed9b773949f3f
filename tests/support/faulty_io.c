/* Faults of a disk, for LD_PRELOAD: writes, truncations, syncs and deletions of one file, and of those beside it, fail.
 *
 * faulty_arm() chooses the fault, at which of these calls it begins and how many calls it lasts; faulty_calls() returns
 * how many there were since. Until it is called, nothing fails. A program calls both by ctypes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum fault { NONE, EIO_ERROR, FULL_DISK, SHORT_WRITE, FAILED_SYNC, KILL, TORN_WRITE };

static char prefix[4096]; /* of the paths that are concerned */
static int fault = NONE;
static long begin, end, calls;

void faulty_arm(const char *path, int kind, long first, long number) {
    snprintf(prefix, sizeof prefix, "%s", path);
    begin = first, end = first + number;
    __atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&fault, kind, __ATOMIC_SEQ_CST);
}

long faulty_calls(void) { return __atomic_load_n(&calls, __ATOMIC_SEQ_CST); }

static int concerns_path(const char *path) { return prefix[0] && strncmp(path, prefix, strlen(prefix)) == 0; }

static int concerns(int file) {
    char link[64], path[4096];
    if (!fault) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return concerns_path(path);
}

/* Return the fault of this call, which is counted. */
static int due(int concerned) {
    if (!concerned) return NONE;
    long call = __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
    if (call < begin || call >= end) return NONE;
    if (fault == KILL) kill(getpid(), SIGKILL);
    return fault;
}

static int fails(int kind, int is_sync) {
    if (kind == EIO_ERROR || (kind == FAILED_SYNC && is_sync)) return errno = EIO, 1;
    if (kind == FULL_DISK && !is_sync) return errno = ENOSPC, 1;
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITES(name, offset_type)                                                                       \
    ssize_t name(int file, const void *bytes, size_t length, offset_type offset) {                      \
        int kind = due(concerns(file));                                                                 \
        if (fails(kind, 0)) return -1;                                                                  \
        if ((kind == SHORT_WRITE || kind == TORN_WRITE) && length > 1) length /= 2;                     \
        ssize_t written = REAL(name)(file, bytes, length, offset);                                      \
        if (kind == TORN_WRITE) kill(getpid(), SIGKILL);                                                \
        return written;                                                                                 \
    }
WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)

ssize_t write(int file, const void *bytes, size_t length) {
    int kind = due(concerns(file));
    if (fails(kind, 0)) return -1;
    if ((kind == SHORT_WRITE || kind == TORN_WRITE) && length > 1) length /= 2;
    ssize_t written = REAL(write)(file, bytes, length);
    if (kind == TORN_WRITE) kill(getpid(), SIGKILL);
    return written;
}

int fsync(int file) { return fails(due(concerns(file)), 1) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return fails(due(concerns(file)), 1) ? -1 : REAL(fdatasync)(file); }
int ftruncate(int file, off_t length) { return fails(due(concerns(file)), 0) ? -1 : REAL(ftruncate)(file, length); }
int ftruncate64(int file, off64_t length) {
    return fails(due(concerns(file)), 0) ? -1 : REAL(ftruncate64)(file, length);
}
int unlink(const char *path) { return fails(due(fault && concerns_path(path)), 0) ? -1 : REAL(unlink)(path); }
