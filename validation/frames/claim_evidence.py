"""What a claim is decided from, to be seen: the series, the rows that count, batch means, interval and margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.thresholds import Thresholds
from validation.analysis.controls import Selection
from validation.analysis.evidence import Evidence, evidence_of
from validation.analysis.interim import at_look
from validation.analysis.mixtures import beyond
from validation.analysis.run import Run
from validation.analysis.statistics import BATCHES, Array, Estimate, batch_means
from validation.frames.downsample import places

DRAWN = 1500  # points of a series; beyond them both extremes of each bucket


@dataclass(frozen=True, eq=False)
class Behind:
    """One claim's series on the scale of its estimate, downsampled for drawing. B batches."""

    claim: str
    title: str
    ratio: bool
    """Whether values are factors, drawn on a logarithmic axis around 1; else differences around 0."""
    steps: NDArray[np.int64]
    values: Array
    counted: NDArray[np.bool_]
    """False for rows of the warm-up and those that are not usable."""
    batch_steps_B: Array
    batch_means_B: Array
    level: tuple[float, float, float] | None
    """Lower bound, estimate and upper bound of the mean; None where the claim is about a change."""
    margins: tuple[float, ...] = ()
    """What the interval must leave behind: one value, or one on each side where the sign does not count."""
    thirds: tuple[tuple[float, float, float], ...] = ()
    """First step, last step and mean of the first and of the last third; of sustainment."""


def behind(run: Run, expert: int, runs: Sequence[Run], thresholds: Thresholds) -> dict[str, Behind]:
    """By claim what it was decided from, for one perturbed expert; empty where nothing can be compared."""
    looks = [at_look(one, thresholds) for one in runs]
    own = next(look for look in looks if look.run.id == run.id)
    if not {0, expert} <= own.run.experts.keys() or not len(own.run.steps):
        return {}
    selection = Selection([look.run for look in looks], thresholds)
    e = evidence_of(own.run, own.run.experts[expert], selection, own.thresholds)
    found = {"awakening": _level(e, "awakening", e.did, "Bottom tier's gain beyond the middle tier", e.gained, True)}
    found["awakening"] = _with_margins(found["awakening"], max(math.log(thresholds.awakening_ratio), e.spread("did")))
    name = max(e.divergence, key=lambda one: _seen(e, one).low)
    past = beyond(e.run, e.control.told if e.control else None)
    title = f"Direction (1 - cosine){past}" if e.directional else f"{name.capitalize()} norm{past}"
    level = _level(e, "divergence", e.divergence[name], title, e.level(name), not e.directional)
    sides = (e.margin,) if e.directional else (e.margin, -e.margin)  # a size may differ either way
    found["divergence"] = _with_margins(level, *sides)
    found["sustainment"] = _thirds(e, f"Divergence{past}")
    return {claim: one for claim, one in found.items() if np.isfinite(one.values).any()}


def _seen(e: Evidence, name: str) -> Estimate:
    level = e.level(name)
    return level if e.directional else level.absolute()


def _level(e: Evidence, claim: str, series_T: Array, title: str, effect: Estimate, ratio: bool) -> Behind:
    scale = np.exp if ratio else np.asarray
    drawn = places(series_T, DRAWN)
    steps_B, means_B = _batches(e, series_T)
    with np.errstate(over="ignore"):
        level = tuple(float(scale(value)) for value in (effect.low, effect.mid, effect.high))
        return Behind(
            claim,
            title,
            ratio,
            e.run.steps[drawn],
            scale(series_T[drawn]),
            e.rows[drawn],
            steps_B,
            scale(means_B),
            (level[0], level[1], level[2]) if effect.points else None,
        )


def _with_margins(one: Behind, *margins: float) -> Behind:
    return replace(one, margins=tuple(math.exp(margin) if one.ratio else margin for margin in margins))


def _thirds(e: Evidence, title: str) -> Behind:
    """The divergence, turned to be positive, with what is left of the first third in the last."""
    series_T = e.oriented
    one = _level(e, "sustainment", series_T, title, e.estimate(series_T), not e.directional)
    third = round(BATCHES / 3)
    if len(one.batch_means_B) < BATCHES:
        return replace(one, level=None)
    raw_B = _batches(e, series_T)[1]
    spans = ((0, third), (BATCHES - third, BATCHES))
    scale = np.exp if one.ratio else np.asarray
    thirds = tuple(
        (float(one.batch_steps_B[a]), float(one.batch_steps_B[b - 1]), float(scale(raw_B[a:b].mean())))
        for a, b in spans
    )
    floor = float(scale(e.thresholds.sustained_share * raw_B[:third].mean()))
    return replace(one, level=None, margins=(floor,), thirds=thirds)


def _batches(e: Evidence, series_T: Array) -> tuple[Array, Array]:
    """Middle step and mean of each batch; nothing where there are fewer points than batches."""
    kept = e.rows & np.isfinite(series_T)
    if kept.sum() < BATCHES:
        return np.empty(0), np.empty(0)
    return batch_means(e.run.steps[kept].astype(float)), batch_means(series_T[kept])
