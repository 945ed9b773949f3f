"""A child process that a file has taken over: `python taken_over.py WORKER FILE SECRET` tries what it can still do.

Each probe runs in a process of its own, in the place where the worker would open its file. The answer is a JSON object:
for each probe "possible", "refused", "killed", or something else if the probe itself is broken. WORKER is sqlite, zip,
set or sql, or `none` for a process without walls. Options: --nobody gives up root, and --no-landlock simulates a kernel
that lacks it.
"""

import _posixsubprocess  # noqa: F401 - everything is loaded before the walls are up
import codecs
import ctypes
import importlib.util
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import sys
import threading
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from prismatic.sandbox import walls
from validation.files.limits import ReadLimits
from validation.files.sandbox import set_worker, sqlite_worker, zip_worker
from validation.query import sql_worker

LIBC = ctypes.CDLL(None, use_errno=True)
SERVER = os.getpid()
COLUMN = int(platform.machine() == "aarch64")
NUMBERS = walls._numbers(walls.DANGEROUS, COLUMN)
ADDRESS = ctypes.create_string_buffer(b"a secret of the server", 64)


def call(function, *arguments):
    """Call a function of C. Raises OSError."""
    if function(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)) == -1:
        raise OSError(ctypes.get_errno(), "")


def syscall(number, *arguments):
    call(LIBC.syscall, number, *arguments)


def read(path, flags=os.O_RDONLY):
    handle = os.open(path, flags)
    if not os.read(handle, 1):
        raise OSError("nothing was read")


def reads_in_folder(folder, name):
    read_at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    os.read(os.open(name, os.O_RDONLY, dir_fd=read_at), 1)


def reads_memory_of_server():
    into = ctypes.create_string_buffer(64)
    local = struct.pack("QQ", ctypes.addressof(into), 64)
    remote = struct.pack("QQ", ctypes.addressof(ADDRESS), 64)
    call(LIBC.process_vm_readv, SERVER, local, 1, remote, 1, 0)


def takes_descriptor_of_server():
    pidfd_open, pidfd_getfd = 434, 438
    handle = LIBC.syscall(pidfd_open, SERVER, 0)
    syscall(pidfd_getfd, handle, 2, 0)


def by_handle(path):
    name_to_handle, found, mount = 303 if not COLUMN else 264, ctypes.create_string_buffer(136), ctypes.c_int()
    struct.pack_into("I", found, 0, 128)
    syscall(name_to_handle, -100, os.fsencode(path), found, ctypes.byref(mount), 0)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    syscall(NUMBERS["open_by_handle_at"], folder, found, 0)


def maps(path, protection):
    with open(path, "rb") as file:
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, protection)


def starts_thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def forks():
    if not os.fork():
        os._exit(0)


def executable_later():
    page = mmap.mmap(-1, 4096)
    call(LIBC.mprotect, ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page))), 4096, 5)


def probes(given, secret):
    """Return what a hostile process might try, by name, in groups."""
    folder, made = os.path.dirname(given), os.path.dirname(given) + "/made"
    reading = {
        "read /etc/passwd": lambda: read("/etc/passwd"),
        "read another file": lambda: read(secret),
        "read through a link in the folder": lambda: read(folder + "/link"),
        "read through ..": lambda: read(folder + "/../secret"),
        "read through /proc/self/root": lambda: read("/proc/self/root" + secret),
        "read through /proc/self/cwd": lambda: read("/proc/self/cwd" + secret),
        "read at an open folder": lambda: reads_in_folder(os.path.dirname(secret), "secret"),
        "read by openat2": lambda: syscall(437, -100, os.fsencode(secret), struct.pack("QQQ", 0, 0, 0), 24),
        "read by handle": lambda: by_handle(secret),
        "map another file": lambda: maps(secret, mmap.PROT_READ),
        "list another folder": lambda: os.listdir(os.path.dirname(secret)),
        "list processes": lambda: os.listdir("/proc"),
        "environment of the server": lambda: read(f"/proc/{SERVER}/environ"),
        "open files of the server": lambda: os.listdir(f"/proc/{SERVER}/fd"),
        "memory of the server, as a file": lambda: os.close(os.open(f"/proc/{SERVER}/mem", os.O_RDONLY)),
        "a device": lambda: read("/dev/zero"),
        "size of another file": lambda: os.stat(secret),
    }
    changing = {
        "create a file": lambda: os.open(made, os.O_CREAT | os.O_WRONLY),
        "create a file without a name": lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR),
        "open to write": lambda: os.open(given, os.O_WRONLY),
        "open to read and write": lambda: os.open(given, os.O_RDWR),
        "open its own descriptor to write": lambda: os.open(
            f"/proc/self/fd/{os.open(given, os.O_RDONLY)}", os.O_WRONLY
        ),
        "truncate": lambda: os.truncate(given, os.stat(given).st_size),
        "open to truncate": lambda: os.open(folder + "/victim", os.O_RDONLY | os.O_TRUNC),
        "remove": lambda: os.unlink(folder + "/victim"),
        "rename": lambda: os.rename(given, given),
        "hard link": lambda: os.link(given, made + "1"),
        "symbolic link": lambda: os.symlink(given, made + "2"),
        "make a folder": lambda: os.mkdir(made + "3"),
        "make a pipe with a name": lambda: os.mkfifo(made + "4"),
        "change the mode": lambda: os.chmod(given, 0o644),
        "change the owner": lambda: os.chown(given, -1, -1),
        "change the times": lambda: os.utime(given),
        "an attribute": lambda: os.setxattr(given, "user.a", b"a"),
        "a file in memory": lambda: os.memfd_create("a"),
        "write to a device": lambda: os.open("/dev/null", os.O_WRONLY),
    }
    others = {
        "fork": forks,
        "execve": lambda: os.execv("/bin/true", ["true"]),
        "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "a thread": starts_thread,
        "trace the server": lambda: call(LIBC.ptrace, 0x4206, SERVER, 0, 0),  # PTRACE_SEIZE: it goes on
        "memory of the server": reads_memory_of_server,
        "a descriptor of the server": takes_descriptor_of_server,
        "a signal to the server": lambda: os.kill(SERVER, 0),
        "limits of the server": lambda: resource.prlimit(SERVER, resource.RLIMIT_CPU),
        "priority of the server": lambda: os.setpriority(os.PRIO_PROCESS, SERVER, 0),
        "a namespace": lambda: call(LIBC.unshare, 0x10000000),
        "another root": lambda: os.chroot("/"),
        "raise its own limits": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)),
        "executable memory": lambda: mmap.mmap(-1, 4096, prot=7),
        "memory made executable": executable_later,
        "a file as program": lambda: maps(given, mmap.PROT_READ | mmap.PROT_EXEC),
        "io_uring": lambda: syscall(NUMBERS["io_uring_setup"], 1, ctypes.create_string_buffer(120)),
        "keys": lambda: syscall(NUMBERS["keyctl"], 0, -3, 1),
        "bpf": lambda: syscall(NUMBERS["bpf"], 0, struct.pack("IIII", 2, 4, 4, 1) + bytes(112), 128),
    }
    network = {
        "connect": lambda: socket.socket().connect(("127.0.0.1", PORT)),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"a", ("127.0.0.1", 9)),
        "a local socket": lambda: socket.socket(socket.AF_UNIX),
        "a pair of sockets": socket.socketpair,
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    }
    return {"reading": reading, "changing": changing, "others": others, "network": network}


def outcome(worker, probe, given, options):
    """Return what comes of one probe in a process of its own."""
    process = os.fork()
    if not process:
        if "--nobody" in options:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        if "--no-landlock" in options:
            walls.restrict_files = lambda *_: 0
        take_over(worker, probe, given)
    signal.alarm(20)  # a probe that hangs ends the test
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return {0: "possible", 3: "refused", -signal.SIGSYS: "killed"}.get(status, f"exit code {status}")


def take_over(worker, probe, given):
    """Run the worker until it would open its file, and the probe there."""

    def attempt(*_):
        try:
            probe()
        except OSError:
            os._exit(3)
        except ValueError as error:  # of resource
            os._exit(3 if "not allowed" in str(error) else 4)
        except RuntimeError:  # of threading
            os._exit(3)
        except BaseException:
            os._exit(5)
        os._exit(0)

    if worker == "none":
        attempt()
    enforce = walls.enforce

    def alone(*paths, **options):
        if len(os.listdir("/proc/self/task")) > 1:
            os._exit(7)  # a thread would be outside the walls
        return enforce(*paths, **options)

    walls.enforce = alone
    sqlite_worker.read = zip_worker.unpack = set_worker.send_runs = sql_worker.answer = attempt
    request = {"path": given, "limits": asdict(ReadLimits())}
    if worker == "sql":
        limits = {"memory": 1 << 30, "database": 1 << 29, "seconds": 20, "rows": 1, "bytes": 1, "cell_bytes": 1}
        request = {"sql": "SELECT 1", "limits": limits, "folders": [os.path.dirname(given)], "views": {}, "tables": []}
    if worker == "set":
        request |= {"path": os.path.dirname(given), "parts": [["part-00000", {}]]}
    first = {**request, "files": [given], "folders": [], "options": {}}
    lines = [first, request] if worker == "sqlite" else [request]
    end, start = os.pipe()
    os.write(start, "".join(json.dumps(line) + "\n" for line in lines).encode())
    os.close(start)
    os.dup2(end, 0)
    os.close(end)
    driver = importlib.util.find_spec("adbc_driver_sqlite").submodule_search_locations[0]
    sys.argv = [*sys.argv[:1], sys.path[0], driver + "/libadbc_driver_sqlite.so"][: 3 if worker == "sqlite" else 1]
    {"sqlite": sqlite_worker, "zip": zip_worker, "set": set_worker, "sql": sql_worker}[worker].main()
    os._exit(6)  # it did not come to the probe


if __name__ == "__main__":
    codecs.lookup("cp437")
    worker, given, secret, *options = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0))
    PORT = listener.getsockname()[1]
    if worker == "sql":
        database = sql_worker.open_database(1 << 29)  # once for all probes
        sql_worker.open_database = lambda _: database

    if worker == "set":
        import pyarrow.parquet  # noqa: F401 - once for all probes

        import validation.files.parquet_set  # noqa: F401
    found = {
        group: {name: outcome(worker, probe, given, options) for name, probe in members.items()}
        for group, members in probes(given, secret).items()
    }
    print(json.dumps(found))
