"""The walls around a child process that opens untrusted files: Landlock for its files, seccomp for its system calls.

`enforce` is irrevocable. Afterwards the process reads the named files and folders and no others, and may compute, time
itself and write to what is open already. A harmless call that is not on the list fails with EPERM, so that a library
which tries one goes on without; a dangerous call ends the process. Neither layer hides that a file exists.

A kernel may lack a layer: Landlock is in Linux from 5.13, seccomp from 4.14, macOS and Windows have neither. Then the
limits of the workers remain, and `layer` says so. Both layers are reached by ctypes, so they need no package.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*; the columns of the lists below
# Names and numbers of system calls, on x86_64 and on aarch64; - where there is none.
ALLOWED = """
    read 0 63            write 1 64           readv 19 65          writev 20 66         pread64 17 67
    preadv 295 69        close 3 57           fstat 5 80           lseek 8 62           munmap 11 215
    brk 12 214           mremap 25 216        madvise 28 233       mincore 27 232       rt_sigaction 13 134
    rt_sigprocmask 14 135  rt_sigreturn 15 139  sigaltstack 131 132  getpid 39 172      gettid 186 178
    getppid 110 173      getuid 102 174       geteuid 107 175      getgid 104 176       getegid 108 177
    clock_gettime 228 113  clock_getres 229 114  clock_nanosleep 230 115  nanosleep 35 101  gettimeofday 96 169
    time 201 -           times 100 153        futex 202 98         sched_yield 24 124   sched_getaffinity 204 123
    getcpu 309 168       set_robust_list 273 99  rseq 334 293      set_tid_address 218 96  membarrier 324 283
    exit 60 93           exit_group 231 94    restart_syscall 219 128  getrandom 318 278  newfstatat 262 79
    statx 332 291        stat 4 -             lstat 6 -            access 21 -          readlink 89 -
    faccessat 269 48     faccessat2 439 439   readlinkat 267 78    getcwd 79 17         getdents64 217 61
    statfs 137 43        fstatfs 138 44       fadvise64 221 223    uname 63 160         sysinfo 99 179
    getrusage 98 165     getrlimit 97 163     poll 7 -             ppoll 271 73         dup 32 23
"""
CHECKED = """
    open 2 -             openat 257 56        mmap 9 222           mprotect 10 226      fcntl 72 25
    ioctl 16 29          prctl 157 167        prlimit64 302 261    kill 62 129          tgkill 234 131
    clone 56 220
"""
DANGEROUS = """
    execve 59 221        execveat 322 281     fork 57 -            vfork 58 -           ptrace 101 117
    process_vm_readv 310 270  process_vm_writev 311 271  pidfd_getfd 438 438  connect 42 203  bind 49 200
    listen 50 201        accept 43 202        accept4 288 242      sendto 44 206        sendmsg 46 211
    bpf 321 280          io_uring_setup 425 425  userfaultfd 323 282  perf_event_open 298 241  open_by_handle_at 304 265
    mount 165 40         umount2 166 39       move_mount 429 429   open_tree 428 428    fsopen 430 430
    fsmount 432 432      pivot_root 155 41    chroot 161 51        unshare 272 97       setns 308 268
    init_module 175 105  finit_module 313 273  delete_module 176 106  kexec_load 246 104  kexec_file_load 320 294
    keyctl 250 219       add_key 248 217      request_key 249 218  reboot 169 142       modify_ldt 154 -
"""
NEW_CALLS = 424  # from here on, calls of newer kernels: without them (ENOSYS) libraries use older ones
SECOND_SET = 0x40000000  # from here on, another way to make the same calls, on x86_64

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # what a filter returns; FAIL holds an error number
REFUSE = FAIL | errno.EPERM
LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in the data that a filter sees
OPEN_TO_CHANGE = 0o20001103  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE
PROT_EXEC = 4
LOCKS_AND_FLAGS = (0, 1, 2, 3, 5, 6, 7, 36, 37, 38, 1030)  # of fcntl: copies of a file, its flags and locks
IS_TERMINAL, CLOSE_ON_EXEC = 0x5401, 0x5451  # of ioctl
NAME_THREAD, NAME_MEMORY = 15, 0x53564D41  # of prctl
PROCESSOR_TIME = 0  # of prlimit64
# Flags of clone: CLONE_VM, SIGHAND and THREAD; the namespaces, VFORK, PARENT, PTRACE and PIDFD.
THREAD, PROCESS = 0x00010900, 0x7E02F000

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # by Landlock's version, the number of rights it knows; later 16

Instruction = tuple[int, int, int, int]


class Layer(NamedTuple):
    """The walls that hold beside the limits: Landlock's version, 0 without it, and seccomp."""

    landlock: int
    seccomp: bool

    def __str__(self) -> str:
        files = f"Landlock (version {self.landlock})" if self.landlock else ""
        held = " and ".join(filter(None, (files, "seccomp" if self.seccomp else "")))
        lacks = {
            (False, False): "limits only; this system confines neither the files nor the system calls of a reader",
            (
                False,
                True,
            ): "; without Landlock, a reader that a file took over could read other files of this user",
            (True, False): "; without seccomp, a reader that a file took over could use the network",
        }
        return held + lacks.get((bool(self.landlock), self.seccomp), "")


def enforce(files: Iterable[str] = (), folders: Iterable[str] = (), *, threads: bool = False) -> Layer:
    """Confine this process to reading these files and folders, and return the walls that hold from now on.

    threads: allow it to start threads. Call it before any thread runs: Landlock binds only the calling one.
    """
    if sys.platform != "linux":
        return Layer(0, False)
    return Layer(restrict_files(files, folders), restrict_calls(threads=threads))


def layer() -> Layer:
    """Return the walls that hold around the readers on this system; a child process tries them."""
    import subprocess

    command = [sys.executable, "-I", "-S", "-B", __file__]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=30).stdout.split()
        return Layer(int(answer[0]), bool(int(answer[1])))
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return Layer(0, False)


# -- Landlock ----------------------------------------------------------------------------------------------------------


def restrict_files(files: Iterable[str], folders: Iterable[str]) -> int:
    """Confine this thread to reading the files, and the folders with all that is in them; return Landlock's version.

    The version is 0, and nothing is confined, where the kernel lacks Landlock or does not allow its use.
    """
    syscall = _libc().syscall
    try:
        version = _call(syscall, CREATE_RULESET, None, 0, 1)
        rights, network, scopes = (1 << FILE_RIGHTS.get(version, 16)) - 1, 3, 3
        known = struct.pack("=QQQ", rights, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
        rules = _call(syscall, CREATE_RULESET, known, len(known), 0)
    except OSError:
        return 0
    try:
        for path in files:
            _allow_reading(path, rules)
        for path in folders:
            _allow_reading(path, rules, folder=True)
        _forbid_new_privileges()
        _call(syscall, RESTRICT_SELF, rules, 0)
    except OSError:
        return 0
    finally:
        os.close(rules)
    return version


def _allow_reading(path: str, rules: int, *, folder: bool = False) -> None:
    """Add a rule for a path, unless a folder has taken the place of a file: the rule would open all that is in it.

    A path that is not there, or that cannot have a rule, stays closed, and opening it reports that.
    """
    with contextlib.suppress(OSError):
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if stat.S_ISDIR(os.fstat(found).st_mode) == folder:
                rights = READ_FILE | READ_FOLDER if folder else READ_FILE
                _call(_libc().syscall, ADD_RULE, rules, 1, struct.pack("=Qi", rights, found), 0)
        finally:
            os.close(found)


# -- seccomp -----------------------------------------------------------------------------------------------------------


def restrict_calls(*, threads: bool) -> bool:
    """Confine this process to the allowed system calls, and return whether the kernel does so."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES or sys.maxsize < 2**32:
        return False
    code = b"".join(struct.pack("=HBBI", *each) for each in call_filter(machine, os.getpid(), threads=threads))
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    number = {"x86_64": 317, "aarch64": 277}[machine]
    set_filter, all_threads = 1, 1
    try:
        _forbid_new_privileges()
        _call(_libc().syscall, number, set_filter, all_threads, program)
    except OSError:
        return False
    return True


def call_filter(machine: str, process: int, *, threads: bool) -> list[Instruction]:
    """Return the program of the kernel's filter that decides each system call of the process."""
    column = list(ARCHITECTURES).index(machine)
    rules = {
        "open": _without_bits(1, OPEN_TO_CHANGE, REFUSE),
        "openat": _without_bits(2, OPEN_TO_CHANGE, REFUSE),
        "mmap": _without_bits(2, PROT_EXEC, REFUSE),
        "mprotect": _without_bits(2, PROT_EXEC, REFUSE),
        "fcntl": _one_of(1, LOCKS_AND_FLAGS, REFUSE),
        "ioctl": _one_of(1, (IS_TERMINAL, CLOSE_ON_EXEC), FAIL | errno.ENOTTY),
        "prctl": _one_of(0, (NAME_THREAD, NAME_MEMORY), REFUSE),
        "prlimit64": _own_limits(),
        "kill": _one_of(0, (process,), REFUSE),
        "tgkill": _one_of(0, (process,), REFUSE),
        "clone": _new_thread() if threads else [(RETURN, 0, 0, KILL)],
    }
    program = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[machine]), (RETURN, 0, 0, KILL)]
    program += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, SECOND_SET), (RETURN, 0, 0, KILL)]
    for number in _numbers(ALLOWED, column).values():
        program += _case(number, [(RETURN, 0, 0, ALLOW)])
    for name, number in _numbers(CHECKED, column).items():
        program += _case(number, rules[name])
    for number in _numbers(DANGEROUS, column).values():
        program += _case(number, [(RETURN, 0, 0, KILL)])
    program += [(AT_LEAST, 0, 1, NEW_CALLS), (RETURN, 0, 0, FAIL | errno.ENOSYS)]
    return [*program, (RETURN, 0, 0, REFUSE)]


def _numbers(calls: str, column: int) -> dict[str, int]:
    """Return the number of each call that the architecture has."""
    words = calls.split()
    rows = zip(words[::3], words[1 + column :: 3], strict=True)
    return {name: int(number) for name, number in rows if number != "-"}


def _case(number: int, decide: Sequence[Instruction]) -> list[Instruction]:
    return [(EQUAL, 0, len(decide), number), *decide]


def _argument(place: int, half: int = 0) -> Instruction:
    """Return the instruction that loads one half of an argument, the lower one first: both machines do it like that."""
    return (LOAD, 0, 0, ARGUMENTS + 8 * place + 4 * half)


def _without_bits(place: int, bits: int, otherwise: int) -> list[Instruction]:
    return [_argument(place), (ANY_BIT, 1, 0, bits), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, otherwise)]


def _one_of(place: int, values: Sequence[int], otherwise: int) -> list[Instruction]:
    cases = [(EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_argument(place), *cases, (RETURN, 0, 0, otherwise), (RETURN, 0, 0, ALLOW)]


def _own_limits() -> list[Instruction]:
    """Allow a process to ask for its own limits, and to set that of processor time."""
    asks = [_argument(2), (EQUAL, 0, 3, 0), _argument(2, 1), (EQUAL, 0, 1, 0), (RETURN, 0, 0, ALLOW)]
    own = [_argument(0), (EQUAL, 1, 0, 0), (RETURN, 0, 0, REFUSE)]
    return [*own, _argument(1), (EQUAL, 0, 1, PROCESSOR_TIME), (RETURN, 0, 0, ALLOW), *asks, (RETURN, 0, 0, REFUSE)]


def _new_thread() -> list[Instruction]:
    kind = [_argument(0), (AND, 0, 0, THREAD | PROCESS), (EQUAL, 0, 1, THREAD)]
    return [*kind, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL)]


# -- The C library -----------------------------------------------------------------------------------------------------


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: ctypes._FuncPointer, *arguments: int | bytes | None) -> int:
    """Call a C function with arguments as long as a register, and return its result. Raises OSError, MemoryError."""
    result: int = function(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    if result < 0:
        code = ctypes.get_errno()
        if code == errno.ENOMEM:
            raise MemoryError
        raise OSError(code, os.strerror(code))
    return result


def _forbid_new_privileges() -> None:
    set_no_new_privileges = 38
    _call(_libc().prctl, set_no_new_privileges, 1, 0, 0, 0)


def _is_refused(function: Callable[..., object], *arguments: object) -> bool:
    try:
        function(*arguments)
    except OSError:
        return True
    return False


def main() -> None:
    """Raise the walls, and print which of them hold when this process runs against them."""
    held = enforce()
    print(held.landlock if _is_refused(os.listdir, "/") else 0, int(held.seccomp and _is_refused(os.pipe)))


if __name__ == "__main__":
    main()
