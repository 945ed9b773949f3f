"""The worker of storage.py: runs one writer of metrics; reads commands and answers as JSON lines.

    PYTHON storage_peers.py NAME ROOT

It runs in the writer's own virtual environment, so the module imports only the standard library, and each class imports
its writer's package. All writers run the same loops; a class defines how to log a record and how to count its files.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import statistics
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

METRICS = (
    *("top_norm", "bottom_norm", "middle_norm", "perturbed_norm", "routing_weight"),
    *("bottom_to_middle", "divergence", "relative_divergence", "direction", "gradient_cosine"),
)
POOL = 50  # records made beforehand and logged in turn: making one costs more than logging it
FLUSH_EVERY = 500_000  # values; our logger holds a limited number and drops further ones, so that training never waits
MAX_SECONDS = 60.0  # a worker that is not killed ends after this time
Record = dict[str, float]


def scalar_names(width: int) -> list[str]:
    """Return expert_0_top_norm, expert_0_bottom_norm, ..., loss: names of a run of this project."""
    return [f"expert_{i // len(METRICS)}_{METRICS[i % len(METRICS)]}" for i in range(width - 1)] + ["loss"]


def make_records(width: int) -> list[Record]:
    """Return records of doubles with all digits, like norms: rounder ones would favour a writer that stores text."""
    draw = random.Random(width)
    return [{name: draw.lognormvariate(-3, 2) for name in scalar_names(width)} for _ in range(POOL)]


class Writer:
    """The interface of a writer. `held` reads a run's files and returns the number of values of each step."""

    package: ClassVar[str] = ""
    width = 1  # scalars of a record
    settles: ClassVar[float] = 0.0  # seconds after close() in which its files may still be completed

    def __init__(self, root: Path, run: str, width: int) -> None:
        raise NotImplementedError

    def prepare(self, record: Record) -> Any:
        """Return the record as a training loop would pass it to this writer; not timed."""
        return record

    def log(self, step: int, record: Any) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Wait for the writer; only ours limits its memory and needs this."""

    def close(self) -> None:
        raise NotImplementedError

    @staticmethod
    def held(root: Path, run: str, width: int) -> Counter[int]:
        raise NotImplementedError


class Ours(Writer):
    """DynamicsLogger, by its public interface."""

    def __init__(self, root: Path, run: str, width: int) -> None:
        sys.path.insert(0, str(Path(__file__).parent.parent))
        from prismatic import DynamicsLogger

        self.logger = DynamicsLogger(root / f"{run}.db")

    def prepare(self, record: Record) -> tuple[dict[str, Any], Record]:
        experts: dict[str, Record] = {}
        for name, value in record.items():
            if name != "loss":
                word, number, metric = name.split("_", 2)
                # log_gradient_dynamics gives each step the same string objects.
                experts.setdefault(f"{word}_{number}", {})[sys.intern(metric)] = value
        return {"expert_gradients": experts}, {"loss": record["loss"]}

    def log(self, step: int, record: tuple[dict[str, Any], Record]) -> None:
        dynamics, metrics = record
        self.logger.log(step, dynamics, **metrics)

    def flush(self) -> None:
        self.logger.flush()

    def close(self) -> None:
        self.logger.close()
        if self.logger.dropped:
            raise RuntimeError(f"the logger dropped {self.logger.dropped}")

    @staticmethod
    def held(root: Path, run: str, width: int) -> Counter[int]:
        """Count the values of the wide table and of the table with the columns step, name and value."""
        with closing(sqlite3.connect(root / f"{run}.db")) as file:
            values = wide_values(file, "dynamics", width)
            for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                columns = [row[0] for row in file.execute("SELECT name FROM pragma_table_info(?)", (table,))]
                if columns == ["step", "name", "value"]:
                    values.update(dict(file.execute(f"SELECT step, count(value) FROM {table} GROUP BY step")))
        return values


class PlainPerRow(Writer):
    """sqlite3 without any pragma and a commit per row: a wide table, or several beyond SQLite's 2,000 columns."""

    batch = 1

    def __init__(self, root: Path, run: str, width: int) -> None:
        names = scalar_names(width)
        chunks = [names[i : i + 1_000] for i in range(0, width, 1_000)]
        self.file = sqlite3.connect(root / f"{run}.db")
        self.inserts = []
        for i, chunk in enumerate(chunks):
            columns = ", ".join(f"{name} REAL" for name in chunk)
            self.file.execute(f"CREATE TABLE part_{i} (step INTEGER PRIMARY KEY, {columns})")
            self.inserts.append(
                (f"INSERT INTO part_{i} VALUES ({', '.join('?' * (len(chunk) + 1))})", i * 1_000, (i + 1) * 1_000)
            )
        self.waiting = 0

    def log(self, step: int, record: Record) -> None:
        values = tuple(record.values())
        for insert, start, stop in self.inserts:
            self.file.execute(insert, (step, *values[start:stop]))
        self.waiting += 1
        if self.waiting == self.batch:
            self.file.commit()
            self.waiting = 0

    def close(self) -> None:
        self.file.commit()
        self.file.close()

    @staticmethod
    def held(root: Path, run: str, width: int) -> Counter[int]:
        values: Counter[int] = Counter()
        with closing(sqlite3.connect(root / f"{run}.db")) as file:
            for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                values.update(wide_values(file, table, width))
        return values


class PlainPer100(PlainPerRow):
    """The same with a commit per 100 rows, as a careful person writes it by hand."""

    batch = 100


class TensorBoard(Writer):
    """SummaryWriter with its defaults, a call per value, which it needs to store each value under its own name."""

    package = "tensorboard"

    def __init__(self, root: Path, run: str, width: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(root / run))

    def log(self, step: int, record: Record) -> None:
        for name, value in record.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()

    @staticmethod
    def held(root: Path, run: str, width: int) -> Counter[int]:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event

        values: Counter[int] = Counter()
        for path in (root / run).glob("events.*"):
            for data in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(data)
                values[event.step] += len(event.summary.value)
        return values


class MLflow(Writer):
    """log_metrics, a call per record, to a SQLite store; an experiment per run, because a new store takes seconds."""

    package = "mlflow"

    def __init__(self, root: Path, run: str, width: int) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
        experiment = mlflow.create_experiment(run, artifact_location=str(root / "artifacts"))
        mlflow.start_run(experiment_id=experiment, log_system_metrics=False)

    def log(self, step: int, record: Record) -> None:
        self.mlflow.log_metrics(record, step=step)

    def close(self) -> None:
        self.mlflow.end_run()

    @staticmethod
    def held(root: Path, run: str, width: int) -> Counter[int]:
        question = """SELECT step, count(*) FROM metrics JOIN runs USING (run_uuid)
                      JOIN experiments USING (experiment_id) WHERE experiments.name = ? GROUP BY step"""
        with closing(sqlite3.connect(root / "mlflow.db")) as file:
            return Counter(dict(file.execute(question, (run,))))


class Trackio(Writer):
    """Local storage, without statistics of the machine, which no other writer logs."""

    package = "trackio"

    def __init__(self, root: Path, run: str, width: int) -> None:
        os.environ["TRACKIO_DIR"] = str(root)  # trackio reads it at import
        import trackio

        self.run = trackio.init(project=run, name=run, embed=False, auto_log_cpu=False, auto_log_gpu=False)

    def log(self, step: int, record: Record) -> None:
        self.run.log(record, step=step)

    def close(self) -> None:
        self.run.finish()

    @staticmethod
    def held(root: Path, run: str, width: int) -> Counter[int]:
        with closing(sqlite3.connect(root / f"{run}.db")) as file:
            rows = file.execute("SELECT step, metrics FROM metrics")
            return Counter({step: len(json.loads(metrics)) for step, metrics in rows})


class Wandb(Writer):
    """Offline, without the statistics of the machine and the output of the console."""

    package = "wandb"
    settles = 2.0  # its other process may write the end of the file some milliseconds after finish() returned

    def __init__(self, root: Path, run: str, width: int) -> None:
        import wandb

        (root / run).mkdir()
        quiet = wandb.Settings(console="off", x_disable_stats=True, disable_git=True)
        self.run = wandb.init(project="storage", dir=str(root / run), mode="offline", settings=quiet)

    def log(self, step: int, record: Record) -> None:
        self.run.log(record, step=step)

    def close(self) -> None:
        self.run.finish()

    @staticmethod
    def held(root: Path, run: str, width: int) -> Counter[int]:
        from wandb.proto.wandb_internal_pb2 import Record as Message

        wanted, values = set(scalar_names(width)), Counter[int]()
        for path in (root / run).glob("wandb/offline-run-*/*.wandb"):
            for data in leveldb_records(path.read_bytes()):
                row = Message.FromString(data).history
                items = {item.key or ".".join(item.nested_key): item.value_json for item in row.item}
                if items:
                    values[int(items["_step"])] += len(items.keys() & wanted)
        return values


def wide_values(file: sqlite3.Connection, table: str, width: int) -> Counter[int]:
    """Return the number of logged scalars of each step in a wide table."""
    rows = file.execute(f"SELECT * FROM {table}")
    columns, wanted = [column[0] for column in rows.description], set(scalar_names(width))
    step, indices = columns.index("step"), [i for i, name in enumerate(columns) if name in wanted]
    return Counter({row[step]: sum(row[i] is not None for i in indices) for row in rows})


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format after a header of 7 bytes; skip an incomplete end."""
    at, block, record = 7, 32_768, b""
    while at + 7 <= len(data):
        left = block - at % block
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4) and at <= len(data):  # a complete record, or the last part of one
            yield record
            record = b""


WRITERS: dict[str, type[Writer]] = {
    "ours": Ours,
    "sqlite3, per row": PlainPerRow,
    "sqlite3, per 100": PlainPer100,
    "TensorBoard": TensorBoard,
    "MLflow": MLflow,
    "trackio": Trackio,
    "wandb offline": Wandb,
}


class Bench:
    """The loops, the same for all writers; each public method is a command of storage.py."""

    def __init__(self, name: str, root: Path) -> None:
        self.writer_class, self.root = WRITERS[name], root

    def about(self) -> dict[str, Any]:
        """Return the version of the writer."""
        package = self.writer_class.package
        return {"version": version(package) if package else f"SQLite {sqlite3.sqlite_version}"}

    def paced(self, run: str, width: int, every: float, records: int, seconds: float) -> dict[str, Any]:
        """Measure the time per call with a record each `every` seconds, as far as the writer keeps up."""
        writer, pool = self._begin(run, width)
        calls: list[int] = []
        late, begun = 0, time.perf_counter()
        while len(calls) < records and time.perf_counter() - begun < seconds:
            wait = begun + len(calls) * every - time.perf_counter()
            late += wait < -every
            time.sleep(max(wait, 0))
            calls.append(timed_call(writer, len(calls) + 1, pool))
        writer.close()
        self._verify(run, width, len(calls))
        return {**percentiles(calls, "paced"), "paced_calls": len(calls), "late": late / len(calls)}

    def tight(self, run: str, width: int, records: int, seconds: float) -> dict[str, Any]:
        """Log as fast as possible, then close; return the values per second of both together."""
        writer, pool = self._begin(run, width)
        calls: list[int] = []
        size, begun = tree_size(self.root), time.perf_counter()
        while len(calls) < records and time.perf_counter() - begun < seconds:
            calls.append(timed_call(writer, len(calls) + 1, pool))
        logged = time.perf_counter()
        writer.close()
        closed = time.perf_counter()
        self._verify(run, width, len(calls))
        values = len(calls) * width
        return {
            **percentiles(calls, "tight"),
            "metrics_per_second": values / (closed - begun),
            "records": len(calls),
            "log_seconds": logged - begun,
            "close_seconds": closed - logged,
            # Only the growth: MLflow's empty store is larger than the few records that it gets here.
            "bytes_per_metric": (tree_size(self.root) - size) / values,
        }

    def until_killed(self, run: str, width: int, every: float) -> dict[str, Any]:
        """Log a record each `every` seconds and report each, with the time at which the call returned."""
        writer, pool = self._begin(run, width)
        begun, step = time.monotonic(), 0
        while time.monotonic() - begun < MAX_SECONDS:
            time.sleep(max(begun + step * every - time.monotonic(), 0))
            step += 1
            timed_call(writer, step, pool)
            reply({"step": step, "at": time.monotonic()})
        writer.close()
        return {}

    def held(self, run: str, width: int) -> dict[str, Any]:
        """Return the steps of which the files hold all values."""
        values = self.writer_class.held(self.root, run, width)
        return {"held": [step for step, count in values.items() if count == width]}

    def _begin(self, run: str, width: int) -> tuple[Writer, list[Any]]:
        """Return an open writer with one record, step 0, so that the loops do not measure the creation of its files."""
        writer = self.writer_class(self.root, run, width)
        writer.width = width
        pool = [writer.prepare(record) for record in make_records(width)]
        writer.log(0, pool[0])
        writer.flush()
        return writer, pool

    def _verify(self, run: str, width: int, logged: int) -> None:
        """Raise RuntimeError if records are missing: the speed of a writer that drops records means nothing."""
        until, wanted = time.monotonic() + self.writer_class.settles, set(range(logged + 1))
        while (missing := len(wanted.difference(self.held(run, width)["held"]))) and time.monotonic() < until:
            time.sleep(0.1)
        if missing:
            raise RuntimeError(f"{missing} of {logged + 1} records are incomplete in the file after close()")


def timed_call(writer: Writer, step: int, pool: list[Any]) -> int:
    """Return the nanoseconds of one log(), without the flush that limited memory requires in a tight loop."""
    record = pool[step % POOL]
    before = time.perf_counter_ns()
    writer.log(step, record)
    nanoseconds = time.perf_counter_ns() - before
    if step % (FLUSH_EVERY // writer.width) == 0:
        writer.flush()
    return nanoseconds


def percentiles(nanoseconds: list[int], loop: str) -> dict[str, float]:
    """Return the median and the 99th percentile in microseconds; the latter of fewer than 100 calls is the longest."""
    last = min(len(nanoseconds) - 1, int(0.99 * len(nanoseconds)))
    return {f"{loop}_p50": statistics.median(nanoseconds) / 1e3, f"{loop}_p99": sorted(nanoseconds)[last] / 1e3}


def tree_size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def reply(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=sys.__stdout__, flush=True)


def main() -> None:
    """Answer each command with one line: its result or its error."""
    sys.stdout = sys.stderr  # the output of a peer must not mix with the answers
    bench = Bench(sys.argv[1], Path(sys.argv[2]))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply({"answer": getattr(bench, command.pop("do"))(**command)})
        except Exception as error:  # any fault of a peer skips it and does not stop the benchmark
            reply({"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]})


if __name__ == "__main__":
    main()
