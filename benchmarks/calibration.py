"""Error rates of the verdict on simulated experiments of known truth: decisions, and data that was damaged.

    python benchmarks/calibration.py [--quick] [--json FILE] [--case NAME ...]

A *case* (calibration_cases.py) draws many experiments: groups of seeds whose experts differ by draw, with and without
twins, or single runs with several experts of each role. Where the question is about decisions, their levels are drawn;
where it is about data, every row is, and the runs are judged as a file is, with all diagnostics. Each case counts some
answers, and each answer has a limit.

A goal fails if the 99 % Clopper-Pearson interval of its share lies beyond the limit, over all cells of the case (kinds
of spread, noise and twins), or if the 99.9 % interval of one cell does. Exits 0 only if every goal holds. `--quick`
draws fewer experiments; otherwise the table is written to benchmarks/results/calibration.json.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import ROOT, Skips, conclude, options

sys.path.insert(0, str(ROOT))

from calibration_cases import CASES, Answers, Case, Goal
from scipy import stats

RESULTS = ROOT / "benchmarks" / "results" / "calibration.json"
SURE, SURE_OF_CELL = 0.99, 0.999
CHUNK = 20  # experiments in a task of a worker
Key = tuple[str, int]
"""The name of a case, and the place of a cell."""


@dataclass
class Tally:
    """The answers to one question: how often yes, or numbers."""

    yes: int = 0
    of: int = 0
    numbers: list[float] = field(default_factory=list)

    def add(self, answer: bool | float | tuple[int, int]) -> None:
        """Count an answer."""
        if isinstance(answer, float):
            self.numbers.append(answer)
            return
        yes, of = answer if isinstance(answer, tuple) else (int(answer), 1)
        self.yes += yes
        self.of += of

    def interval(self, sure: float) -> tuple[float, float, float]:
        """Return the share, or the size of the mean number, with its interval; NaN without answers."""
        if self.numbers:
            mid, error = abs(np.mean(self.numbers)), np.std(self.numbers, ddof=1) / np.sqrt(len(self.numbers))
            half = float(stats.norm.ppf((1 + sure) / 2) * error)
            return float(mid), max(float(mid) - half, 0.0), float(mid) + half
        if not self.of:
            return math.nan, math.nan, math.nan
        found = stats.binomtest(self.yes, self.of).proportion_ci(sure, method="exact")
        return self.yes / self.of, float(found.low), float(found.high)


def answers(work: tuple[str, int, int, int]) -> tuple[Key, list[Answers]]:
    """Draw some experiments of one cell; the seed follows from the case, the cell and the number."""
    name, place, first, count = work
    case = next(case for case in CASES if case.name == name)
    dice = (np.random.default_rng([*name.encode(), place, number]) for number in range(first, first + count))
    return (name, place), [case.draw(each, **case.cells[place]) for each in dice]


def tallies(cases: Sequence[Case], *, quick: bool, jobs: int | None) -> dict[Key, dict[str, Tally]]:
    """Return the answers of every cell of these cases, computed by some processes."""
    work = []
    for case in cases:
        count = -(-(case.quick if quick else case.experiments) // len(case.cells))
        for place in range(len(case.cells)):
            work += [(case.name, place, first, min(CHUNK, count - first)) for first in range(0, count, CHUNK)]
    found: dict[Key, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for key, some in pool.imap_unordered(answers, work):
            for each in some:
                for question, answer in each.items():
                    found[key][question].add(answer)
    return found


def goal_row(case: Case, goal: Goal, found: Mapping[Key, Mapping[str, Tally]]) -> dict[str, Any]:
    """Return a goal with its figure, interval and cells."""
    of_cells = [(cell, found[case.name, place].get(goal.answer)) for place, cell in enumerate(case.cells)]
    cells = [(cell, tally) for cell, tally in of_cells if tally is not None]
    whole = Tally(
        sum(tally.yes for _, tally in cells),
        sum(tally.of for _, tally in cells),
        [number for _, tally in cells for number in tally.numbers],
    )
    figure, low, high = whole.interval(SURE)

    def holds(low: float, high: float) -> bool:
        return low <= goal.limit if goal.most else high >= goal.limit

    failing = [cell for cell, tally in cells if not holds(*tally.interval(SURE_OF_CELL)[1:])]
    return {
        "goal": f"{case.name}: {goal.answer}",
        "figure": figure,
        "low": low,
        "high": high,
        "limit": f"{'<=' if goal.most else '>='} {goal.limit:g}",
        "holds": holds(low, high) and not failing,
        "experiments": whole.of or len(whole.numbers),
        "failing": failing,
        "cells": [{**cell, "figure": tally.interval(SURE)[0], "experiments": tally.of} for cell, tally in cells],
    }


def main() -> int:
    """Draw, judge and print; return 0 if every goal holds."""
    parser = options(__doc__, "fewer experiments of each case")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="only cases with one of these in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes")
    chosen = parser.parse_args()
    cases = [case for case in CASES if not chosen.case or any(part in case.name for part in chosen.case)]
    started = time.perf_counter()
    found = tallies(cases, quick=chosen.quick, jobs=chosen.jobs)
    rows = [goal_row(case, goal, found) for case in cases for goal in case.goals]
    seconds = round(time.perf_counter() - started)
    print(f"{seconds} s")
    to = chosen.json or (None if chosen.quick or chosen.case else RESULTS)
    return conclude(rows, {"seconds": seconds}, Skips(), quick=chosen.quick, to=to)


if __name__ == "__main__":
    sys.exit(main())
