"""Error rates and power of the verdict on simulated runs with a known truth, for many kinds of noise.

    python benchmarks/calibration.py [--quick] [--json FILE] [--family NAME ...]

A *scenario* draws runs: log norms with noise that all experts share and noise of each tier, both AR(1) with
Student-t(5) innovations, a declining trend, an early transient of the perturbed expert, and drifting routing shares. A
*family* is one question about the verdicts, asked in every *cell*: n logged steps, correlation rho of neighbouring
steps, standard deviation sd of the noise. Power is tested where the effective number of independent steps,
n (1 - rho) / (1 + rho), is at least 30. Simulated runs pass the same diagnostics and rules as run files.

A family passes only if every cell passes: its share is within the limit, and the 95 % Clopper-Pearson bound within
three points of it. Families of power make sure that always answering "inconclusive" does not pass. Exits 0 only if
every family passes. `--quick` tests error rates only, with n of 200 and 1,000 and 60 runs per cell; a cell then fails
if its lower bound is beyond the limit. Without it the table is written to benchmarks/results/calibration.json.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import signal, stats

sys.path.insert(0, str(Path(__file__).parent.parent))

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import METRICS, Expert, Run
from validation.diagnostics import diagnose, invalidating
from validation.verdict.claims import CLAIMS, CONFOUNDED, INVALID, REFUTED, SUPPORTED
from validation.verdict.decide import decide

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results" / "calibration.json"
LEVELS = {"top": 0.2, "bottom": 0.2, "middle": 0.9}
ENOUGH = 30.0  # effective independent steps from which power is tested
SLACK = 0.03  # by which the Clopper-Pearson bound may exceed the limit
AWAKENED, DIVERGED = math.log(1.5), math.log(3)
OWN = 0.5  # share of the noise's sd that is independent per tier and expert; a difference of differences then has sd
CHUNK = 25  # runs per task of a worker


@dataclass(frozen=True, order=True)
class Cell:
    """A kind of noise: n steps, rho between neighbours, standard deviation sd."""

    n: int
    rho: float
    sd: float

    @property
    def information(self) -> float:
        """The effective number of independent steps."""
        return self.n * (1 - self.rho) / (1 + self.rho)

    def __str__(self) -> str:
        return f"n={self.n} rho={self.rho} sd={self.sd}"


@dataclass(frozen=True)
class Family:
    """A question about the verdicts on one scenario. most: the limit is a maximum (errors), otherwise a minimum."""

    name: str
    scenario: str
    answer: Callable[[Outcome], bool]
    limit: float
    most: bool = True
    power: bool = False

    def holds(self, yes: int, of: int, quick: bool) -> bool:
        low, high = clopper_pearson(yes, of)
        if quick:
            return low <= self.limit if self.most else high >= self.limit
        if self.most:
            return yes / of <= self.limit and high <= self.limit + SLACK
        return yes / of >= self.limit and low >= self.limit - SLACK


@dataclass(frozen=True)
class Outcome:
    """The statuses of the controlled reading of one run."""

    overall: str
    awakening: str
    divergence: str
    sustainment: str


def clopper_pearson(yes: int, of: int) -> tuple[float, float]:
    interval = stats.binomtest(yes, of).proportion_ci(method="exact")
    return float(interval.low), float(interval.high)


def has_status(claim: str, status: str) -> Callable[[Outcome], bool]:
    return lambda outcome: getattr(outcome, claim) == status


def never_supported(outcome: Outcome) -> bool:
    return SUPPORTED not in (outcome.overall, *(getattr(outcome, claim) for claim in CLAIMS))


def families() -> Iterator[Family]:
    """Yield every question that the verdict must pass."""
    for scenario in ("null, drifting routing", "null, strong routing"):
        for claim in CLAIMS:
            yield Family(f"false {claim}: {scenario}", scenario, has_status(claim, SUPPORTED), 0.05)
    for life in ("1/4", "1/2"):
        scenario = f"collapse, half-life {life}"
        yield Family(f"false sustainment: {scenario}", scenario, has_status("sustainment", SUPPORTED), 0.05)
    yield Family("false collapse: sustained", "sustained", has_status("sustainment", REFUTED), 0.05)
    yield Family("false refutation: awakening 1.5x", "awakening", has_status("awakening", REFUTED), 0.05)
    power = functools.partial(Family, most=False, power=True)
    yield power("power: awakening 1.5x", "awakening", has_status("awakening", SUPPORTED), 0.95)
    yield power("power: sustained", "sustained", has_status("sustainment", SUPPORTED), 0.95)
    for life, least in (("1/4", 0.95), ("1/2", 0.80)):
        yield power(
            f"power: collapse, half-life {life}",
            f"collapse, half-life {life}",
            has_status("sustainment", REFUTED),
            least,
        )
    confound = "one common gradient"
    yield Family(f"confounded: {confound}", confound, has_status("overall", CONFOUNDED), 0.99, most=False)
    yield Family(f"supported: {confound}", confound, lambda outcome: not never_supported(outcome), 0.0)
    for damage in ("40 % NaN", "NaN at the end"):
        yield Family(f"invalid: {damage}", damage, has_status("overall", INVALID), 0.99, most=False)
    for damage in ("10 % NaN", "5 % zeros", "a gap of 20 %"):
        yield power(f"awakening 1.5x survives: {damage}", damage, has_status("awakening", SUPPORTED), 0.95)


def ar1(rng: np.random.Generator, cell: Cell, count: int) -> Array:
    """Return `count` stationary AR(1) series with t(5) innovations, [count, n]."""
    scale = cell.sd * math.sqrt((1 - cell.rho**2) / (5 / 3))  # 5 / 3 is the variance of t(5)
    noise = rng.standard_t(5, size=(count, cell.n)) * scale
    start = rng.normal(size=(count, 1)) * cell.sd
    return np.asarray(signal.lfilter([1.0], [1.0, -cell.rho], noise, zi=cell.rho * start, axis=1)[0])


def drifting(rng: np.random.Generator, steps: int, sd: float = 0.3) -> Array:
    """Return a slow drift of a log routing share: waves with random phases, of standard deviation sd."""
    time_T = np.linspace(0, 1, steps)
    waves = [rng.normal() * np.sin(2 * np.pi * (k * time_T + rng.random())) for k in (0.5, 1, 1.5)]
    return np.asarray(sd * np.sum(waves, axis=0) * math.sqrt(2 / 3))


def draw(scenario: str, cell: Cell, rng: np.random.Generator) -> Run:
    """Draw one run of a scenario: a clean expert, a perturbed one and a control expert."""
    time_T = np.linspace(0, 1, cell.n)
    common = ar1(rng, cell, 1)[0] * math.sqrt(1 - OWN**2)
    own = ar1(rng, cell, 9).reshape(3, 3, cell.n) * (0.0 if scenario == "one common gradient" else OWN)
    logits = np.stack([drifting(rng, cell.n) for _ in range(3)])
    logits[1] += math.log(2) if scenario in ("null, strong routing", "one common gradient") else 0
    share = np.exp(logits) / np.exp(logits).sum(axis=0)
    log_norm = np.log(share)[:, None, :] - 0.7 * time_T + common + own + np.log(list(LEVELS.values()))[:, None]
    if scenario != "one common gradient":
        log_norm[1] += np.exp(-time_T / 0.02)  # an early transient, over within the warm-up
    if scenario.startswith("collapse"):
        log_norm[1] += DIVERGED * 2 ** (-time_T / (0.25 if scenario.endswith("1/4") else 0.5))
    elif scenario == "sustained":
        log_norm[1] += DIVERGED
    elif not scenario.startswith(("null", "one")):
        log_norm[1, 1] += AWAKENED  # the bottom tier alone awakes
    norm = np.exp(log_norm)
    steps = np.arange(cell.n)
    if scenario == "a gap of 20 %":
        kept = (time_T < 0.4) | (time_T >= 0.6)
        steps, norm, share = steps[kept], norm[..., kept], share[:, kept]
    return as_run(steps, damaged(scenario, norm, rng), share, cell.n)


def damaged(scenario: str, norm: Array, rng: np.random.Generator) -> Array:
    """Return norms [expert, tier, T] with some rows missing or zero."""
    rows = rng.random(norm.shape[-1])
    if scenario == "40 % NaN":
        norm[1][:, rows < 0.4] = np.nan
    elif scenario == "10 % NaN":
        norm[1][:, rows < 0.1] = np.nan
    elif scenario == "5 % zeros":
        norm[1][:, rows < 0.05] = 0.0
    elif scenario == "NaN at the end":
        norm[:, :, -max(5, norm.shape[-1] // 50) :] = np.nan
    return norm


def as_run(steps: NDArray[np.int64], norm: Array, share: Array, planned: int) -> Run:
    """Return norms [expert, tier, T] as a run that was logged at every step."""
    whole = np.sqrt((norm**2).sum(axis=1))
    experts = {}
    for number, role in enumerate(("clean", "perturbed", "control")):
        columns = dict.fromkeys(METRICS, np.full(len(steps), np.nan))
        columns |= {f"{tier}_norm": norm[number, k] for k, tier in enumerate(LEVELS)}
        columns |= {"norm": whole[number], "routing_weight": share[number]}
        columns |= {"divergence": np.abs(norm[number] - norm[0]).mean(axis=0)} if number else {}
        experts[number] = Expert(number, role, columns)
    facts = {"planned_steps": planned, "exit_state": "finished"}
    return Run(id="simulated", name="simulated", steps=steps, experts=experts, facts=facts)


def judged(run: Run) -> Outcome:
    """Judge one run as a run file is judged and return the controlled reading."""
    thresholds = Thresholds()
    verdict = decide([run], invalidating(diagnose(run, thresholds)), thresholds)
    claims = {claim.name: claim.status for claim in verdict.controlled.claims if claim.expert is None}
    return Outcome(verdict.status, **{name: claims[name] for name in CLAIMS})


def outcomes(work: tuple[str, Cell, int, int]) -> tuple[str, Cell, list[Outcome]]:
    """Draw and judge some runs of one scenario in one cell; the seed follows from scenario, cell and number."""
    scenario, cell, first, count = work
    key = [*scenario.encode(), cell.n, round(cell.rho * 100), round(cell.sd * 100)]
    rngs = (np.random.default_rng([*key, number]) for number in range(first, first + count))
    return scenario, cell, [judged(draw(scenario, cell, rng)) for rng in rngs]


def cells(quick: bool) -> list[Cell]:
    lengths = (200, 1000) if quick else (200, 1000, 10_000)
    return [Cell(*values) for values in itertools.product(lengths, (0.5, 0.9, 0.95, 0.99), (0.1, 0.3))]


def measured(selected: list[Family], runs: int, quick: bool) -> dict[tuple[str, Cell], list[Outcome]]:
    """Return the outcomes of every scenario of these families in every cell, computed on all processors."""
    wanted = {
        (f.scenario, cell) for f in selected for cell in cells(quick) if not f.power or cell.information >= ENOUGH
    }
    work = [
        (scenario, cell, first, min(CHUNK, runs - first))
        for scenario, cell in sorted(wanted, key=lambda pair: -pair[1].n)
        for first in range(0, runs, CHUNK)
    ]
    found: dict[tuple[str, Cell], list[Outcome]] = {}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for scenario, cell, some in pool.imap_unordered(outcomes, work):
            found.setdefault((scenario, cell), []).extend(some)
    return found


def table(
    selected: Iterable[Family], found: dict[tuple[str, Cell], list[Outcome]], quick: bool
) -> list[dict[str, Any]]:
    """Return a row per family: its worst cell, whether all cells hold, and each cell's count."""
    rows = []
    for family in selected:
        counts = {
            cell: (sum(map(family.answer, some)), len(some))
            for (scenario, cell), some in sorted(found.items())
            if scenario == family.scenario and (not family.power or cell.information >= ENOUGH)
        }
        shares = {cell: yes / of for cell, (yes, of) in counts.items()}
        worst = (max if family.most else min)(shares, key=lambda cell: shares[cell])
        failing = [cell for cell, (yes, of) in counts.items() if not family.holds(yes, of, quick)]
        rows.append(
            {
                "family": family.name,
                "must": f"{'<=' if family.most else '>='} {family.limit:.0%}",
                "worst": shares[worst],
                "bound": clopper_pearson(*counts[worst])[family.most],
                "worst_cell": str(worst),
                "cells": len(counts),
                "failing": [str(cell) for cell in failing],
                "holds": not failing,
                "each": [{**asdict(cell), "yes": yes, "runs": of} for cell, (yes, of) in counts.items()],
            }
        )
    return rows


def main() -> int:
    """Measure, print the table, and return 0 if every family passes."""
    options = arguments()
    selected = [f for f in families() if not (options.quick and (f.power or not f.most))]
    selected = [f for f in selected if not options.family or any(part in f.name for part in options.family)]
    runs, started = options.runs or (60 if options.quick else 300), time.perf_counter()
    rows = table(selected, measured(selected, runs, options.quick), options.quick)
    print(f"{'family':<56} {'must':>7} {'worst':>7} {'bound':>7}  cells  worst cell")
    for row in rows:
        holds = "holds" if row["holds"] else f"FAILS in {len(row['failing'])}"
        print(
            f"{row['family']:<56} {row['must']:>7} {row['worst']:7.1%} {row['bound']:7.1%}  "
            f"{row['cells']:>5}  {row['worst_cell']:<24} {holds}"
        )
    passed = all(row["holds"] for row in rows)
    seconds = time.perf_counter() - started
    print(f"\n{'every family passes' if passed else 'NOT every family passes'}; {runs} runs a cell, {seconds:.0f} s")
    target = options.json or (None if options.quick or options.family or options.runs else RESULTS)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        report = {"about": about(runs, seconds), "passed": passed, "families": rows}
        target.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if passed else 1


def about(runs: int, seconds: float) -> dict[str, Any]:
    """Return the date, machine and versions of the figures."""
    versions = {"numpy": np.__version__, "scipy": scipy.__version__, "python": platform.python_version()}
    machine = {"machine": platform.machine(), "processors": os.cpu_count()}
    return {"date": time.strftime("%Y-%m-%d"), "runs_per_cell": runs, "seconds": round(seconds), **machine, **versions}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="error rates only, fewer runs and lengths")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--family", nargs="+", metavar="NAME", help="only families with one of these in their name")
    parser.add_argument("--runs", type=int, metavar="N", help="runs a cell")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
