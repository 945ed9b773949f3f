"""The cost of logging compared with plain sqlite3 and four trackers: time of a call, speed, bytes, lost rows.

    python benchmarks/storage.py [--quick] [--json FILE]

Each writer runs in its own process; the processes take turns and run the same loops (storage_peers.py). Each tracker
has its own environment under build/peers, created at the first use. A tracker that cannot be installed is skipped and
named. Without a kill no record may be lost: after each loop the files are read back and all values are counted.

There are two times of a call. The *tight* loop has nothing between the calls: it measures the cost of log() itself, and
the goal for the median is about it. The *paced* loop logs a record each millisecond, ten times as often as training
does, and the thread sleeps between, as a training thread does while torch computes. The goal for the slowest percent is
about it, because there the writing thread competes with the calls. Its median depends mostly on the machine: on a
shared machine the caches cool down in a millisecond, and then any Python function takes several times as long as right
after another call. The speed is that of the tight loop, including close().

The kills are `kill -9` at a random moment of a loop with a record each 2 ms. A lost row is one that the worker reported
as logged and that is not in the files. For *acknowledged* rows, log() had returned more than flush_seconds before.

Exits 0 only if all goals hold. Without --quick the figures go to benchmarks/results/storage.json. `--quick` is one
round with few records, and kills at 200 scalars only; the first use also creates the environments.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import (
    BUILD,
    QUIET,
    ROOT,
    TRACKERS,
    Skipped,
    Skips,
    arguments,
    conclude,
    judged,
    kill_after,
    tracker_environment,
)
from storage_peers import Ours, make_records

RESULTS = ROOT / "benchmarks" / "results" / "storage.json"
WIDTHS = (20, 200, 2000)
FLUSH_SECONDS = 1.0  # DynamicsLogger's default
PACE, KILL_PACE = 0.001, 0.002  # seconds per record
KILL_AFTER = (1.5, 3.0)  # seconds of logging, above FLUSH_SECONDS, so that some rows are acknowledged
TIMEOUT_SECONDS = 180.0  # for one command of a worker

WRITERS = ("ours", "sqlite3, per row", "sqlite3, per 100", *TRACKERS)


@dataclass(frozen=True)
class Load:
    """The amount to log. Each loop ends after these values or seconds, so slow writers get fewer records."""

    rounds: int
    paced: int  # records
    values: int
    seconds: float
    kills: dict[str, int]  # for ours, for each other writer
    kill_widths: tuple[int, ...]


FULL = Load(3, 2_000, 4_000_000, 4.0, {"ours": 5, "others": 2}, WIDTHS)
QUICK = Load(1, 600, 1_000_000, 0.6, {"ours": 5, "others": 1}, (200,))


@dataclass
class Worker:
    """A process of storage_peers.py; `ask` sends a command and waits for the answer."""

    name: str
    python: Path
    root: Path
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [str(self.python), str(Path(__file__).with_name("storage_peers.py")), self.name, str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # A separate HOME, so that a peer neither reads nor changes the user's.
            env=os.environ | QUIET | {"HOME": str(self.root)},
        )

    def send(self, **command: Any) -> None:
        """Send a command. If the worker has ended, reading the answer fails later."""
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield the worker's lines until it and all processes that share its output, such as wandb's, have ended."""
        assert self.process.stdout
        return (json.loads(line) for line in self.process.stdout if line.startswith("{"))

    def ask(self, **command: Any) -> dict[str, Any]:
        """Return the answer. Raises Skipped for an error, and without an answer within TIMEOUT_SECONDS."""
        self.send(**command)
        with kill_after(self.process, TIMEOUT_SECONDS):
            reply = next(self.answers(), None) or {"error": f"the worker ended or hung at {command['do']}"}
        if "error" in reply:
            raise Skipped(reply["error"])
        answer: dict[str, Any] = reply["answer"]
        return answer

    def close(self) -> None:
        """End the worker; kill it if it does not end within 10 seconds."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@dataclass
class Report(Skips):
    """The figures by width and writer, and the skipped writers."""

    figures: dict[int, dict[str, dict[str, Any]]] = field(default_factory=lambda: {width: {} for width in WIDTHS})
    aged_rows: int = 0
    aged: float = math.nan
    """The median time of a call of log() after so many rows, as a multiple of that of the first calls."""


def main() -> int:
    """Measure all writers, print the tables and goals, and return the exit code."""
    options = arguments(__doc__, "one round, few records, kills at 200 scalars only")
    load = QUICK if options.quick else FULL
    report = Report()
    BUILD.mkdir(exist_ok=True)
    pythons = environments(report)
    # Under build/, where runs go: in a /tmp in memory, a commit would cost nothing.
    with (
        tempfile.TemporaryDirectory(prefix="storage-", dir=BUILD, ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
    ):
        # The leftovers of killed peers are deleted, too. Not in `folder`: the path of a socket must be short.
        os.environ["TMPDIR"] = scratch
        measure(pythons, Path(folder), load, report)
        report.aged_rows = 100_000 if options.quick else 1_000_000
        report.aged = slower_after(report.aged_rows, Path(folder))
    for width in WIDTHS:
        print_table(width, report.figures[width])
    target = options.json or (None if options.quick else RESULTS)
    return conclude(goals(report), {"scalars": report.figures}, report, quick=options.quick, to=target)


def slower_after(rows: int, folder: Path) -> float:
    """Return the median time of log() with 20 scalars once a file has so many rows, as a multiple of that before."""
    writer = Ours(folder, "aged", 20)
    records = [writer.prepare(record) for record in make_records(20)]

    def median(first: int, stop: int) -> float:
        taken = []
        for step in range(first, stop):
            record = records[step % len(records)]
            start = time.perf_counter()
            writer.log(step, record)
            taken.append(time.perf_counter() - start)
        writer.flush()
        return statistics.median(taken)

    median(0, 1_000)  # makes the columns, and warms up
    before = median(1_000, 6_000)
    for first in range(6_000, rows, 10_000):
        median(first, min(first + 10_000, rows))
    after = median(rows, rows + 5_000)
    writer.close()
    if sum(writer.held(folder, "aged", 20).values()) != 20 * (rows + 5_000):
        raise RuntimeError("rows are missing in the file of the long run")
    return after / before


def environments(report: Report) -> dict[str, Path]:
    """Return the interpreter of each available writer: this one for ours and for plain sqlite3."""
    pythons = {}
    for name in WRITERS:
        with report.skipping(name):
            pythons[name] = tracker_environment(name) if name in TRACKERS else Path(sys.executable)
    return pythons


def measure(pythons: dict[str, Path], folder: Path, load: Load, report: Report) -> None:
    """Run all rounds and kills. All workers stay alive, and wait while another one is measured."""
    workers: dict[str, Worker] = {}
    try:
        for number, (name, python) in enumerate(pythons.items()):
            workers[name] = Worker(name, python, folder / f"writer-{number}")
            with report.skipping(name):
                report.versions[name] = workers[name].ask(do="about")["version"]
        for width in WIDTHS:
            rounds = all_rounds(workers, width, load, report)
            report.figures[width] = {name: medians(figures) for name, figures in rounds.items()}
        all_kills(workers, load, report)
    finally:
        for worker in workers.values():
            worker.close()


def all_rounds(workers: dict[str, Worker], width: int, load: Load, report: Report) -> dict[str, list[dict[str, Any]]]:
    """Run the rounds; each measures all writers in turn, so that a busy moment of the machine affects all of them."""
    rounds: dict[str, list[dict[str, Any]]] = {}
    for number in range(load.rounds):
        for name, worker in workers.items():
            label = f"{name} at {width} scalars"
            if label in report.skipped or name in report.skipped:
                continue
            with report.skipping(label):
                size: dict[str, Any] = {"width": width, "seconds": load.seconds}
                run = f"w{width}-r{number}"
                paced = worker.ask(do="paced", run=f"{run}-paced", every=PACE, records=load.paced, **size)
                tight = worker.ask(do="tight", run=f"{run}-tight", records=load.values // width, **size)
                rounds.setdefault(name, []).append(paced | tight)
    return {name: figures for name, figures in rounds.items() if f"{name} at {width} scalars" not in report.skipped}


def medians(figures: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}


def all_kills(workers: dict[str, Worker], load: Load, report: Report) -> None:
    """Kill each writer several times at each width; the moments are the same in all runs of this benchmark."""
    moments = random.Random(0)
    for width in load.kill_widths:
        for name, worker in workers.items():
            figures = report.figures[width].get(name)
            if figures is None:
                continue
            times = load.kills.get(name, load.kills["others"])
            with report.skipping(f"{name}, killed at {width} scalars"):
                kills = [one_kill(worker, width, i, moments.uniform(*KILL_AFTER)) for i in range(times)]
                figures["kills"] = kills
                figures["lost_worst"] = max(kill["lost"] for kill in kills)
                figures["lost_acknowledged"] = sum(kill["lost_acknowledged"] for kill in kills)


class Killer(threading.Thread):
    """Kills a process after `delay` seconds and stores the time just before."""

    def __init__(self, process: subprocess.Popen[str], delay: float) -> None:
        super().__init__(daemon=True)
        self.process, self.delay, self.killed = process, delay, math.inf

    def run(self) -> None:
        time.sleep(self.delay)
        self.killed = time.monotonic()
        self.process.kill()


def one_kill(worker: Worker, width: int, number: int, delay: float) -> dict[str, Any]:
    """Kill a second worker of this kind `delay` seconds after its first record, and count the records in its files."""
    run = f"w{width}-k{number}"
    victim = Worker(worker.name, worker.python, worker.root)
    try:
        with kill_after(victim.process, TIMEOUT_SECONDS):
            victim.send(do="until_killed", run=run, width=width, every=KILL_PACE)
            first = next(victim.answers(), None) or {"error": "the worker ended or hung before its first record"}
            if "error" in first:
                raise Skipped(first["error"])
            killer = Killer(victim.process, delay)
            killer.start()
            reported = [first, *(line for line in victim.answers() if "at" in line)]
            killer.join()
    finally:
        victim.close()
    # All processes of a machine share the clock of time.monotonic().
    held = set(worker.ask(do="held", run=run, width=width)["held"])
    lost = [row for row in reported if row["step"] not in held]
    acknowledged = sum(row["at"] + FLUSH_SECONDS < killer.killed for row in lost)
    return {"after": delay, "logged": len(reported), "lost": len(lost), "lost_acknowledged": acknowledged}


def print_table(width: int, figures: dict[str, dict[str, Any]]) -> None:
    """Print a line per writer; the first two columns are of the paced loop, the next two of the tight loop."""
    heads = ("p50 us", "p99 us", "tight p50", "tight p99", "metrics/s", "B/metric", "lost", "lost > 1 s")
    keys = ("paced_p50", "paced_p99", "tight_p50", "tight_p99")
    print(f"\n{f'{width} scalars a record':<24}" + "".join(f"{head:>12}" for head in heads))
    for name, figure in figures.items():
        times = "".join(f"{figure[key]:>12,.1f}" for key in keys)
        speed_and_size = f"{figure['metrics_per_second']:>12,.0f}{figure['bytes_per_metric']:>12.1f}"
        lost = "".join(f"{figure.get(key, '-'):>12}" for key in ("lost_worst", "lost_acknowledged"))
        print(f"  {name:<22}{times}{speed_and_size}{lost}")


def goals(report: Report) -> list[dict[str, Any]]:
    """Return the goals with figures and limits."""
    figures = report.figures

    def figure(width: int, name: str, key: str) -> float:
        return float(figures[width].get(name, {}).get(key, math.nan))

    speed, plain = (figure(200, name, "metrics_per_second") for name in ("ours", "sqlite3, per 100"))
    kills = [run["ours"] for run in figures.values() if "kills" in run.get("ours", {})]
    done = sum(len(run["kills"]) for run in kills)
    lost = sum(run["lost_acknowledged"] for run in kills) if kills else math.nan
    at_least = [
        ("metrics/s, 200 scalars, as a multiple of sqlite3 with a commit per 100", speed / plain, 0.7),
    ]
    at_most = [
        ("log() p50, tight loop, microseconds, 20 scalars", figure(20, "ours", "tight_p50"), 5),
        ("log() p50, tight loop, microseconds, 200 scalars", figure(200, "ours", "tight_p50"), 15),
        (f"log() p50 after {report.aged_rows:,} rows, as a multiple of the first", report.aged, 1.1),
        ("log() p99, paced loop, microseconds, 20 scalars", figure(20, "ours", "paced_p99"), 1_000),
        ("log() p99, paced loop, microseconds, 200 scalars", figure(200, "ours", "paced_p99"), 1_000),
        ("bytes on disk per value, 200 scalars", figure(200, "ours", "bytes_per_metric"), 11),
        (f"acknowledged rows lost over {done} kills", lost, 0),
        ("loops in which ours failed or lost a record", report.failures_of_ours(), 0),
    ]
    return judged(at_least, at_most)


if __name__ == "__main__":
    sys.exit(main())
