"""The writer's lock: one writer by any name of the file, and SQLite's own locks stay as they are."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from prismatic.errors import LoggerError
from prismatic.runfile import lock
from prismatic.runfile.lock import IsLocked, WriterLock, is_locked
from prismatic.runfile.logger import DynamicsLogger
from tests.support.logged_runs import dynamics, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dynamics.db"


@pytest.fixture(params=["with OFD locks", "without"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test also as on a kernel without such locks; return the statement that makes another process do so."""
    if request.param == "without" and os.name == "posix":
        monkeypatch.setattr(lock, "OFD_SETLK", 9999)
        monkeypatch.setattr(lock, "OFD_GETLK", 9999)
        return "lock.OFD_SETLK = lock.OFD_GETLK = 9999"
    return ""


def in_another_process(statement: str, kernel: str = "") -> str:
    """Run a statement in another process; return the last line of what it printed."""
    program = f"""if True:
        import sqlite3
        from pathlib import Path
        from prismatic.runfile import lock
        from prismatic.runfile.logger import DynamicsLogger
        {kernel}
        {statement}"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return (done.stdout + done.stderr).strip().rpartition("\n")[2]


@contextmanager
def held_in_another_process(path: Path, kernel: str):
    program = f"""if True:
        import sys
        from prismatic.runfile import lock
        {kernel}
        from prismatic.runfile.logger import DynamicsLogger
        logger = DynamicsLogger({str(path)!r})
        print(flush=True)
        sys.stdin.read()"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1) as process:
        process.stdout.readline()
        yield process


def by_symlink(path: Path) -> Path:
    other = path.with_name("other.db")
    other.symlink_to(path)
    return other


def by_hard_link(path: Path) -> Path:
    folder = path.parent / "elsewhere"
    folder.mkdir()
    os.link(path, folder / "other.db")
    return folder / "other.db"


def by_another_spelling(path: Path) -> Path:
    return path.parent / ".." / path.parent.name / path.name


@pytest.mark.parametrize("other", [by_symlink, by_hard_link, by_another_spelling], ids=lambda f: f.__name__)
def test_another_name_of_the_file_admits_no_second_writer(path: Path, other, kernel: str):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics())
        logger.flush()
        name = other(path)
        with pytest.raises(LoggerError, match="another DynamicsLogger is writing"):
            DynamicsLogger(name)
        assert "another DynamicsLogger is writing" in in_another_process(f"DynamicsLogger({str(name)!r})", kernel)
        assert [is_locked(path), is_locked(name)] == [True, True]
    assert not is_locked(path)
    DynamicsLogger(name).close()


def test_no_file_lies_beside_a_run_that_could_be_deleted(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics())
        logger.flush()
        assert [file.name for file in path.parent.iterdir()] == ["dynamics.db"]


def test_a_lock_of_another_process_is_seen_and_ends_with_it(path: Path, kernel: str):
    with held_in_another_process(path, kernel) as process:
        assert is_locked(path)
        with pytest.raises(LoggerError, match="another DynamicsLogger is writing"):
            DynamicsLogger(path)
        process.kill()
        process.wait()
        assert not is_locked(path)
        DynamicsLogger(path).close()


def test_closing_the_file_elsewhere_in_the_process_does_not_end_the_lock(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics())
        logger.flush()
        path.read_bytes()
        rows(path)
        with pytest.raises(LoggerError):
            DynamicsLogger(path)
        assert in_another_process(f"print(lock.is_locked(Path({str(path)!r})))") == "True"


@pytest.mark.long
@pytest.mark.parametrize("event", ["logger closed", "second logger refused", "asked whether it is locked"])
def test_a_transaction_of_this_process_keeps_its_lock(path: Path, event: str, kernel: str):
    logger = DynamicsLogger(path)
    logger.log(0, dynamics())
    logger.flush()
    if event != "logger closed":
        logger.close()
    write = f'sqlite3.connect({str(path)!r}, timeout=0).execute("BEGIN EXCLUSIVE"); print("written")'
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM dynamics").fetchone() == (1,)
        if event == "logger closed":
            logger.close()
        elif event == "second logger refused":
            with held_in_another_process(path, kernel), pytest.raises(LoggerError):
                DynamicsLogger(path)
        else:
            is_locked(path)
        assert "locked" in in_another_process(write)
        reader.execute("COMMIT")
        assert in_another_process(write) == "written"
    DynamicsLogger(path).close()


@pytest.mark.long
def test_descriptors_are_closed_as_soon_as_no_transaction_needs_them(path: Path):
    is_locked(path)  # closes what earlier tests left open
    before = len(os.listdir("/dev/fd"))
    logger = DynamicsLogger(path)
    logger.log(0, dynamics())
    logger.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM dynamics").fetchone()
        logger.close()
    for _ in range(50):
        DynamicsLogger(path).close()
        is_locked(path)
    assert len(os.listdir("/dev/fd")) == before


def test_a_writer_does_not_disturb_readers_and_readers_not_the_lock(path: Path):
    with DynamicsLogger(path, flush_seconds=0) as logger:
        for step in range(20):
            logger.log(step, dynamics())
            logger.flush()
            with closing(sqlite3.connect(path, timeout=0)) as reader:
                assert reader.execute("SELECT count(*) FROM dynamics").fetchone() == (step + 1,)
        assert is_locked(path)


def test_a_file_that_was_replaced_while_it_was_opened_is_not_locked_by_the_old_one(path: Path, monkeypatch):
    path.touch()
    real = lock._lock_writer_byte

    def replace_then_lock(descriptor: int) -> bool:
        path.unlink()
        path.touch()
        monkeypatch.setattr(lock, "_lock_writer_byte", real)
        return real(descriptor)

    monkeypatch.setattr(lock, "_lock_writer_byte", replace_then_lock)
    writer = WriterLock(path)
    with pytest.raises(IsLocked):
        writer.acquire(0)
    writer.acquire(0)
    assert is_locked(path)
    writer.release()


def test_a_pipe_is_refused_by_name(path: Path):
    os.mkfifo(path)
    with pytest.raises(LoggerError, match=r"dynamics\.db: cannot be opened as a run file .*not a regular file"):
        DynamicsLogger(path)
    assert not is_locked(path.with_name("missing.db"))


FORKING = """
import os, signal, sys
from prismatic import DynamicsLogger
logger = DynamicsLogger(sys.argv[1])
logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
logger.flush()
if os.fork() == 0:
    os.write(1, b"forked")
    os.close(1)
    os.read(0, 1)  # until the test ends it
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_fork_does_not_keep_the_lock_of_a_process_that_was_killed(path: Path):
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read() == b"forked"
        assert process.wait(10) == -signal.SIGKILL
        assert not is_locked(path)
        with DynamicsLogger(path, resume="must") as logger:
            logger.log(1, dynamics())
    assert [row["step"] for row in rows(path)] == [0, 1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_a_fork_does_not_keep_the_lock_of_a_logger_that_was_closed(path: Path):
    logger = DynamicsLogger(path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        logger.close()
        assert not is_locked(path)
        with DynamicsLogger(path) as logger:
            logger.log(0, dynamics())
    finally:
        os.close(writing)
        os.waitpid(child, 0)
    assert len(rows(path)) == 1
