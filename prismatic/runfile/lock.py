"""The writer's lock: a byte of the run file itself, so all links to the file share it and nobody can delete it.

SQLite locks the bytes from 0x40000000 to 0x400001ff, during a transaction each. Our byte is the next one, and a logger
holds it while it is open. It lies on the page that SQLite keeps empty for locks, so locking it disturbs no reader.

SQLite's locks on Linux and macOS are POSIX locks, which a process loses when it closes *any* descriptor of the file.
So ours is a lock of the open file description (OFD lock), which does not end when somebody else in this process closes
the file. And our own descriptor is closed only while nobody holds one of SQLite's bytes, as such a lock could be lost;
otherwise the descriptor stays open until this process next locks a run file or asks for a lock.
Windows has neither problem: locks there belong to a handle.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Self

SQLITE_BYTES = 0x4000_0000, 0x200
"""The first byte that SQLite locks and their number (os_unix.c, os_win.c: PENDING_BYTE to SHARED_FIRST + 510)."""
WRITER_BYTE = 0x4000_0200, 1

BINARY = getattr(os, "O_BINARY", 0)  # Windows

Inode = tuple[int, int, int]
"""A process, a device, and a file on it."""
_locked: dict[Inode, int] = {}
"""The descriptor of each file that is locked."""
_unclosed: dict[int, Inode] = {}
_guard = threading.Lock()


class IsLocked(OSError):
    """A writer has the file open, in this or another process."""


class WriterLock:
    """The lock of the only writer of a run file.

    As a context manager it is acquired without waiting. Raises IsLocked if there is another writer, and OSError if the
    file cannot be written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._descriptor: int | None = None
        self._inode: Inode = (0, 0, 0)

    def acquire(self, seconds: float = 0.0) -> None:
        """Lock the file, which is created if it is missing, and wait up to `seconds` for another holder."""
        deadline = time.monotonic() + seconds
        while not self._try_to_acquire():
            if time.monotonic() >= deadline:
                raise IsLocked(errno.EAGAIN, "another writer has it open", str(self._path))
            time.sleep(0.01)

    def _try_to_acquire(self) -> bool:
        with _guard:
            _close_unclosed()
            if self._path.exists():
                stat = os.stat(self._path)
                if not S_ISREG(stat.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file", str(self._path))
                if _inode(stat) in _locked:
                    return False
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
            inode = _inode(os.fstat(descriptor))
            try:
                if not _lock_writer_byte(descriptor):
                    return False
                # The file may have been replaced since it was opened: then this is not the lock of the path.
                if not self._path.exists() or _inode(os.stat(self._path)) != inode:
                    _unlock_writer_byte(descriptor)
                    return False
                _locked[inode] = descriptor
                self._descriptor, self._inode = descriptor, inode
                return True
            finally:
                if self._descriptor is None:
                    _close(descriptor, inode)

    def release(self) -> None:
        """Unlock the file. Do nothing if it is not locked, or in a fork of the process that locked it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or self._inode[0] != os.getpid():
            return
        with _guard:
            _locked.pop(self._inode, None)
            _unlock_writer_byte(descriptor)  # explicitly: a fork may keep the open file description
            _close(descriptor, self._inode)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Return whether a writer, in this or another process, has the file open; False if there is no such file.

    True also for a file that this user cannot write: its owner may be writing it.
    """
    with _guard:
        _close_unclosed()
        try:
            inode = _inode(os.stat(path))
            if inode in _locked:
                return True
            descriptor = os.open(path, os.O_RDWR | BINARY)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            if locked := _writer_byte_is_locked(descriptor):
                return locked
            _unlock_writer_byte(descriptor)  # some systems can only ask by locking
            return False
        finally:
            _close(descriptor, inode)


def _close_inherited() -> None:
    """Close the descriptors that a fork has inherited: the lock would last as long as the fork.

    A fork inherits no POSIX lock, so SQLite loses none by this.
    """
    global _guard
    _guard = threading.Lock()  # another thread may have held it
    for descriptor in {*_locked.values(), *_unclosed}:
        with suppress(OSError):
            os.close(descriptor)
    _locked.clear()
    _unclosed.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_inherited)


def _inode(stat: os.stat_result) -> Inode:
    return os.getpid(), stat.st_dev, stat.st_ino


def _close(descriptor: int, inode: Inode) -> None:
    """Close a descriptor, now or later, such that no SQLite connection of this process loses a lock by it."""
    if _may_close(descriptor):
        os.close(descriptor)
        _unclosed.pop(descriptor, None)
    else:
        _unclosed[descriptor] = inode


def _close_unclosed() -> None:
    for descriptor, inode in list(_unclosed.items()):
        _close(descriptor, inode)


if sys.platform == "win32":
    import msvcrt

    def _lock_writer_byte(descriptor: int) -> bool:
        os.lseek(descriptor, WRITER_BYTE[0], os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, WRITER_BYTE[1])
        except PermissionError:
            return False
        return True

    def _unlock_writer_byte(descriptor: int) -> None:
        os.lseek(descriptor, WRITER_BYTE[0], os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, WRITER_BYTE[1])

    def _writer_byte_is_locked(descriptor: int) -> bool:
        return not _lock_writer_byte(descriptor)

    def _may_close(descriptor: int) -> bool:
        return True

else:
    import fcntl

    if sys.platform == "darwin":  # from <sys/fcntl.h>; Python does not name them there
        OFD_SETLK, OFD_GETLK = 90, 92
        # struct flock: l_start, l_len, l_pid, l_type, l_whence
        FLOCK, TYPE = "qqihh", 3

        def _flock(kind: int, start: int, length: int) -> bytes:
            return struct.pack(FLOCK, start, length, 0, kind, os.SEEK_SET)
    else:
        OFD_SETLK, OFD_GETLK = getattr(fcntl, "F_OFD_SETLK", 37), getattr(fcntl, "F_OFD_GETLK", 36)
        # struct flock: l_type, l_whence, l_start, l_len, l_pid
        FLOCK, TYPE = "hhqqi4x", 0

        def _flock(kind: int, start: int, length: int) -> bytes:
            return struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0)

    # Kernels without OFD locks answer so: Linux before 3.15 and sandboxes that imitate it.
    UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

    def _fcntl(descriptor: int, command: int, kind: int, byte_range: tuple[int, int]) -> bytes | None:
        """Return the answer of a lock command; None if another holder prevents it."""
        try:
            answer = fcntl.fcntl(descriptor, command, _flock(kind, *byte_range))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        assert isinstance(answer, bytes)
        return answer

    def _lock_writer_byte(descriptor: int) -> bool:
        try:
            return _fcntl(descriptor, OFD_SETLK, fcntl.F_WRLCK, WRITER_BYTE) is not None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        return _flock_whole_file(descriptor)

    def _unlock_writer_byte(descriptor: int) -> None:
        with suppress(OSError):  # the kernel does not know OFD locks
            _fcntl(descriptor, OFD_SETLK, fcntl.F_UNLCK, WRITER_BYTE)
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _writer_byte_is_locked(descriptor: int) -> bool:
        with suppress(OSError):
            return _somebody_locks(descriptor, OFD_GETLK, WRITER_BYTE)
        return not _flock_whole_file(descriptor)

    def _flock_whole_file(descriptor: int) -> bool:
        """Lock the file by flock(); False if another holder prevents it.

        A POSIX lock of our byte would not do: SQLite unlocks the whole file for its process after each transaction. On
        Linux flock() and POSIX locks ignore each other; elsewhere this would keep SQLite from its own file.
        """
        if sys.platform == "linux":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _may_close(descriptor: int) -> bool:
        """Return whether no SQLite connection has a lock, of this process or, as the kernel does not tell, another."""
        with suppress(OSError):
            return not _somebody_locks(descriptor, OFD_GETLK, SQLITE_BYTES)
        return False  # without OFD locks a process cannot ask for its own locks: the descriptor stays open

    def _somebody_locks(descriptor: int, command: int, byte_range: tuple[int, int]) -> bool:
        answer = _fcntl(descriptor, command, fcntl.F_WRLCK, byte_range)
        return answer is None or struct.unpack(FLOCK, answer)[TYPE] != fcntl.F_UNLCK
