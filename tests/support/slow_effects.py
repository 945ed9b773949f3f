"""A slow second implementation of the effects of a run: lists and loops, row by row, straight from docs/verdict.md.

It knows nothing of arrays, bins or levels of the fast one. None means missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from prismatic.contract.schema import TIERS
from validation.analysis.run import Expert, Run

BINS = 6


@dataclass(frozen=True)
class SlowRun:
    """A run from one source of gradients, as the oracle reads it."""

    run: Run
    corrected: bool
    """True if half-batch products are used."""
    directions: bool
    shares: bool
    per_tensor: bool


def slowly(run: Run) -> SlowRun:
    """Return the run with the columns that all its experts have in at least half of the rows."""

    def logged(*names: str) -> bool:
        columns = [
            expert[name]
            for layer in layers_of(run)
            for expert in layer.values()
            for name in names
            if not (expert.index == 0 and name in ("half_product_clean", "direction"))
        ]
        return all(sum(map(math.isfinite, column)) >= len(column) / 2 for column in columns)

    corrected = logged("half_product", "half_product_clean")
    merged = run.source == "merged" and run.merges_parameters and logged("routing_weight")
    return SlowRun(run, corrected, corrected or logged("direction"), merged, logged("bottom_to_middle"))


def layers_of(run: Run) -> Sequence[Any]:
    return run.layers or [run.experts]


def grid_of(run: Run) -> list[int]:
    """Return every step at which the run planned a row."""
    frequencies = [run.facts.get("config.log_freq"), run.facts.get("config.probe_freq")]
    declared = [int(f) for f in (frequencies if run.source == "isolated" else frequencies[:1]) if f]
    steps = sorted({int(step) for step in run.steps})
    if declared:
        return list(range(0, run.planned_steps, math.lcm(*declared)))
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    return list(range(steps[0], run.planned_steps, int(median(gaps))))


def edges_of(run: Run) -> list[float]:
    planned = run.planned_steps
    warmup = min(max(0.1 * planned, run.facts.get("warmup_steps") or 0.0), planned / 3)
    return [warmup + k * (planned - warmup) / BINS for k in range(BINS + 1)]


def bottom_of(slow: SlowRun, expert: Expert, row: int) -> float:
    if slow.per_tensor:
        return float(expert["bottom_to_middle"][row])
    bottom, middle = expert["bottom_norm"][row], expert["middle_norm"][row]
    return math.log(bottom / middle) if bottom > 0 and middle > 0 else math.nan


def sound(slow: SlowRun, row: int) -> bool:
    """Every needed number of every expert in every layer is finite, and every norm above zero."""
    for layer in layers_of(slow.run):
        for expert in layer.values():
            norms = [expert[f"{tier}_norm"][row] for tier in TIERS]
            others = [bottom_of(slow, expert, row)]
            if slow.directions:
                norms.append(expert["norm"][row])
                others.append(0.0 if expert.index == 0 or slow.corrected else expert["direction"][row])
            if slow.corrected:
                others.append(expert["half_product"][row])
                others.append(0.0 if expert.index == 0 else expert["half_product_clean"][row])
            if slow.shares:
                norms.append(expert["routing_weight"][row])
            if not all(math.isfinite(x) and x > 0 for x in norms) or not all(map(math.isfinite, others)):
                return False
    return True


def bins_of(slow: SlowRun) -> list[list[int] | None]:
    """Return the rows of each bin; None for one with less than 80 % of its planned rows."""
    run, edges, grid = slow.run, edges_of(slow.run), set(grid_of(slow.run))
    last_of_step = {int(step): row for row, step in enumerate(run.steps)}
    found: list[list[int] | None] = []
    for low, high in itertools.pairwise(edges):
        planned = [step for step in grid if low <= step < high]
        rows = [last_of_step[step] for step in planned if step in last_of_step and sound(slow, last_of_step[step])]
        kept = _without_outliers(slow, rows)
        found.append(kept if kept and len(kept) >= 0.8 * len(planned) else None)
    return found


def _without_outliers(slow: SlowRun, rows: Sequence[int]) -> list[int]:
    """Return the rows in which no bottom level of an expert is ten times its median in the bin, or a tenth of it."""
    kept = {*rows}
    for expert in (expert for layer in layers_of(slow.run) for expert in layer.values()):
        middle = median(bottom_of(slow, expert, row) for row in rows) if rows else 0.0
        kept -= {row for row in rows if abs(bottom_of(slow, expert, row) - middle) > math.log(10)}
    return sorted(kept)


def level(slow: SlowRun, name: str, layer: Any, expert: int, rows: Sequence[int]) -> float:
    """Return the level of one expert in one layer and bin."""
    one, clean = layer[expert], layer[0]
    if name == "bottom":
        return mean(bottom_of(slow, one, row) for row in rows)
    share = mean(math.log(one["routing_weight"][row]) for row in rows) if slow.shares else 0.0
    if name.endswith("_size"):
        return mean(math.log(one[f"{name[:-5]}_norm"][row]) for row in rows) - share
    if not slow.corrected:
        if name == "direction":
            return mean(0.0 if expert == 0 else float(one["direction"][row]) for row in rows)
        return mean(math.log(one["norm"][row]) for row in rows) - share
    own, of_clean = (mean(float(e["half_product"][row]) for row in rows) for e in (one, clean))
    if name == "size":
        return math.log(own) / 2 - share
    return (
        0.0
        if expert == 0
        else 1 - mean(float(one["half_product_clean"][row]) for row in rows) / math.sqrt(own * of_clean)
    )


def clear(slow: SlowRun, rows: Sequence[int]) -> bool:
    """In a bin where the gradient of some expert is noise, no corrected level is known."""
    return not slow.corrected or all(
        mean(float(e["half_product"][row]) for row in rows) >= 0.1 * mean(float(e["norm"][row]) ** 2 for row in rows)
        for layer in layers_of(slow.run)
        for e in layer.values()
    )


def expert_levels(slow: SlowRun, name: str) -> dict[int, list[float | None]]:
    """Return the level of each expert by bin: the mean over its layers."""
    bins = bins_of(slow)
    found: dict[int, list[float | None]] = {}
    for expert in layers_of(slow.run)[0]:
        found[expert] = [
            None
            if rows is None or (name in ("size", "direction") and not clear(slow, rows))
            else mean(level(slow, name, layer, expert, rows) for layer in layers_of(slow.run))
            for rows in bins
        ]
    return found


def effect(slow: SlowRun, name: str, twin: SlowRun | None = None) -> list[float | None]:
    """Return the effect by bin: perturbed minus control experts, minus the twin's."""
    own = expert_levels(slow, name)
    others = {} if twin is None else expert_levels(twin, name)
    perturbed, controls = (
        [e for e, one in slow.run.experts.items() if one.role == r] for r in ("perturbed", "control")
    )
    found: list[float | None] = []
    for k in range(BINS):
        levels = [own[e][k] for e in own] + [others[e][k] for e in others]
        if None in levels:
            found.append(None)
            continue

        def average(of: dict[int, list[float | None]], experts: list[int], k: int = k) -> float:
            return mean(float(of[e][k] or 0.0) for e in experts)

        if controls:
            value = average(own, perturbed) - average(own, controls)
            value -= average(others, perturbed) - average(others, controls) if others else 0.0
        else:
            value = average(own, perturbed) - average(others, perturbed)
        found.append(value)
    return found


def over_time(by_bin: Sequence[float | None]) -> tuple[float, float, float]:
    """Return the mean of all bins, of the first two and of the last two that are there."""
    there = [value for value in by_bin if value is not None]
    return mean(there), mean(there[:2]), mean(there[-2:])
