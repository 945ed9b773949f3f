"""Time and peak memory of reading runs, compared with pandas, DuckDB's own readers and three trackers.

    python benchmarks/reading.py [--quick] [--json FILE]

Each figure comes from a fresh process (reading_peers.py), the readers take turns, and the median of the rounds counts.
Each peer has its own environment under build/peers, made on first use; a peer that cannot be installed is skipped by
name. The questions are (a) the medians of the tier norms of each run and expert, and (b) the charts of the app: every
series downsampled to 2,000 points, of the one run and of each of 200. All answers must agree to 1e-9 (1e-6 with
TensorBoard, whose add_scalar keeps 32 bits), or a goal fails. (c), the verdict, is measured for this project alone,
once and without a limit.

*Cold* validates every file in the child process and caches nothing; *warm* has a filled cache. Both read from the
system's page cache, as the files are small compared with memory. Seconds run from the first file to the answer: imports
before any reading do not count. CPU covers all threads and children: on a shared machine it is the steadier figure.
Memory is the largest sum of resident bytes of the process and its children, sampled every 10 ms, and at least the
process's own high-water mark. Values are counted alike for all readers: the 16 of each row that was read, whether a
question needs them or not.

The trackers hold one run with few rows, because they write and read slowly. This project is measured on that run too,
but the comparison is by time per value, with this project on 200 runs. The trackers' own code writes their files
beforehand; plain sqlite3 writes the run files, in the documented schema; `write_set` writes the set from runs in
memory, since making 10,000 files would take longer than everything else. All are kept under build/reading.

Exits with 0 only if every goal holds. Without --quick the figures go to benchmarks/results/reading.json. `--quick` is
one round with a fifth of the rows and half of the limits in seconds, because some costs are fixed: a check, not a
figure to publish.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import (
    BUILD,
    QUIET,
    ROOT,
    Skipped,
    Skips,
    arguments,
    conclude,
    environment,
    judged,
    kill_after,
    resident,
    tracker_environment,
)
from common import TRACKERS as REQUIREMENTS

sys.path.insert(0, str(ROOT))

from prismatic.contract import schema
from validation.files.parquet_set import write_set
from validation.files.run_file import RUN_TABLES, RunFile, arrow_schema

DATA = BUILD / "reading"
RESULTS = ROOT / "benchmarks" / "results" / "reading.json"
PATIENCE = 900.0  # seconds until a worker counts as hanging
SAMPLE_EVERY = 0.01  # seconds between two samples of the memory
METRICS = 16  # columns of a row beside its step: the metrics of two experts, and the loss
LOG_FREQ = 10
MADE_BY = 1  # raise it when the files that `make` writes change
NEEDED_BY_ALL_RUNS = 8 << 30  # bytes that must be free before 10,000 runs are judged together

# The only version with its sqlite extension in a wheel: the extension is downloaded at run time otherwise.
SCANNER = ("duckdb==1.5.5", "duckdb-extension-sqlite-scanner==1.5.5", "numpy>=2,<3")
TRACKERS = ("TensorBoard", "MLflow", "trackio")
SQLITE_READERS = ("ours, cold", "ours, warm", "DuckDB's scanner", "pandas.read_sql", "DuckDB, Parquet")
SET_READERS = ("ours, of a set", "DuckDB, the set's Parquet")


@dataclass(frozen=True)
class Work:
    """The number of runs and rows to read, and of runs whose charts are drawn."""

    runs: int
    rows: int
    charts: int

    @property
    def values(self) -> int:
        return self.runs * self.rows * METRICS

    @property
    def names(self) -> list[str]:
        """The ids of the runs: nine hexadecimal digits, as `train` makes them."""
        return [f"{10 + number:09x}" for number in range(self.runs)]

    def __str__(self) -> str:
        return f"{self.runs:,} run{'s' * (self.runs > 1)} x {self.rows:,} rows"


@dataclass(frozen=True)
class Load:
    """The amount of work. patience: a factor of the limits in seconds."""

    rounds: int
    patience: float
    one: Work
    many: Work
    as_set: Work
    tracked: Work
    small: Work  # a file of 300 KB
    sizes: tuple[Work, ...]  # of one run, for the cost per row
    judged_set: bool


FULL = Load(
    3,
    1.0,
    Work(1, 1_000_000, 1),
    Work(200, 5_000, 200),
    Work(10_000, 500, 0),
    Work(1, 5_000, 0),
    Work(1, 1_900, 0),
    tuple(Work(1, rows, 1) for rows in (50_000, 200_000, 800_000)),
    True,
)
QUICK = Load(
    1,
    0.5,
    Work(1, 200_000, 1),
    Work(40, 5_000, 40),
    Work(2_000, 500, 0),
    Work(1, 1_000, 0),
    Work(1, 1_900, 0),
    tuple(Work(1, rows, 1) for rows in (50_000, 200_000, 400_000)),
    False,
)


@dataclass
class Report(Skips):
    """The figures, by work and reader, and the readers that were skipped, with reasons."""

    figures: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    sizes: dict[int, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    compared: int = 0  # numbers of answers
    different: list[str] = field(default_factory=list)

    def get(self, work: Work, name: str) -> dict[str, Any]:
        return self.figures.get(str(work), {}).get(name, {})


def main() -> int:
    """Measure, print, and report which goals hold."""
    options = arguments(__doc__, "one round, few rows")
    load = QUICK if options.quick else FULL
    report = Report()
    DATA.mkdir(parents=True, exist_ok=True)
    pythons = environments(report)
    measure(pythons, load, report)
    for work in (load.one, load.many, load.as_set, load.tracked, load.small):
        print_table(work, report.figures[str(work)])
    print_rest(report)
    figures = {"work": report.figures, "verdicts": report.verdicts, "one run by rows": report.sizes}
    figures |= {"compared": report.compared, "different": report.different}
    target = options.json or (None if options.quick else RESULTS)
    return conclude(goals(load, report), figures, report, quick=options.quick, to=target)


# -- The files ---------------------------------------------------------------------------------------------------------


def columns(seed: int, rows: int) -> dict[str, np.ndarray]:
    """Return a run's wide table: random walks with all their digits, and the metrics that follow from them."""
    walk = np.cumsum(np.random.default_rng(seed).normal(0, 0.01, (10, rows)), axis=1)
    share, (relative, loss) = 1 / (1 + np.exp(walk[6])), np.exp(walk[7:9])
    found = {"step": np.arange(rows) * LOG_FREQ}
    tiers = {e: dict(zip(schema.TIERS, np.exp(walk[3 * e : 3 * e + 3] - 3), strict=True)) for e in (0, 1)}
    for e, norms in tiers.items():
        found |= {f"expert_{e}_{tier}_norm": norm for tier, norm in norms.items()}
        found[f"expert_{e}_{'perturbed' if e else 'clean'}_norm"] = np.sqrt(sum(norm**2 for norm in norms.values()))
        found[f"expert_{e}_routing_weight"] = 1 - share if e else share
        found[f"expert_{e}_bottom_to_middle"] = np.log(norms["bottom"] / norms["middle"])
    found["expert_1_divergence"] = np.mean([abs(tiers[1][tier] - tiers[0][tier]) for tier in schema.TIERS], axis=0)
    found |= {"expert_1_relative_divergence": relative, "expert_1_direction": 2 / (1 + np.exp(walk[9])), "loss": loss}
    return {column.name: found[column.name] for column in schema.dynamics_columns(2)[: METRICS + 1]}


def facts(name: str, number: int, rows: int) -> dict[str, object]:
    """Return the facts of a run; every fifth run has the same scale."""
    options = {"num_experts": 2, "seed": number, "perturbation_scale": 0.5 * (1 + number % 5), "sparsity": 0.1}
    about = {"run_hash": name, "planned_steps": rows * LOG_FREQ, "exit_state": "finished"}
    return about | {f"config.{option}": value for option, value in options.items()}


def made(work: Work, kind: str) -> Path:
    """Return the folder with the runs of `work`; make it first if it is missing."""
    folder = DATA / f"{kind}-{work.runs}x{work.rows}"
    ready, parameters = folder / "made.json", json.dumps([MADE_BY, METRICS, LOG_FREQ, work.runs, work.rows])
    if not (ready.exists() and ready.read_text() == parameters):
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if kind == "set":
            write_set((run_file(work, i) for i in range(work.runs)), folder)
        else:
            for number, name in enumerate(work.names):
                make_run(folder / name, number, work.rows)
        ready.write_text(parameters)
    return folder


def make_run(folder: Path, number: int, rows: int) -> None:
    """Write a run file, and the same wide table as Parquet."""
    folder.mkdir()
    wide = columns(number, rows)
    with closing(sqlite3.connect(folder / "dynamics.db")) as db:
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={schema.SCHEMA_VERSION}")
        declared = ", ".join(f"{c.name} {c.type}" for c in schema.dynamics_columns(2) if c.name in wide)
        db.execute(f"CREATE TABLE dynamics ({declared}, PRIMARY KEY (step))")
        db.execute("CREATE TABLE run (key TEXT, value TEXT, PRIMARY KEY (key))")
        for start in range(0, rows, 50_000):
            chunk = zip(*(values[start : start + 50_000].tolist() for values in wide.values()), strict=True)
            db.executemany(f"INSERT INTO dynamics VALUES ({', '.join('?' * len(wide))})", chunk)
        rows_of_run = [(key, json.dumps(value)) for key, value in facts(folder.name, number, rows).items()]
        db.executemany("INSERT INTO run VALUES (?, ?)", rows_of_run)
        db.commit()
    pq.write_table(pa.table(wide), folder / "dynamics.parquet")


def run_file(work: Work, number: int) -> RunFile:
    """Return the same run as if it had been read from a file."""
    name = work.names[number]
    return RunFile(
        id=name,
        name=f"{name}/dynamics.db",
        path=Path(name) / "dynamics.db",
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        wide=pa.table(columns(number, work.rows)),
        facts=facts(name, number, work.rows),
        **{table: arrow_schema(table).empty_table() for table in RUN_TABLES},
        duplicates=0,
        ignored=(),
        notes=(),
        wal=False,
        application_id=schema.APPLICATION_ID,
        version=schema.SCHEMA_VERSION,
    )


def tracked(python: Path, name: str, work: Work) -> Path:
    """Return the folder with a tracker's own files of the one run of `work`."""
    source = made(work, "runs") / work.names[0] / "dynamics.db"
    folder = DATA / f"{name.lower()}-{work.rows}"
    ready, version = folder / "made.json", json.dumps([MADE_BY, REQUIREMENTS[name]])
    if not (ready.exists() and ready.read_text() == version):
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        work_out(python, reader=name, do="write", folder=str(folder), source=str(source))
        ready.write_text(version)
    return folder


# -- The readers -------------------------------------------------------------------------------------------------------


def environments(report: Report) -> dict[str, Path]:
    """Return the interpreter of each available reader; this one for this project, pandas and DuckDB."""
    pythons = {}
    for name in (*SQLITE_READERS, *SET_READERS, *TRACKERS):
        with report.skipping(name):
            if name in TRACKERS:
                pythons[name] = tracker_environment(name)
            else:
                pythons[name] = (
                    environment("duckdb-sqlite", *SCANNER) if name == "DuckDB's scanner" else Path(sys.executable)
                )
    return pythons


def work_out(python: Path, **job: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures, with `peak` bytes of memory, and answers of one worker. Raises Skipped if it fails or hangs."""
    home = DATA / "home"
    home.mkdir(exist_ok=True)
    command = [str(python), str(Path(__file__).with_name("reading_peers.py")), json.dumps(job)]
    # A separate home: peers keep files there, which must not mix with the user's.
    environment = os.environ | QUIET | {"HOME": str(home)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=home
    ) as process:
        assert process.stdout
        memory = Memory(process.pid)
        memory.start()
        try:
            with kill_after(process, PATIENCE):
                line = process.stdout.readline()
                memory.stop()
                rest = process.stdout.read()
        finally:
            memory.stop()
            process.kill()
    figures = json.loads(line or '{"error": "the worker ended or hung"}')
    if "error" in figures:
        raise Skipped(figures["error"])
    figures["peak"] = max(memory.peak, figures.pop("own_peak", 0))
    return figures, json.loads(rest)


class Memory(threading.Thread):
    """Sample the resident memory of a process and its children until it is stopped; 0 without /proc."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak, self._pid, self._over = 0, pid, threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_EVERY):
            self.peak = max(self.peak, resident(self._pid))

    def stop(self) -> None:
        self._over.set()
        self.join()


# -- The measurements --------------------------------------------------------------------------------------------------


def measure(pythons: dict[str, Path], load: Load, report: Report) -> None:
    """Measure all works with all their readers."""
    for name, python in pythons.items():
        with report.skipping(name):
            report.versions[name] = work_out(python, **job_of(name, DATA), do="about")[0]["version"]
    for work in (load.one, load.many):
        folder = made(work, "runs")
        work_out(pythons["ours, warm"], **job_of("ours, warm", folder), do="questions", charts=[])  # fills the cache
        ask_all(pythons, dict.fromkeys(SQLITE_READERS, folder), work, load.rounds, report)
        ask_verdict(pythons, "ours, warm", folder, work, report)
    folder = made(load.as_set, "set")
    ask_all(pythons, dict.fromkeys(SET_READERS, folder), load.as_set, load.rounds, report)
    if load.judged_set:
        with report.skipping(f"verdict of {load.as_set}"):
            require_memory(NEEDED_BY_ALL_RUNS)
            ask_verdict(pythons, "ours, of a set", folder, load.as_set, report)
    folders = {"ours, cold": made(load.tracked, "runs")}
    for name in TRACKERS:
        with report.skipping(name):
            folders[name] = tracked(pythons[name], name, load.tracked)
    ask_all(pythons, folders, load.tracked, load.rounds, report)
    ask_all(pythons, {"ours, cold": made(load.small, "runs")}, load.small, load.rounds, report)
    ask_sizes(pythons, load, report)


def job_of(name: str, folder: Path) -> dict[str, str]:
    """Return the part of a worker's job that names the reader and its files."""
    cache = {"cache": str(DATA / "cache")} if name == "ours, warm" else {}
    own = "ours" if name in ("ours, cold", "ours, warm") else name
    return {"reader": own, "folder": str(folder), **cache}


def ask_all(pythons: dict[str, Path], folders: dict[str, Path], work: Work, rounds: int, report: Report) -> None:
    """Measure every reader in each round, so that a busy moment affects them all; this project comes first."""
    found: dict[str, list[dict[str, Any]]] = {}
    expected: dict[str, Any] = {}
    for _ in range(rounds):
        for name, folder in folders.items():
            title = f"{name}, {work}"
            if title in report.skipped or name in report.skipped:
                continue
            with report.skipping(title):
                job = job_of(name, folder)
                figures, answers = work_out(pythons[name], **job, do="questions", charts=work.names[: work.charts])
                expected = expected or answers
                compare(title, answers, expected, 1e-6 if name == "TensorBoard" else 1e-9, report)
                found.setdefault(name, []).append(figures)
    report.figures[str(work)] = {name: medians(rows, work) for name, rows in found.items()}


def ask_verdict(pythons: dict[str, Path], name: str, folder: Path, work: Work, report: Report) -> None:
    """Measure the verdict once: it takes long, and no peer has one to compare."""
    with report.skipping(f"verdict of {work}"):
        figures, answers = work_out(pythons[name], **job_of(name, folder), do="verdict")
        report.verdicts[f"{work}, {name}"] = figures | answers


def ask_sizes(pythons: dict[str, Path], load: Load, report: Report) -> None:
    """Measure one run of several lengths, cold, in turns."""
    found: dict[int, list[dict[str, Any]]] = {}
    for _ in range(load.rounds):
        for work in load.sizes:
            with report.skipping(f"ours, cold, {work}"):
                job = job_of("ours, cold", made(work, "runs"))
                figures, _ = work_out(pythons["ours, cold"], **job, do="questions", charts=work.names)
                found.setdefault(work.rows, []).append(figures)
    report.sizes = {rows: medians(rounds, Work(1, rows, 1)) for rows, rounds in found.items()}


def medians(figures: list[dict[str, Any]], work: Work) -> dict[str, Any]:
    """Return the medians of the rounds, the extremes of the total, and the time of (a) per value."""
    found = {key: statistics.median(figure.get(key, 0.0) for figure in figures) for key in figures[0]}
    found |= {"fastest": min(f["seconds"] for f in figures), "slowest": max(f["seconds"] for f in figures)}
    return found | {"nanoseconds_per_value": 1e9 * (found["open"] + found["medians"]) / work.values}


def compare(title: str, answers: dict[str, Any], expected: dict[str, Any], tolerance: float, report: Report) -> None:
    """Count the numbers, and record answers that differ from the expected ones."""
    for question, rows in expected.items():
        if rows.keys() != answers[question].keys():
            report.different.append(f"{title}: {question} of other runs or series")
            continue
        for key, row in rows.items():
            report.compared += len(row)
            if not np.allclose(answers[question][key], row, rtol=tolerance, atol=0):
                report.different.append(f"{title}: {question} {key}: {answers[question][key]}, expected {row}")


def require_memory(needed: int) -> None:
    """Raise Skipped if the machine has less free memory, or does not report it."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with suppress(OSError, IndexError):  # more exact on Linux: the page cache counts as free
            free = 1024 * int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0])
    except (ValueError, OSError):
        free = 0
    if free < needed:
        raise Skipped(f"{free / 2**30:.1f} GiB of memory are free, it may need {needed / 2**30:.0f}")


# -- Results -----------------------------------------------------------------------------------------------------------


def print_table(work: Work, figures: dict[str, dict[str, Any]]) -> None:
    """Print a line per reader."""
    heads = ("reading s", "(a) s", "(b) s", "sum s", "CPU s", "peak MiB", "(a) ns/value")
    print(f"\n{f'{work} x {METRICS} values':<38}" + "".join(f"{head:>13}" for head in heads))
    for name, figure in figures.items():
        parts = "".join(f"{figure.get(key, 0.0):>13.3f}" for key in ("open", "medians", "charts", "seconds", "cpu"))
        print(f"  {name:<36}{parts}{figure['peak'] / 2**20:>13,.0f}{figure['nanoseconds_per_value']:>13,.1f}")


def print_rest(report: Report) -> None:
    """Print verdicts, the cost per row, and answers that differ."""
    print()
    for name, figure in report.verdicts.items():
        print(f"(c) {name}: {figure['verdict']}, {figure['seconds']:.2f} s, {figure['peak'] / 2**20:,.0f} MiB")
    for rows, figure in report.sizes.items():
        print(f"one run of {rows:,} rows, cold: {1e6 * figure['seconds'] / rows:.2f} microseconds a row")
    for line in report.different[:10]:
        print(f"not the same: {line}")


def goals(load: Load, report: Report) -> list[dict[str, Any]]:
    """Return the goals with their limits."""
    many = {name: figure["seconds"] for name, figure in report.figures[str(load.many)].items()}
    reference = next((name for name in ("DuckDB's scanner", "pandas.read_sql") if name in many), "no peer ran")
    seconds = many.get(reference, math.nan)
    one = {name: figure["seconds"] for name, figure in report.figures[str(load.one)].items()}
    pandas = one.get("pandas.read_sql", math.nan)
    as_set = report.get(load.as_set, "ours, of a set")
    per_value = report.get(load.many, "ours, cold").get("nanoseconds_per_value", math.nan)
    slow = {name: report.get(load.tracked, name).get("nanoseconds_per_value", math.nan) for name in TRACKERS}
    rows = [report.sizes.get(work.rows, {}).get("seconds", math.nan) / work.rows for work in load.sizes[-2:]]
    at_least = [
        (f"(a) of {load.many}, cold: times faster per value than {name}", slow[name] / per_value, 20)
        for name in ("TensorBoard", "MLflow")
    ]
    at_most = [
        (
            f"{load.many}, cold, as a multiple of {reference}",
            many.get("ours, cold", math.nan) / seconds,
            0.8,
        ),
        ("the same, warm", many.get("ours, warm", math.nan) / seconds, 0.7),
        (f"{load.one}, cold, seconds", one.get("ours, cold", math.nan), 1.5 * load.patience),
        ("the same, as a multiple of pandas.read_sql", one.get("ours, cold", math.nan) / pandas, 0.35),
        ("the same, warm, seconds", one.get("ours, warm", math.nan), 0.5 * load.patience),
        (f"opening {load.small}, cold, seconds", report.get(load.small, "ours, cold").get("open", math.nan), 0.12),
        (
            f"(a) of a set of {load.as_set}, seconds",
            as_set.get("open", math.nan) + as_set.get("medians", math.nan),
            3 * load.patience,
        ),
        ("the same, peak memory, GiB", as_set.get("peak", math.nan) / 2**30, 1.5),
        ("cost of a row of the longest of three lengths, as a multiple of the second", rows[-1] / rows[-2], 1.5),
        (f"answers that differ, of {report.compared:,} numbers", len(report.different), 0),
        ("times that ours failed", report.failures_of_ours(), 0),
    ]
    return judged(at_least, at_most)


if __name__ == "__main__":
    sys.exit(main())
