"""Real trainings of mixtures: how often the claim `distinct` errs where experts are alike, and where they differ.

    python benchmarks/distinct.py [--quick] [--json FILE] [--runs FOLDER] [--jobs N]

Trains small mixtures under build/distinct (two to seven seconds each on one core; finished runs are kept) of many kinds
(distinct_models.py): copies that get the same tokens, in the same or in other orders, and experts that differ by their
start, by their tokens, or by chance alone. Each run is judged by itself, over its experts, and each kind over its
seeds. The truth of a run is the mean direction between its experts by a larger batch, at the same steps. A kind counts
as null if its truth is at most the margin, and as different above.

Coverage is that of subsets: of some experts of runs with many, and of six seeds of kinds with twelve. The mean over all
of them is then known, and the interval is shortened by the factor of a finite population.

Exits 0 only if every goal holds. `--quick`: three of the kinds, two seeds each. Otherwise the table goes to
benchmarks/results/distinct.json. `--jobs 0` trains nothing and takes the finished runs.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import BUILD, ROOT, Skips, conclude, judged, options

sys.path.insert(0, str(ROOT))

from distinct_models import KINDS, QUICK, TRUTH, Kind, train

from prismatic.contract.thresholds import Thresholds
from prismatic.runfile.manage import summarize
from prismatic.terminal import print_out, table
from validation.analysis.distinct import DIRECTION, OUTPUTS, WEIGHTS, over_experts
from validation.analysis.intervals import Interval, student
from validation.analysis.statistics import Array
from validation.files.read_files import read_files
from validation.judgement.judge import Judgement, judge
from validation.verdict.claims import INVALID, REFUTED, SUPPORTED, Claim

RUNS = BUILD / "distinct"
RESULTS = ROOT / "benchmarks" / "results" / "distinct.json"
QUICK_SEEDS = 2
THRESHOLDS = Thresholds()
MARGIN, ALPHA, SEEDS = THRESHOLDS.divergence_direction, THRESHOLDS.alpha, int(THRESHOLDS.min_seeds)
MANY = 12  # experts of a run, of which some are drawn
SUBSETS = (3, 4, 6)  # experts
DRAWS = 300
BANDS = (-math.inf, MARGIN, 0.1, 0.2, 0.4, math.inf)
COPIES = 0.0  # the truth of runs of the Prismatic layer, whose experts are copies and get one gradient
CLEAR = 0.2  # truth from which on differences must be found


def row_of(kind: Kind, paths: Sequence[Path]) -> dict[str, Any] | None:
    """Return every figure of one kind of training; None without a run."""
    files = [file for file in read_files(paths)[0] if TRUTH in file.facts or kind.model == "prismatic"]
    if not files:
        return None
    whole = judge(files)
    singles = [
        _run_row(judge([file]), COPIES if kind.model == "prismatic" else file.facts.get(TRUTH)) for file in files
    ]
    known = [each["truth"] for each in singles if each["truth"] is not None]
    (group,) = whole.verdict.groups
    of_seeds = None if group.distinct_claim is None or len(files) < SEEDS else _claim_row(group.distinct_claim)
    matrices = [each.pairs.last_third(DIRECTION) for each in whole.measured if each.pairs is not None]
    dice = np.random.default_rng(0)
    return {
        "kind": kind.name,
        "model": kind.model,
        "experts": kind.experts,
        "truth": float(np.mean(known)) if known else math.nan,
        "runs": singles,
        "over seeds": of_seeds,
        **{name: _mean_of(whole, name) for name in (WEIGHTS, OUTPUTS)},
        "subsets of experts": [
            subsets_of_experts(matrices, size, dice).as_row() for size in SUBSETS if kind.experts >= MANY
        ],
        "subsets of seeds": subsets_of_seeds([each["estimate"] for each in singles], dice).as_row(),
    }


def _run_row(judgement: Judgement, truth: object) -> dict[str, Any]:
    """Return the claim of one run over its experts, beside the truth; None where even large batches were noise."""
    (group,) = judgement.verdict.groups
    claim = group.distinct_claim
    if claim is None:
        raise RuntimeError(f"{judgement.runs[0].id}: the claim was not judged")
    known = isinstance(truth, int | float) and math.isfinite(truth)
    return {**_claim_row(claim), "truth": float(truth) if known else None}


def _claim_row(claim: Claim) -> dict[str, Any]:
    known = {name: getattr(claim, name) for name in ("status", "estimate", "low", "high")}
    return {**known, "reason": str(claim.reason)}


def _mean_of(judgement: Judgement, name: str) -> float:
    found = [np.nanmean(each.pairs.last_third(name)) for each in judgement.measured if each.pairs is not None]
    return float(np.mean(found)) if found else math.nan


class Covered:
    """Intervals of subsets, beside the mean over the whole: how many hold it, and how many support the claim."""

    def __init__(self, size: int):
        self.size, self.of, self.held, self.above, self.below = size, 0, 0, 0, 0

    def add(self, interval: Interval, whole: float, share: float) -> None:
        """Count an interval. share: of the units that are in the subset."""
        if not interval.bounded:
            return
        half = (interval.high - interval.mid) * math.sqrt(1 - share)
        self.of += 1
        self.held += abs(interval.mid - whole) <= half
        self.above += interval.mid - half > whole
        self.below += interval.mid + half < whole

    def as_row(self) -> dict[str, Any]:
        """Return everything as plain numbers."""
        return {"size": self.size, "intervals": self.of, "held": self.held, "above": self.above, "below": self.below}


def subsets_of_experts(matrices: Sequence[Array], size: int, dice: np.random.Generator) -> Covered:
    """Count intervals of some experts of each run that hold the mean over all of its experts."""
    covered = Covered(size)
    for matrix_EE in matrices:
        known = np.flatnonzero(np.isfinite(matrix_EE).any(axis=0))
        whole = over_experts(matrix_EE, ALPHA).mid
        for _ in range(DRAWS if len(known) >= MANY else 0):
            chosen = dice.permutation(known)[:size]
            covered.add(over_experts(matrix_EE[np.ix_(chosen, chosen)], ALPHA), whole, size / len(known))
    return covered


def subsets_of_seeds(estimates: Sequence[float | None], dice: np.random.Generator) -> Covered:
    """Count intervals of six seeds that hold the mean over all seeds, if there are twice as many."""
    known = np.array([value for value in estimates if value is not None])
    covered = Covered(SEEDS)
    for _ in range(DRAWS if len(known) >= 2 * SEEDS else 0):
        chosen = dice.permutation(known)[:SEEDS]
        covered.add(student(chosen, ALPHA), float(known.mean()), SEEDS / len(known))
    return covered


def bands(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return by size of the true difference how many runs, and how many kinds over seeds, are supported or refuted."""
    found = []
    for low, high in pairwise(BANDS):
        chosen = [row for row in rows if low < row["truth"] <= high]
        runs = [run for row in chosen for run in row["runs"]]
        groups = [row["over seeds"] for row in chosen if row["over seeds"]]
        found.append(
            {
                "truth": f"above {low:g}" if math.isinf(high) else f"up to {high:g}",
                "kinds": len(chosen),
                "runs": len(runs),
                **{f"runs {status}": _count(runs, status) for status in (SUPPORTED, REFUTED, INVALID)},
                "groups": len(groups),
                **{f"groups {status}": _count(groups, status) for status in (SUPPORTED, REFUTED)},
            }
        )
    return found


def _count(claims: Sequence[Mapping[str, Any]], status: str) -> int:
    return sum(claim["status"] == status for claim in claims)


def goals(rows: Sequence[Mapping[str, Any]], *, quick: bool) -> list[dict[str, Any]]:
    """Return every goal."""
    null, planted = ([row for row in rows if (row["truth"] > MARGIN) == differs] for differs in (False, True))
    clear = [row for row in planted if row["truth"] > CLEAR]
    null_runs, clear_runs = ([run for row in some for run in row["runs"]] for some in (null, clear))
    several = [run for row in clear if row["experts"] > THRESHOLDS.min_experts for run in row["runs"]]
    groups, clear_groups = ([row["over seeds"] for row in some if row["over seeds"]] for some in (null, clear))
    errors = [run["estimate"] - run["truth"] for run in null_runs if None not in (run["estimate"], run["truth"])]
    at_least = [
        ("real null runs", len(null_runs), 2 * QUICK_SEEDS if quick else 60),
        (f"differences above {CLEAR:g} found, one run of four and more experts", _share(several, SUPPORTED), 0.95),
    ]
    at_most = [
        ("null runs called distinct", _share(null_runs, SUPPORTED), 0.05),
        (f"runs with differences above {CLEAR:g} called alike", _share(clear_runs, REFUTED), 0.05),
        ("null runs: mean error of the estimate", abs(float(np.mean(errors))), 0.01),
    ]
    if not quick:
        at_least.append((f"differences above {CLEAR:g} found, over six seeds", _share(clear_groups, SUPPORTED), 0.95))
        at_most.append(("null kinds called distinct, over six seeds", _share(groups, SUPPORTED), 0.05))
        for unit, found in _covered(rows).items():
            at_least.append((f"intervals of {unit} that hold the mean over all", _part(found, "held"), 0.92))
            at_most.append((f"intervals of {unit} that lie above the mean over all", _part(found, "above"), 0.025))
    return judged(at_least, at_most)


def _covered(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the counts of intervals of subsets, of all kinds that have them, by unit."""
    found = {"six seeds": [row["subsets of seeds"] for row in rows]}
    of_experts = [each for row in rows for each in row["subsets of experts"]]
    return found | {f"{size} experts": [each for each in of_experts if each["size"] == size] for size in SUBSETS}


def _part(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    total = sum(row["intervals"] for row in rows)
    return sum(row[name] for row in rows) / total if total else math.nan


def _share(claims: Sequence[Mapping[str, Any]], status: str) -> float:
    return _count(claims, status) / len(claims) if claims else math.nan


def trained(kind: Kind, seeds: int, folder: Path, pool: Any) -> list[Path]:
    """Return the run files of a kind; without a pool, the finished ones."""
    if pool is None:
        found = [kind.path(folder, seed) for seed in range(seeds)]
        return [path for path in found if path.exists() and summarize(path).status == "finished"]
    return list(pool.starmap(train, [(kind, seed, folder) for seed in range(seeds)], chunksize=1))


def main() -> int:
    """Train, judge and print; return 0 if every goal holds."""
    parser = options(__doc__, "three of the kinds, two seeds each")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help="where the runs are")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="trainings at a time")
    chosen = parser.parse_args()
    kinds = [kind for kind in KINDS if not chosen.quick or kind.name in QUICK]
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = multiprocessing.get_context("spawn").Pool(chosen.jobs) if chosen.jobs else None
    try:
        paths = [trained(k, QUICK_SEEDS if chosen.quick else k.seeds, chosen.runs, pool) for k in kinds]
    finally:
        if pool is not None:
            pool.terminate()
    rows = [row for row in map(row_of, kinds, paths) if row]
    print_out(table([*map(_printed, rows)]))
    print_out(table(bands(rows)))
    to = chosen.json or (None if chosen.quick else RESULTS)
    figures = {"margin": MARGIN, "kinds": rows, "by size of the difference": bands(rows)}
    return conclude(goals(rows, quick=chosen.quick), figures, Skips(), quick=chosen.quick, to=to)


def _printed(row: Mapping[str, Any]) -> dict[str, Any]:
    runs, group = row["runs"], row["over seeds"]
    known = [run["estimate"] for run in runs if run["estimate"] is not None]
    return {
        "kind": row["kind"],
        "truth": f"{row['truth']:.3f}",
        "estimate": f"{np.mean(known):.3f}" if known else "-",
        "weights": f"{row[WEIGHTS]:.3f}",
        "outputs": f"{row[OUTPUTS]:.3f}",
        "runs supported": f"{_count(runs, SUPPORTED)} of {len(runs)}",
        "refuted": _count(runs, REFUTED),
        "over seeds": group["status"] if group else "-",
    }


if __name__ == "__main__":
    sys.exit(main())
