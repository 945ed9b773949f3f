"""The worker of reading.py: one reader of runs answers its questions once, in a fresh process.

    PYTHON reading_peers.py '{"reader": NAME, "do": "questions", "folder": FOLDER, ...}'

It runs in the reader's own virtual environment: the top of the file imports only the standard library, each class the
rest. It prints two lines of JSON, the figures and then the answers; between them reading.py stops sampling the memory.
A peer's set-up (its import, a client) is not timed, and neither are the sums of charts that are compared.
"""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

POINTS = 2_000  # per series of a chart: two for each bucket
TIERS = ("top_norm", "bottom_norm", "middle_norm")
SERIES = {  # the series that the app draws, by column of the wide table: expert and metric
    **{f"expert_{e}_{metric}": (e, metric) for e in (0, 1) for metric in (*TIERS, "routing_weight")},
    "expert_0_clean_norm": (0, "norm"),
    "expert_1_perturbed_norm": (1, "norm"),
    **{f"expert_1_{metric}": (1, metric) for metric in ("divergence", "relative_divergence", "direction")},
}
TIER_COLUMNS = [f"expert_{e}_{tier}" for e in (0, 1) for tier in TIERS]
MEDIANS = "SELECT run, expert, median(top_norm), median(bottom_norm), median(middle_norm) FROM dynamics GROUP BY ALL"
Medians = dict[str, list[float]]  # of the tiers, by "run/expert"
Series = Iterator[tuple[str, Any, Any]]  # name, steps and values as arrays


class Reader:
    """A reader of runs. `open` reads as much as it needs before any question."""

    package: ClassVar[str] = ""

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self.folder = folder

    def open(self) -> None:
        """Read nothing, for readers that leave the values in their files."""

    def medians(self) -> Medians:
        raise NotImplementedError

    def chart(self, run: str) -> Any:
        """Return one run downsampled as `frames.downsample.chart_series` does it, in this reader's own form."""
        raise NotImplementedError

    def series(self, chart: Any) -> Series:
        """Yield the series of a chart; not timed."""
        raise NotImplementedError

    def verdict(self) -> Callable[[], str]:
        """Return a function that reads and judges all runs; only this project has one."""
        raise NotImplementedError

    def write(self, source: Path) -> None:
        """Log the run of a run file in this tracker; not timed."""
        raise NotImplementedError


class Ours(Reader):
    """This project, by the functions that its pages and commands call; warm with a cache folder."""

    package = "duckdb"

    def __init__(self, folder: Path, cache: Path | None) -> None:
        super().__init__(folder, cache)
        sys.path.insert(0, str(Path(__file__).parent.parent))
        import pandas  # noqa: F401 - a query with parameters imports it, and every page has done so before

        from validation.files.cache import Cache
        from validation.files.sources import read_sources
        from validation.frames.downsample import chart_series
        from validation.query.database import connect

        self.cache = Cache(cache) if cache else None
        self.read, self.connect = read_sources, connect
        self.chart_series = chart_series

    def _runs(self) -> Any:
        runs, rejected = self.read([self.folder], cache=self.cache)
        if rejected:
            raise rejected[0].error
        return runs

    def open(self) -> None:
        found = self._runs()
        self.runs = {run.id: run for run in found}
        self.con = self.connect(found)

    def medians(self) -> Medians:
        found = self.con.sql(MEDIANS).to_arrow_table()
        return {f"{run}/{expert}": tiers for run, expert, *tiers in zip(*found.to_pydict().values(), strict=True)}

    def chart(self, run: str) -> Any:
        return self.chart_series(self.runs[run], POINTS)

    def series(self, chart: Any) -> Series:
        chart = chart.drop_null()  # expert 0 has no divergence from itself
        experts, metrics = chart["expert"].to_numpy(), chart["metric"].to_numpy()
        steps, values = chart["step"].to_numpy(), chart["value"].to_numpy()
        for expert, metric in SERIES.values():
            own = (experts == expert) & (metrics == metric)
            yield f"{expert}/{metric}", steps[own], values[own]

    def verdict(self) -> Callable[[], str]:
        from validation.judgement.judge import judge  # here: it imports SciPy, which nothing else needs

        return lambda: str(judge(self._runs()).verdict.status)


class OursSet(Ours):
    """This project on a set, queried in its files: only for medians, because its views have no cursors."""

    def open(self) -> None:
        from validation.query.database import open_database
        from validation.query.set_database import relations_of_sets

        self.con = open_database(relations_of_sets([self.folder]))


class Scanner(Reader):
    """DuckDB's own reader of SQLite, into one wide table: the usual way with DuckDB, without any check."""

    package = "duckdb"

    def __init__(self, folder: Path, cache: Path | None) -> None:
        super().__init__(folder, cache)
        import duckdb

        self.con = duckdb.connect()
        self._prepare()

    def _prepare(self) -> None:
        import duckdb_extension_sqlite_scanner as wheel

        self.con.execute(f"LOAD '{next(Path(wheel.__path__[0]).rglob('*.duckdb_extension'))}'")

    def open(self) -> None:
        # One statement for many files: two cores then read two of them at a time.
        files = sorted(self.folder.glob("*/dynamics.db"))
        selects = [f"SELECT '{file.parent.name}' AS run, * FROM sqlite_scan('{file}', 'dynamics')" for file in files]
        self.con.execute(f"CREATE TABLE wide AS {' UNION ALL '.join(selects)}")

    def medians(self) -> Medians:
        return self._medians("SELECT run, {} FROM wide GROUP BY run")

    def _medians(self, question: str) -> Medians:
        rows = self.con.execute(question.format(", ".join(f"median({name})" for name in TIER_COLUMNS))).fetchall()
        return {f"{run}/{e}": list(tiers[3 * e : 3 * e + 3]) for run, *tiers in rows for e in (0, 1)}

    def chart(self, run: str) -> Any:
        return self._chart(f"wide WHERE run = '{run}'")

    def _chart(self, rows: str) -> Any:
        """Downsample the wide table: many times faster in DuckDB than after unpivoting it."""
        ends = (f"arg_min(step, {c}), min({c}), arg_max(step, {c}), max({c})" for c in SERIES)
        return self.con.execute(
            f"""WITH numbered AS (SELECT *, row_number() OVER (ORDER BY step) - 1 AS place, count(*) OVER () AS places
                                  FROM {rows})
                SELECT {", ".join(ends)} FROM numbered
                GROUP BY CASE WHEN places > {POINTS} THEN place * {POINTS // 2} // places ELSE place END"""
        ).fetchnumpy()

    def series(self, chart: Any) -> Series:
        import numpy as np

        columns = list(chart.values())
        for i, (expert, metric) in enumerate(SERIES.values()):
            low_steps, lows, high_steps, highs = columns[4 * i : 4 * i + 4]
            yield f"{expert}/{metric}", np.append(low_steps, high_steps), np.append(lows, highs)


class Parquet(Scanner):
    """DuckDB over a Parquet file per run: nothing is checked, and nothing is loaded before a question."""

    def _prepare(self) -> None:
        """Load nothing: the reader of Parquet is built in."""

    def open(self) -> None:
        """Read nothing."""

    def medians(self) -> Medians:
        run = "regexp_extract(filename, '([^/]*)/[^/]*$', 1)"
        source = f"read_parquet('{self.folder}/*/dynamics.parquet', filename = true)"
        return self._medians(f"SELECT {run} AS run, {{}} FROM {source} GROUP BY filename")

    def chart(self, run: str) -> Any:
        return self._chart(f"'{self.folder / run}/dynamics.parquet'")


class ParquetSet(Parquet):
    """DuckDB over the files of a set, without this project."""

    def medians(self) -> Medians:
        source = f"read_parquet('{self.folder}/dynamics/*/*.parquet')"
        rows = self.con.execute(MEDIANS.replace("dynamics", source)).fetchall()
        return {f"{run}/{expert}": tiers for run, expert, *tiers in rows}


class Pandas(Reader):
    """pandas.read_sql over sqlite3, then groupby: the usual way in a notebook."""

    package = "pandas"

    def __init__(self, folder: Path, cache: Path | None) -> None:
        super().__init__(folder, cache)
        import pandas

        self.pandas = pandas

    def open(self) -> None:
        self.frames = {}
        for file in sorted(self.folder.glob("*/dynamics.db")):
            with closing(sqlite3.connect(file)) as db:
                self.frames[file.parent.name] = self.pandas.read_sql("SELECT * FROM dynamics", db, index_col="step")

    def medians(self) -> Medians:
        together = self.pandas.concat(self.frames, names=["run"])
        found = together.groupby(level="run")[TIER_COLUMNS].median()
        return {f"{run}/{e}": list(tiers[3 * e : 3 * e + 3]) for run, *tiers in found.itertuples() for e in (0, 1)}

    def chart(self, run: str) -> Any:
        import numpy as np

        frame = self.frames[run]
        place, places = np.arange(len(frame)), len(frame)
        groups = frame[list(SERIES)].groupby(place * (POINTS // 2) // places if places > POINTS else place)
        return groups.idxmin(), groups.min(), groups.idxmax(), groups.max()

    def series(self, chart: Any) -> Series:
        import numpy as np

        for name, (expert, metric) in SERIES.items():
            low_steps, lows, high_steps, highs = (frame[name].to_numpy() for frame in chart)
            yield f"{expert}/{metric}", np.append(low_steps, high_steps), np.append(lows, highs)


class Tracker(Reader):
    """A tracker that holds one run; it answers only the medians."""

    run = "00000000a"

    def values(self, name: str) -> list[float]:
        """Return all values of one metric."""
        raise NotImplementedError

    def medians(self) -> Medians:
        return {f"{self.run}/{e}": [median(self.values(f"expert_{e}_{tier}")) for tier in TIERS] for e in (0, 1)}


class TensorBoard(Tracker):
    """EventAccumulator without sampling, on events as add_scalar writes them: a call, and a float32, per value."""

    package = "tensorboard"

    def __init__(self, folder: Path, cache: Path | None) -> None:
        super().__init__(folder, cache)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self.events = EventAccumulator(str(folder), size_guidance={"scalars": 0})

    def open(self) -> None:
        self.events.Reload()

    def values(self, name: str) -> list[float]:
        return [event.value for event in self.events.Scalars(name)]

    def write(self, source: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        writer = EventFileWriter(str(self.folder))
        for step, record in records(source):
            for name, value in record.items():
                summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
                writer.add_event(Event(step=step, wall_time=float(step), summary=summary))
        writer.close()


class MLflow(Tracker):
    """MLflow's get_metric_history on a SQLite store: one call per metric for its whole history."""

    package = "mlflow"

    def __init__(self, folder: Path, cache: Path | None) -> None:
        super().__init__(folder, cache)
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        self.id = next((run.info.run_id for run in self.client.search_runs(["0"])), "")

    def values(self, name: str) -> list[float]:
        return [metric.value for metric in self.client.get_metric_history(self.id, name)]

    def write(self, source: Path) -> None:
        from mlflow.entities import Metric

        run = self.client.create_run("0").info.run_id
        logged = [Metric(name, value, step, step) for step, record in records(source) for name, value in record.items()]
        for start in range(0, len(logged), 1_000):
            self.client.log_batch(run, metrics=logged[start : start + 1_000])


class Trackio(Tracker):
    """trackio's get_logs, which its dashboard calls: every row of the run as a dict, parsed from JSON text."""

    package = "trackio"

    def __init__(self, folder: Path, cache: Path | None) -> None:
        super().__init__(folder, cache)
        os.environ["TRACKIO_DIR"] = str(folder)  # read at the import
        from trackio.sqlite_storage import SQLiteStorage

        self.storage = SQLiteStorage

    def open(self) -> None:
        self.logs = self.storage.get_logs("reading", self.run)

    def values(self, name: str) -> list[float]:
        return [row[name] for row in self.logs]

    def write(self, source: Path) -> None:
        steps, logged = zip(*records(source), strict=True)
        self.storage.bulk_log("reading", self.run, list(logged), list(steps))


def records(source: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield step and scalars of each row of a run file."""
    with closing(sqlite3.connect(source)) as db:
        rows = db.execute("SELECT * FROM dynamics ORDER BY step")
        names = [column[0] for column in rows.description][1:]
        for step, *values in rows:
            yield step, dict(zip(names, values, strict=True))


READERS: dict[str, type[Reader]] = {
    "ours": Ours,
    "ours, of a set": OursSet,
    "DuckDB's scanner": Scanner,
    "DuckDB, Parquet": Parquet,
    "DuckDB, the set's Parquet": ParquetSet,
    "pandas.read_sql": Pandas,
    "TensorBoard": TensorBoard,
    "MLflow": MLflow,
    "trackio": Trackio,
}


class Clock:
    """The seconds by the name of the task; `cpu` of all tasks, threads and ended children included."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {"seconds": 0.0, "cpu": 0.0}

    def __call__(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        begun, cpu = time.perf_counter(), sum(os.times()[:4])
        result = work(*arguments)
        seconds = time.perf_counter() - begun
        self.spent[name] = self.spent.get(name, 0.0) + seconds
        self.spent["seconds"] += seconds
        self.spent["cpu"] += sum(os.times()[:4]) - cpu
        return result


def questions(reader: Reader, charts: list[str]) -> None:
    """Ask for the medians of all runs, then for the charts of some, one after the other as a reader opens them."""
    clock = Clock()
    clock("open", reader.open)
    answers: dict[str, Any] = {"medians": clock("medians", reader.medians), "charts": {}}
    for run in charts:
        chart = clock("charts", reader.chart, run)
        answers["charts"] |= {f"{run}/{name}": digest(*series) for name, *series in reader.series(chart)}
    send({**clock.spent, "own_peak": own_peak()})
    send(answers)


def digest(steps: Any, values: Any) -> list[float]:
    """Return the number of distinct points of a series, and the sums of their steps and of their values."""
    import numpy as np

    steps, first = np.unique(np.asarray(steps), return_index=True)
    return [len(steps), float(steps.sum()), float(np.asarray(values)[first].sum())]


def verdict(reader: Reader) -> None:
    """Read and judge all runs."""
    clock, judge = Clock(), reader.verdict()
    status = clock("verdict", judge)
    send({**clock.spent, "own_peak": own_peak()})
    send({"verdict": status})


def write(reader: Reader, source: str) -> None:
    """Write a tracker's files."""
    reader.write(Path(source))
    send({})
    send({})


def own_peak() -> int:
    """Return the peak memory of this process in bytes; ru_maxrss would include its parent's before the start."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):  # not Linux: add the largest child, because no sampler saw the children
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def send(answer: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(answer), file=sys.__stdout__, flush=True)


def main() -> None:
    """Run the job of the command line, or print the error."""
    sys.stdout = sys.stderr  # output of a peer must not mix with the answers
    job = json.loads(sys.argv[1])
    name, do, folder, cache = (job.pop(key, None) for key in ("reader", "do", "folder", "cache"))
    try:
        if do == "about":
            send({"version": version(READERS[name].package)})
            send({})
            return
        reader = READERS[name](Path(folder), Path(cache) if cache else None)
        tasks: dict[str, Callable[..., None]] = {"questions": questions, "verdict": verdict, "write": write}
        tasks[do](reader, **job)
    except Exception as error:  # an error of a peer means that it is skipped, never that the benchmark stops
        send({"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]})


if __name__ == "__main__":
    main()
