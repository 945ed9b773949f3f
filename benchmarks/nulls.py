"""Real null runs of many kinds: how often the verdict is wrong where nothing was perturbed.

    python benchmarks/nulls.py [--quick] [--json FILE] [--runs FOLDER] [--jobs N]

Trains small byte-level models under build/nulls (about ten seconds each on one core; finished runs are kept) in which
no expert was perturbed by more than 0.002 of its weights. Perturbed and control experts are then draws of one kind, so
their roles may be exchanged: for many random assignments of the roles, groups of 6, 8 and 12 runs and single runs are
measured and decided as if they had been perturbed. An interval should hold zero in 95 % of them, and no claim should
be supported. The same runs answer whether statuses depend on the unit of the loss, how many runs survive a loss of
rows, how far apart honest runs are, and what another threshold of reliability would measure.

Exits 0 only if every goal holds. `--quick`: six of the kinds. Otherwise the table goes to
benchmarks/results/nulls.json. `--jobs 0` trains nothing and takes the finished runs.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from common import BUILD, ROOT, Skips, conclude, judged, options

sys.path.insert(0, str(ROOT))

from numpy.typing import NDArray
from run_changes import as_perturbed, scaled, statuses, with_roles, with_rows
from scipy import stats
from trainings import BASE, train_all

from prismatic.contract.thresholds import Thresholds
from prismatic.terminal import print_out, table
from prismatic.train.config import RunConfig, parse_config
from validation.analysis.bins import BINS
from validation.analysis.cohort import Cohort, MeasuredRun, measure_run
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, Levels, levels_of
from validation.analysis.experiment import measure
from validation.analysis.load import load_runs
from validation.analysis.measurements import Measurements
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array
from validation.diagnostics import invalidating
from validation.files.cache import Cache
from validation.files.read_files import read_files
from validation.judgement.judge import combine_judgements, judge_each
from validation.verdict.claims import SUPPORTED
from validation.verdict.rules import DECIDE

RUNS = BUILD / "nulls"
RESULTS = ROOT / "benchmarks" / "results" / "nulls.json"
QUICK_KINDS = 6
SIZES = (6, 8, 12)  # seeds of a group
ASSIGNMENTS = 400  # of roles, for each kind and number of seeds, and at most for each run
LOST, LOSSES = 0.05, 10  # share of the rows, and random losses for each run
FACTORS = (0.01, 100)  # of the loss
COMPONENTS = (BOTTOM, SIZE, DIRECTION)
THRESHOLDS = Thresholds()
LOOSER = Thresholds(reliability=0.05)
RELIABILITIES = ((0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 0.8))
ENOUGH_BINS = 20  # for a median
DEPENDENT = "statuses that depend on the loss"


@dataclass(frozen=True)
class Kind:
    """A kind of training, as the options in which it differs from the others."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    text: str | None = None
    seeds: int = 12

    def configs(self) -> list[RunConfig]:
        data = {"data": str(_text(self.text))} if self.text else {}
        return [parse_config({**BASE, **self.options, **data, "seed": seed}) for seed in range(self.seeds)]


def kinds() -> Iterator[Kind]:
    """Yield every kind; the first six are those of --quick."""
    yield Kind("2 perturbed, 2 controls, probe")
    yield Kind("1 perturbed, 1 control", {"num_experts": 2, "control_experts": 1})
    yield Kind("1 layer", {"num_layers": 1})
    yield Kind("scale 0", {"perturbation_scale": 0.0, "control_scale": 0.0})
    yield Kind("batch 2", {"batch_size": 2}, seeds=24)
    yield Kind("merged gradients, no probe", {"probe_freq": 0})
    yield Kind("4 layers", {"num_layers": 4})
    yield Kind("6 layers of 16", {"num_layers": 6, "hidden_size": 16})
    yield Kind("1 perturbed, 3 controls", {"num_experts": 2, "control_experts": 3})
    yield Kind("4 perturbed, 1 control", {"num_experts": 5, "control_experts": 1})
    yield Kind("4 perturbed, 4 controls", {"num_experts": 5, "control_experts": 4})
    yield Kind("batch 4", {"batch_size": 4})
    yield Kind("batch 32 of 16", {"batch_size": 32, "sequence_length": 16})
    yield Kind("learning rate 0.001", {"learning_rate": 0.001})
    yield Kind("learning rate 0.01", {"learning_rate": 0.01})
    yield Kind("no warm-up", {"warmup_steps": 0})
    yield Kind("long warm-up", {"warmup_steps": 200})
    yield Kind("expert dropout", {"expert_dropout": 0.3})
    yield Kind("load balancing", {"load_balancing": 0.05})
    yield Kind("merge batch, probe", {"merge": "batch"})
    yield Kind("frozen routing", {"routing": "frozen"})
    yield Kind("first position routes", {"router_input": "first"})
    yield Kind("scale 0.002", {"perturbation_scale": 0.002})
    yield Kind("sparsity 0.02", {"sparsity": 0.02})
    yield Kind("sparsity 0.4", {"sparsity": 0.4})
    yield Kind("current tiers", {"tier_basis": "current"})
    yield Kind("weight decay 0.3", {"weight_decay": 0.3})
    yield Kind("clipped gradients", {"max_grad_norm": 0.5})
    yield Kind("hidden size 64", {"hidden_size": 64})
    yield Kind("constant text", text="constant", seeds=24)
    yield Kind("random bytes", text="random")
    yield Kind("two processes", {"batch_size": 4}, processes=2)
    yield Kind("3 perturbed, 3 controls", {"num_experts": 4, "control_experts": 3})
    yield Kind("3 perturbed, 3 controls, 1 layer", {"num_experts": 4, "control_experts": 3, "num_layers": 1})
    yield Kind("3 perturbed, 4 controls, batch 4", {"num_experts": 4, "control_experts": 4, "batch_size": 4})
    yield Kind("6 perturbed, 4 controls", {"num_experts": 7, "control_experts": 4})


def _text(name: str) -> Path:
    """Return a file of text in which there is nothing to learn, or nothing but one sentence."""
    path = BUILD / f"nulls-{name}.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(32, 127, 200_000).astype(np.uint8).tobytes()
        path.write_bytes(noise if name == "random" else b"all work and no play makes a dull day. " * 5000)
    return path


def loaded(paths: Sequence[Path]) -> list[Run]:
    """Return the runs of these files as if they had been perturbed, so that no rule knows that they were not."""
    files, rejected = read_files(paths, cache=Cache())
    if rejected:
        raise RuntimeError(str(rejected[0].error))
    return [as_perturbed(run) for run in load_runs(files)]


def exchanged(run: MeasuredRun, dice: np.random.Generator) -> MeasuredRun:
    """Return the run with the roles of perturbed and control experts assigned at random."""
    roles = np.array(_levels(run).roles)
    places = np.flatnonzero(roles != "clean")
    roles[places] = dice.permutation(roles[places])
    return with_roles(run, roles.tolist())


def assignments(run: MeasuredRun, dice: np.random.Generator) -> list[MeasuredRun]:
    """Return the run with every assignment of its roles, or with some random ones if there are many."""
    roles = _levels(run).roles
    places = [place for place, role in enumerate(roles) if role != "clean"]
    every = [*combinations(places, roles.count("perturbed"))]
    if len(every) > ASSIGNMENTS:
        every = [every[place] for place in dice.permutation(len(every))[:ASSIGNMENTS]]

    def role(place: int, chosen: Sequence[int]) -> str:
        return roles[place] if place not in places else "perturbed" if place in chosen else "control"

    return [with_roles(run, [role(place, chosen) for place in range(len(roles))]) for chosen in every]


@dataclass
class Count:
    """Counts of intervals that held zero, by component, and of supported claims, among some experiments."""

    experiments: int = 0
    held: Counter[str] = field(default_factory=Counter)
    measured: Counter[str] = field(default_factory=Counter)
    supported: Counter[str] = field(default_factory=Counter)

    def add(self, m: Measurements) -> None:
        """Count an experiment."""
        self.experiments += 1
        for name in COMPONENTS:
            if name in m.effects:
                interval = m.effects[name].interval(THRESHOLDS.alpha)
                self.measured[name] += 1
                self.held[name] += interval.low <= 0 <= interval.high
        for claim in DECIDE:
            self.supported[claim] += DECIDE[claim](m).status == SUPPORTED

    def coverage(self, name: str) -> float | None:
        """Return the share of the intervals of a component that held zero; None without any."""
        return self.held[name] / self.measured[name] if self.measured[name] else None

    def share(self, claim: str) -> float:
        """Return the share of the experiments that support a claim."""
        return self.supported[claim] / self.experiments

    def figures(self) -> dict[str, Any]:
        """Return everything as plain numbers."""
        return {
            "experiments": self.experiments,
            **{f"{name} holds 0": self.coverage(name) for name in COMPONENTS},
            **{f"{name} measured": self.measured[name] for name in COMPONENTS},
            **{f"{claim} supported": self.share(claim) for claim in DECIDE},
        }


def groups_of(runs: Sequence[MeasuredRun], size: int, dice: np.random.Generator) -> Count:
    """Count groups of this many runs with exchanged roles."""
    count = Count()
    for _ in range(ASSIGNMENTS):
        chosen = [exchanged(runs[place], dice) for place in dice.permutation(len(runs))[:size]]
        count.add(measure(chosen, Cohort(chosen), THRESHOLDS, {}))
    return count


def single(runs: Sequence[MeasuredRun], dice: np.random.Generator) -> Count:
    """Count single runs, judged by their experts, with every assignment of the roles."""
    count = Count()
    for run in runs:
        for each in assignments(run, dice):
            count.add(measure([each], Cohort([each]), THRESHOLDS, {}))
    return count


def table_row(kind: Kind, runs: Sequence[Run], dice: np.random.Generator) -> dict[str, Any]:
    """Return every figure of one kind of training."""
    measured = [measure_run(run, THRESHOLDS) for run in runs]
    usable = [each for each in measured if _levels(each).bins.usable]
    roles = _levels(measured[0]).roles
    row: dict[str, Any] = {"kind": kind.name, "seeds": len(runs), "usable": len(usable)}
    row["fewest experts"] = min(roles.count("perturbed"), roles.count("control"))
    row["groups"] = {size: groups_of(usable, size, dice).figures() for size in SIZES if size <= len(usable)}
    row["own roles"] = own_roles(usable)
    row["single runs"] = single(usable, dice).figures()
    row["sd"] = _spread(usable)
    row[DEPENDENT] = dependent_on_loss(runs)
    row["honest runs invalid"] = _invalid(runs)
    row["runs with rows lost"] = LOSSES * len(runs)
    row["of these invalid"] = sum(_invalid([_with_losses(run, dice) for run in runs]) for _ in range(LOSSES))
    row["smallest distance"] = smallest_distance(usable)
    row["reliability"] = reliability(runs, dice)
    row["selection bias"] = selection_bias(runs)
    return row


def row_of(kind: Kind, paths: Sequence[Path]) -> dict[str, Any] | None:
    """Return the row of a kind; None if too few of its runs are there."""
    return table_row(kind, loaded(paths), np.random.default_rng(0)) if len(paths) >= SIZES[0] else None


def own_roles(runs: Sequence[MeasuredRun]) -> dict[str, Any]:
    """Return the figures of all runs together with the roles that they had."""
    count = Count()
    count.add(measure(runs, Cohort(runs), THRESHOLDS, {}))
    return count.figures()


def _spread(runs: Sequence[MeasuredRun]) -> dict[str, float]:
    """Return the standard deviation of each effect between seeds."""
    m = measure(runs, Cohort(runs), THRESHOLDS, {})
    return {name: float(effect.x_U3[:, 0].std(ddof=1)) for name, effect in m.effects.items()}


def dependent_on_loss(runs: Sequence[Run]) -> int:
    """Return how many statuses of the runs, alone and together, change when the loss has another unit."""

    def found(factor: float) -> dict[tuple[str | None, str], str]:
        each = judge_each([scaled(run, factor) for run in runs], THRESHOLDS)
        return statuses(combine_judgements([], [], each, THRESHOLDS).verdict)

    plain = found(1.0)
    return sum(other[key] != status for other in map(found, FACTORS) for key, status in plain.items())


def _invalid(runs: Sequence[Run]) -> int:
    """Return how many runs carry no verdict."""
    return len(invalidating(chain(*(each.findings for each in judge_each(runs, THRESHOLDS)))))


def _with_losses(run: Run, dice: np.random.Generator) -> Run:
    return with_rows(run, dice.random(len(run.steps)) >= LOST)


def smallest_distance(runs: Sequence[MeasuredRun]) -> float:
    """Return the smallest root mean square between the levels of two runs."""
    flat = [np.concatenate([level.ravel() for _, level in sorted(_levels(run).of.items())]) for run in runs]
    squares = [(one - other) ** 2 for one, other in combinations(flat, 2)]
    return float(min(np.sqrt(np.nanmean(square)) for square in squares))


def reliability(runs: Sequence[Run], dice: np.random.Generator) -> dict[str, Any]:
    """Return the median reliability, and what groups of six runs find with two thresholds of it."""
    found: dict[str, Any] = {}
    for thresholds in (THRESHOLDS, LOOSER):
        measured = [measure_run(run, thresholds) for run in runs]
        known = [one for each in measured if (one := _levels(each).reliability_ELK) is not None]
        if not known:
            return {}
        found["median"] = float(np.median([np.nanmedian(one) for one in known]))
        clear = [each for each in measured if DIRECTION in _levels(each).measured(BINS)]
        some = groups_of(clear, SIZES[0], dice).figures() if len(clear) >= SIZES[0] else {}
        found[f"{thresholds.reliability:g}"] = {"measured": len(clear), **some}
    return found


def selection_bias(runs: Sequence[Run]) -> dict[str, float | None]:
    """Return by how much directions of bins that are noisy by chance are too large, by reliability.

    The rows of a bin are split into halves: the first half gives the reliability and a direction, and the second, which
    the choice does not touch, gives another one. Their difference, median over bins, is what the choice does.
    """
    found = np.array([bin_ for run in runs if run.isolated for bin_ in _half_bins(run.isolated)])
    biases: dict[str, float | None] = {}
    for low, high in RELIABILITIES:
        chosen = found[(found[:, 0] >= low) & (found[:, 0] < high)] if len(found) else found
        gap = float(np.nanmedian(chosen[:, 1]) - np.nanmedian(chosen[:, 2])) if len(chosen) >= ENOUGH_BINS else None
        biases[f"{low:g} to {high:g}"] = gap
    return biases


def _half_bins(run: Run) -> Iterator[tuple[float, float, float]]:
    """Yield the reliability in half of the rows of a bin, and the direction in that half and in the other one."""
    levels = levels_of(run, THRESHOLDS)
    place_T = levels.bins.place_T if levels else np.zeros(0)
    for layer, k in product(run.layers, range(BINS)):
        rows = np.flatnonzero(place_T == k)
        halves = [_half(layer, half) for half in (rows[::2], rows[1::2]) if len(half)]
        if len(halves) == 2:
            (reliable_E, one_E), (_, other_E) = halves
            yield from zip(np.minimum(reliable_E[1:], reliable_E[0]), one_E[1:], other_E[1:], strict=True)


def _half(layer: Mapping[int, Expert], rows: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return the reliability and the corrected direction of each expert in some rows, [E]; NaN where it is noise."""
    own, crossed, norm = (
        np.array([layer[expert][name][rows] for expert in sorted(layer)])
        for name in ("half_product", "half_product_clean", "norm")
    )
    product_E = own.mean(axis=1)
    squares_E = product_E * product_E[0]
    cosine_E = crossed.mean(axis=1) / np.sqrt(np.where(squares_E > 0, squares_E, np.nan))
    return product_E / (norm**2).mean(axis=1), 1 - cosine_E


def _levels(run: MeasuredRun) -> Levels:
    levels = run.levels(run.source)
    if levels is None:
        raise RuntimeError(f"{run.run.id}: no levels")
    return levels


def goals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every goal."""
    groups = [goal for size in SIZES for goal in goals_of_groups([row["groups"].get(size) for row in rows], size)]
    return [*groups, *goals_of_own_roles(rows), *goals_of_single_runs(rows), *goals_of_data(rows)]


def goals_of_groups(figures: Sequence[Mapping[str, Any] | None], size: int) -> list[dict[str, Any]]:
    """Return the goals of groups with exchanged roles: coverage and false support, over all kinds and in the worst."""
    found = [each for each in figures if each]
    held = {name: [each[f"{name} holds 0"] for each in found] for name in COMPONENTS}
    held = {name: [share for share in shares if share is not None] for name, shares in held.items()}
    supported = {claim: [each[f"{claim} supported"] for each in found] for claim in DECIDE}
    at_least = [(f"{size} seeds: intervals that hold zero, {n}, all kinds", mean(s), 0.94) for n, s in held.items()]
    at_most = [(f"{size} seeds: intervals that hold zero, {n}, all kinds", mean(s), 0.96) for n, s in held.items()]
    at_most += [(f"{size} seeds: false support of {c}, all kinds", mean(s), 0.01) for c, s in supported.items()]
    at_most += [(f"the same, the worst kind, {c}", max(s), 0.025) for c, s in supported.items()]
    surely = [(f"the same: kinds surely below 92 %, {name}", _surely_below(found, name), 0) for name in COMPONENTS]
    return judged(at_least, [*at_most, *surely])


def _surely_below(found: Sequence[Mapping[str, Any]], name: str) -> int:
    """Return the number of kinds whose coverage the 99 % interval of Clopper and Pearson puts below 92 %."""
    counts = [(each[f"{name} holds 0"], each[f"{name} measured"]) for each in found]
    known = [stats.binomtest(round(share * of), of) for share, of in counts if share is not None]
    return sum(bool(test.proportion_ci(0.99, method="exact").high < 0.92) for test in known)


def goals_of_own_roles(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals of all seeds together, with the roles that the experts had."""
    own = [row["own roles"] for row in rows]
    held = [each[f"{name} holds 0"] for each in own for name in COMPONENTS if each[f"{name} holds 0"] is not None]
    supported = sum(each[f"{claim} supported"] for each in own for claim in DECIDE)
    return judged(
        [("own roles, all seeds: intervals that hold zero", mean(held), 0.9)],
        [("own roles, all seeds: claims supported", supported, 0)],
    )


def goals_of_single_runs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals of single runs, which fewer than three experts of a role cannot decide."""
    few = [row for row in rows if row["fewest experts"] < THRESHOLDS.min_experts]
    enough = [row["single runs"] for row in rows if row["fewest experts"] >= THRESHOLDS.min_experts]
    wrong = sum(row["single runs"][f"{claim} supported"] for row in few for claim in DECIDE)
    at_least = [("single runs with fewer than three experts of a role", sum(row["usable"] for row in few), 150)]
    at_most = [("of these supported, with any assignment of the roles", wrong, 0)]
    for name in COMPONENTS if enough else ():
        shares = [each[f"{name} holds 0"] for each in enough if each[f"{name} holds 0"] is not None]
        at_least.append((f"single runs with three and more: intervals that hold zero, {name}", mean(shares), 0.92))
    for claim in DECIDE if enough else ():
        shares = [each[f"{claim} supported"] for each in enough]
        at_most.append((f"single runs with three and more: false support of {claim}", mean(shares), 0.025))
    return judged(at_least, at_most)


def goals_of_data(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals of data checks on honest runs: invalid runs, lost rows, the unit of the loss, copies."""
    lost = [row["of these invalid"] / row["runs with rows lost"] for row in rows]
    return judged(
        [("the smallest distance between two runs of a kind", min(row["smallest distance"] for row in rows), 0.06)],
        [
            ("statuses that a loss of 0.01 or 100 times the size changes", total(rows, DEPENDENT), 0),
            ("honest runs that are called invalid", total(rows, "honest runs invalid"), 0),
            ("runs that a random loss of 5 % of the rows makes invalid, all kinds", mean(lost), 0.05),
            ("the same: kinds surely above 5 %", _surely_above(rows), 0),
        ],
    )


def _surely_above(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of kinds in which lost rows surely make more than 5 % of the runs invalid."""
    tests = [stats.binomtest(row["of these invalid"], row["runs with rows lost"]) for row in rows]
    return sum(bool(test.proportion_ci(0.99, method="exact").low > 0.05) for test in tests)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def total(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


def main() -> int:
    """Train, exchange roles and print; return 0 if every goal holds."""
    parser = options(__doc__, "six of the kinds")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help="where the runs are")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="trainings at a time")
    chosen = parser.parse_args()
    some = [*kinds()][: QUICK_KINDS if chosen.quick else None]
    paths = [train_all(k.configs(), chosen.runs, jobs=chosen.jobs, processes=k.processes) for k in some]
    with multiprocessing.get_context("spawn").Pool(chosen.jobs or None) as pool:
        rows = [row for row in pool.starmap(row_of, zip(some, paths, strict=True), chunksize=1) if row]
    print_table(rows)
    to = chosen.json or (None if chosen.quick else RESULTS)
    return conclude(goals(rows), {"base": BASE, "kinds": rows}, Skips(), quick=chosen.quick, to=to)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each kind, of groups of six seeds."""
    shares = [f"{name} holds 0" for name in COMPONENTS] + [f"{claim} supported" for claim in DECIDE]
    print_out(
        table(
            [
                {
                    "kind": row["kind"],
                    "usable": f"{row['usable']} of {row['seeds']}",
                    **{name: _percent(row["groups"][SIZES[0]][name]) for name in shares},
                    "reliability": f"{row['reliability']['median']:.2f}" if row["reliability"] else "-",
                }
                for row in rows
            ]
        )
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
