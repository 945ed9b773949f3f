"""The cost of judging many runs by one process and by a Ray cluster, which must agree to the last digit.

    python benchmarks/judging.py [--quick] [--json FILE]

The runs are the set of benchmarks/reading.py: 500 rows of two experts each, five doses, a seed for each. Each figure is
one whole command, `prismatic check --json SET`, with `--ray local` for the cluster, which Ray starts on this machine
with a worker for each core; its start of some seconds counts too. Memory is the largest sum of resident bytes of the
process and its children; pages that Ray's processes share count for each of them.

Judging beyond reading is measured in this process, as seconds of its processor, the least of five times: 200 runs of
150 rows of seven experts in two layers, with isolated gradients and sham runs (simulated.py), and one run of 10,000
rows.

The exit code is 0 only if every goal holds. Without --quick the figures go to benchmarks/results/judging.json.
`--quick` judges a tenth of the runs and compares only the answers, because Ray's start dominates its time.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from common import BUILD, ROOT, Skipped, Skips, arguments, conclude, judged, kill_after
from reading import DATA, Memory, Work, made, require_memory
from simulated import Design, Rows, runs_of_group

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run
from validation.judgement.judge import combine_judgements, judge_each

RESULTS = ROOT / "benchmarks" / "results" / "judging.json"
ROWS = 500
SIZES = (2_500, 10_000)
QUICK = (250, 1_000)
PATIENCE = 1_800.0  # seconds until a command counts as hanging
NEEDED = 8 << 30  # bytes of memory that must be free
DESIGN = Design(perturbed=3, controls=3, twins=True)


@dataclass
class Report(Skips):
    """The figures, by command and number of runs."""

    figures: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    different: int = 0
    beyond_reading: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Measure, print the table, and return the exit code."""
    chosen = arguments(__doc__, "a tenth of the runs; only the answers have a goal")
    DATA.mkdir(parents=True, exist_ok=True)
    report = Report()
    measure(QUICK if chosen.quick else SIZES, report)
    report.beyond_reading = {name: least_seconds(runs) for name, runs in (("many", many_runs()), ("long", long_run()))}
    print_table(report)
    target = chosen.json or (None if chosen.quick else RESULTS)
    rows = goals(QUICK if chosen.quick else SIZES, report, quick=chosen.quick)
    return conclude(
        rows,
        {"figures": report.figures, "beyond reading": report.beyond_reading},
        report,
        quick=chosen.quick,
        to=target,
    )


def measure(sizes: tuple[int, ...], report: Report) -> None:
    """Judge each number of runs by one process and by the cluster."""
    for runs in sizes:
        with report.skipping(f"ours, {runs:,} runs"):
            require_memory(NEEDED)
            folder = made(Work(runs, ROWS, 0), "set")
            alone = command(report, "one process", runs, str(folder))
            with report.skipping("Ray"):
                if importlib.util.find_spec("ray") is None:
                    raise Skipped("Ray is not installed: pip install 'ray>=2.40,<3'")
                spread = command(report, "Ray, 2 workers", runs, "--ray", "local", str(folder))
                report.different += alone != spread


def many_runs() -> list[Run]:
    """Return 200 runs of several groups, with their sham runs."""
    dice = np.random.default_rng(0)
    groups = [runs_of_group(DESIGN, Rows(every=4), dice) for _ in range(17)]
    named = [
        replace(run, id=f"{run.id}-{place}", facts={**run.facts, "config.learning_rate": place})
        for place, group in enumerate(groups)
        for run in group
    ]
    return named[:200]


def long_run() -> list[Run]:
    """Return a run of 10,000 rows."""
    return runs_of_group(replace(DESIGN, seeds=1, twins=False, steps=10_000), Rows(every=1), np.random.default_rng(0))


def least_seconds(runs: Sequence[Run]) -> float:
    """Return the seconds of the processor that judging these runs takes, the least of five times."""
    thresholds, found = Thresholds(), []
    for _ in range(5):
        started = time.process_time()
        combine_judgements((), (), judge_each(runs, thresholds), thresholds)
        found.append(time.process_time() - started)
    return min(found)


def command(report: Report, name: str, runs: int, *words: str) -> dict[str, Any]:
    """Run `check --json`, record its time and memory, and return its report."""
    output = BUILD / "judging.json"
    line = [sys.executable, "-m", "validation", "check", "--json", *words]
    started = time.perf_counter()
    with (
        output.open("wb") as target,
        subprocess.Popen(line, stdout=target, stderr=subprocess.PIPE, cwd=ROOT) as process,
    ):
        memory = Memory(process.pid)
        memory.start()
        try:
            with kill_after(process, PATIENCE):
                _, errors = process.communicate()
        finally:
            memory.stop()
    seconds = time.perf_counter() - started
    if process.returncode not in (0, 1, 3, 4):
        raise Skipped(errors.decode().strip().splitlines()[-1] if errors.strip() else f"exit code {process.returncode}")
    found: dict[str, Any] = json.loads(output.read_bytes())
    figure = {"seconds": seconds, "peak": memory.peak, "bytes": output.stat().st_size, "status": found["status"]}
    report.figures.setdefault(name, {})[runs] = figure
    return found


def print_table(report: Report) -> None:
    """Print a line for each command."""
    print(f"\n{'runs judged':<32}{'seconds':>10}{'ms a run':>10}{'peak MiB':>10}  status")
    for name, by_size in report.figures.items():
        for runs, figure in by_size.items():
            each = 1000 * figure["seconds"] / runs
            peak = figure["peak"] / 2**20
            seconds, judged = figure["seconds"], f"{runs:,} by {name}"
            print(f"  {judged:<30}{seconds:>10.1f}{each:>10.2f}{peak:>10,.0f}  {figure['status']}")


def goals(sizes: tuple[int, ...], report: Report, *, quick: bool) -> list[dict[str, Any]]:
    """Return the goals and whether they hold."""
    few, many = sizes

    def seconds(name: str, runs: int) -> float:
        return float(report.figures.get(name, {}).get(runs, {}).get("seconds", math.nan))

    growth = seconds("one process", many) / many / (seconds("one process", few) / few)
    at_most = [("answers of the cluster that are not those of one process", report.different, 0)]
    if not quick:
        at_most += [
            (f"a run of {many:,} by one process, as a multiple of one of {few:,}", growth, 1.25),
            (
                f"{many:,} runs by the cluster, as a multiple of one process",
                seconds("Ray, 2 workers", many) / seconds("one process", many),
                1.25,  # on the same cores, which Ray's processes need too
            ),
        ]
        at_most += [
            ("200 runs judged, beyond reading, seconds", report.beyond_reading["many"], 1.0),
            ("a run of 10,000 rows of seven experts, seconds", report.beyond_reading["long"], 0.2),
        ]
    at_most.append(("times that ours failed", report.failures_of_ours(), 0))
    return judged([], at_most)


if __name__ == "__main__":
    sys.exit(main())
