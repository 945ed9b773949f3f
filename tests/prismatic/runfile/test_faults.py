"""Run files under real faults: kill -9, SIGTERM, a failing or full disk, a clock that goes back, forks.

After each fault the file is sound, has no row twice, and holds all acknowledged rows: those whose `log()` returned more
than flush_seconds before.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from prismatic.errors import LoggerError
from prismatic.runfile.logger import DynamicsLogger

# `make faults` sets 200 and 1000; a normal test run takes a few of them.
KILLS = int(os.environ.get("PRISMATIC_KILLS", "8"))
DISK_FAULTS = int(os.environ.get("PRISMATIC_DISK_FAULTS", "60"))
ROOT = Path(__file__).parents[3]
FLUSH_SECONDS = 0.1
SLACK = 0.15  # seconds that a commit may take on a busy machine, in addition to flush_seconds
STEP = {"expert_gradients": {f"expert_{i}": {"top_norm": 1.0, "bottom_norm": 0.5} for i in range(3)}}
PROGRAM = """
import json, signal, sys, time
from prismatic.runfile.logger import DynamicsLogger
path, options, step_seconds, first = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
layers = [{"layer": i, "expert": e, "source": "merged", "norm": 1.0} for i in range(2) for e in range(3)]
groups = {f"expert_{i}": {"top_norm": 1.0, "bottom_norm": 0.5} for i in range(3)}
logger = DynamicsLogger(path, **options)
for step in range(first, first + 100_000):
    logger.log(step, {"expert_gradients": groups, "layers": layers}, loss=float(step))
    print(step, time.monotonic(), flush=True)
    time.sleep(step_seconds)
"""


def rows(path: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


class Writing:
    """A process that logs a step each millisecond and prints it after `log()` returned."""

    def __init__(self, path: Path, *, first: int = 0, **options):
        options = {"flush_seconds": FLUSH_SECONDS, **options}
        arguments = [sys.executable, "-c", PROGRAM, str(path), json.dumps(options), "0.001", str(first)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self._lines: list[str] = []

    def wait_for(self, steps: int) -> None:
        self._lines += [self._process.stdout.readline() for _ in range(steps)]

    def end(self, signum: signal.Signals) -> tuple[dict[int, float], float]:
        """Send a signal; return the time at which each step was logged, and the time of the signal."""
        sent = time.monotonic()
        self._process.send_signal(signum)
        with self._process.stdout as rest:
            self._lines += rest
        assert self._process.wait(60) == -signum
        printed = [line.split() for line in self._lines if line.endswith("\n")]
        return {int(step): float(at) for step, at in printed}, sent


def assert_sound(path: Path) -> list[int]:
    """Check that the file is sound and has each step once, with all its rows; return the steps."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    steps = [step for (step,) in rows(path, "SELECT step FROM dynamics ORDER BY step")]
    assert len(steps) == len(set(steps))
    assert all(loss == step for step, loss in rows(path, "SELECT step, loss FROM dynamics"))
    parts = rows(
        path, "SELECT step, count(*), count(DISTINCT layer * 10 + expert) FROM layers GROUP BY step ORDER BY 1"
    )
    assert parts == [(step, 6, 6) for step in steps]
    return steps


@pytest.mark.parametrize("seed", range(KILLS))
def test_kill_9_loses_no_row_that_was_acknowledged(tmp_path: Path, seed: int):
    path, chance = tmp_path / "dynamics.db", random.Random(seed)
    process = Writing(path, journal_mode=chance.choice(["delete", "wal"]))
    process.wait_for(1)
    time.sleep(chance.uniform(0, 0.6))
    logged, killed = process.end(signal.SIGKILL)
    steps = assert_sound(path)
    acknowledged = {step for step, at in logged.items() if at < killed - FLUSH_SECONDS - SLACK}
    assert acknowledged <= set(steps)
    assert steps == list(range(len(steps)))
    # A later process continues the same file, from an earlier step like that of a checkpoint.
    process = Writing(path, first=len(steps) // 2)
    process.wait_for(20)
    again, _ = process.end(signal.SIGTERM)
    assert assert_sound(path)[: max(again) + 1] == list(range(max(again) + 1))


@pytest.fixture(scope="session")
def faulty_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled library of faults; skip where it cannot be compiled or preloaded."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("faults are injected by LD_PRELOAD, on Linux with a C compiler")
    library = tmp_path_factory.mktemp("faulty_io") / "faulty_io.so"
    source = ROOT / "tests" / "support" / "faulty_io.c"
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], capture_output=True)
    if built.returncode:
        pytest.skip(f"{compiler} cannot compile faulty_io.c: {built.stderr.decode()[:200]}")
    return library


@pytest.mark.parametrize("kind", ["faults", "kills"])
def test_a_failing_disk_and_a_kill_at_any_write_lose_no_acknowledged_row(tmp_path: Path, faulty_io: Path, kind: str):
    counts = [str(DISK_FAULTS if kind == name else 0) for name in ("faults", "kills")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.faulty_disk", str(tmp_path), "0", *counts],
        env=os.environ | {"LD_PRELOAD": str(faulty_io)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + DISK_FAULTS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"faults": 0, "kills": 0, "wrong": []} | {kind: DISK_FAULTS}


def test_sigterm_writes_everything_and_ends_the_process_as_it_would_have(tmp_path: Path):
    process = Writing(tmp_path / "dynamics.db", flush_seconds=1e9)
    process.wait_for(50)
    logged, _ = process.end(signal.SIGTERM)
    steps = assert_sound(tmp_path / "dynamics.db")
    assert len(logged) >= 50
    assert steps[: len(logged)] == list(logged)
    assert rows(tmp_path / "dynamics.db", "SELECT code FROM events") == [("signal",)]


FULL_DISK = """
import resource, sys, time, warnings
from prismatic.runfile.logger import DynamicsLogger
import prismatic.runfile.writer
warnings.simplefilter("ignore")
prismatic.runfile.writer.MAX_WAITING = 20_000
groups = {f"expert_{i}": {f"m{chr(97 + k)}": 1.0 / 3 for k in range(10)} for i in range(3)}
logger = DynamicsLogger(sys.argv[1], flush_seconds=0.02)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
slowest = 0.0
for step in range(3000):
    begun = time.perf_counter()
    logger.log(step, {"expert_gradients": groups})
    slowest = max(slowest, time.perf_counter() - begun)
    time.sleep(0.0002)
assert logger.flush() is False
full = logger.dropped
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for step in range(3000, 3010):
    assert logger.flush()
    logger.log(step, {"expert_gradients": groups})
logger.close()
print(full, logger.dropped, slowest)
"""


def test_a_full_disk_delays_and_drops_rows_counts_them_and_stops_nothing(tmp_path: Path):
    path = tmp_path / "dynamics.db"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    full, dropped, _ = (float(word) for word in done.stdout.split())
    assert full == dropped > 1000
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    steps = [step for (step,) in rows(path, "SELECT step FROM dynamics ORDER BY step")]
    assert len(steps) + dropped == 3010
    assert steps[-10:] == list(range(3000, 3010))
    last = rows(path, "SELECT message FROM events WHERE code = 'dropped' ORDER BY id")[-1][0]
    assert last.startswith(f"{dropped:.0f} logged steps were dropped")


def test_a_clock_that_goes_back_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = iter(range(10_000, 0, -1))
    monkeypatch.setattr("prismatic.runfile.records.time.time", lambda: float(next(now)))
    with DynamicsLogger(tmp_path / "dynamics.db", flush_seconds=0.01) as logger:
        for step in range(100):
            logger.log(step, STEP)
            time.sleep(0.001)
    seen = rows(tmp_path / "dynamics.db", "SELECT step, wall_time FROM dynamics ORDER BY step")
    assert [step for step, _ in seen] == list(range(100))
    assert all(later < earlier for (_, earlier), (_, later) in pairwise(seen))


def test_a_directory_that_cannot_be_written_is_refused_by_name():
    # Root may write anywhere, so the logger is opened as user nobody, who may enter the folder but not write to it.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        program = f"""if True:
            import os
            from prismatic.runfile.logger import DynamicsLogger
            if os.getuid() == 0:
                os.setuid(65534)
            DynamicsLogger({folder + "/dynamics.db"!r})"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert "LoggerError" in done.stderr
        assert "dynamics.db: cannot be opened as a run file" in done.stderr
        assert list(Path(folder).iterdir()) == []
        os.chmod(folder, 0o755)


def test_a_place_where_no_file_can_be_created_is_refused_by_name():
    with pytest.raises(LoggerError, match=r"/proc/prismatic/dynamics\.db: cannot be opened as a run file"):
        DynamicsLogger("/proc/prismatic/dynamics.db")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_a_forked_process_cannot_write_and_leaves_the_file_to_its_parent(tmp_path: Path):
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        logger.log(0, STEP)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with pytest.warns(RuntimeWarning, match="it belongs to another process"):
                    logger.log(1, STEP)
                logger.close()
                code = int(logger.dropped != 1)
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        logger.log(2, STEP)
    assert rows(tmp_path / "dynamics.db", "SELECT step FROM dynamics") == [(0,), (2,)]


CLOSING = """
import signal, sqlite3, sys, threading, time
from prismatic.runfile.logger import DynamicsLogger
path, how = sys.argv[1:]
logger = DynamicsLogger(path, flush_seconds=1e9)
reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
reader.execute("BEGIN EXCLUSIVE")
for step in range(100):
    logger.log(step, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
threading.Timer(1.0, reader.close).start()
threading.Timer(0.4, signal.raise_signal, (getattr(signal, how),)).start()
try:
    logger.close()
except KeyboardInterrupt:
    logger.close()
    assert logger.dropped == 0
"""


@pytest.mark.parametrize(("how", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 0)])
def test_a_signal_while_the_file_is_closed_loses_nothing(tmp_path: Path, how: str, code: int):
    path = tmp_path / "dynamics.db"
    done = subprocess.run([sys.executable, "-c", CLOSING, str(path), how], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert len(rows(path, "SELECT step FROM dynamics")) == 100


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_that_does_not_close_its_logger_loses_nothing(tmp_path: Path, method: str):
    path = tmp_path / "dynamics.db"
    program = f"""if True:
        import multiprocessing
        from prismatic.runfile.logger import DynamicsLogger
        from tests.prismatic.runfile.test_faults import log_ten_steps
        if __name__ == "__main__":
            worker = multiprocessing.get_context({method!r}).Process(target=log_ten_steps, args=({str(path)!r},))
            worker.start()
            worker.join()"""
    script = tmp_path / "script.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, str(script)], check=True, timeout=60, env=environment)
    assert len(rows(path, "SELECT step FROM dynamics")) == 10


def log_ten_steps(path: str) -> None:
    logger = DynamicsLogger(path, flush_seconds=1e9)
    for step in range(10):
        logger.log(step, STEP)
