"""Effects of one run: perturbed minus control experts, minus the sham run of the same seed, in six bins of time.

`bottom` is the bottom tier's gain over the middle tier, `size` the gradient norm, `direction` 1 - cosine to the clean
expert's gradient, corrected for the noise of the batch where half-batch products are logged (Spearman 1904). Version 2
of the rules decides by these; version 1, which is in force, does not.
Axis letters: E experts, L layers, T logged rows, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from validation.analysis.bins import Bins, bins_of, plan_of
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array

BOTTOM, SIZE, DIRECTION = "bottom", "size", "direction"
TIER_SIZES = tuple(f"{tier}_size" for tier in TIERS)
TWO_SIDED = {SIZE, *TIER_SIZES}
LOGGED = 0.8  # of the rows that a column needs to count as logged


@dataclass(frozen=True, eq=False)
class Levels:
    """The level of each expert of a run, by effect and bin."""

    bins: Bins
    experts: tuple[int, ...]
    roles: tuple[str, ...]
    of: Mapping[str, Array]
    """By effect, [E, L, K]; NaN where a bin is missing."""
    reliability_ELK: Array | None = None
    """Share of the squared gradient norm that both halves of the batch agree on; None where it is not logged."""

    def role(self, name: str) -> NDArray[np.intp]:
        """Return the places of the experts of a role along E."""
        return np.flatnonzero(np.array(self.roles) == name)


def levels_of(run: Run, *, warmup: float, rows_share: float, reliability: float) -> Levels:
    """Return the levels of a run.

    warmup: the least share of the planned steps that is skipped. rows_share: the least share of its planned rows that a
    bin needs. reliability: the least reliability of a bin for the corrected effects.
    """
    places = run.layers or [run.experts]
    experts = tuple(sorted(set.intersection(*({*place} for place in places)) & {*run.experts}))
    column = _columns(run, places, experts)
    bottom_ELT = _bottom(column)
    norms = [column[f"{tier}_norm"] for tier in TIERS]
    sound_T = np.all([np.isfinite(values) for values in column.values()], axis=(0, 1, 2)) & np.all(
        [norm > 0 for norm in norms], axis=(0, 1, 2)
    )
    probe = run.number("config.probe_freq") if run.source == "isolated" else None
    plan = plan_of(
        run.steps,
        planned=run.planned_steps,
        frequencies=tuple(int(f) if f else None for f in (run.number("config.log_freq"), probe)),
        share=warmup,
        warmup_steps=run.number("warmup_steps") or 0.0,
    )
    bins = bins_of(plan, run.steps, sound_T, bottom_ELT, share=rows_share)
    of, reliable = _levels(run, column, bottom_ELT, bins, reliability)
    return Levels(bins, experts, tuple(run.experts[e].role for e in experts), of, reliable)


def _columns(run: Run, places: Sequence[Mapping[int, Expert]], experts: Sequence[int]) -> dict[str, Array]:
    """Return the columns that the effects need and the run has, by name, [E, L, T]."""
    optional = ["bottom_to_middle", "direction"]
    if 0 in experts:  # directions of halves are relative to the clean expert, which comes first
        optional += ["half_product", "half_product_clean"]
    if run.source == "merged" and run.merges_parameters:
        optional.append("routing_weight")
    names = (*(f"{tier}_norm" for tier in TIERS), "norm", *optional)
    column = {name: _stacked(run, places, experts, name) for name in names}
    return {name: values for name, values in column.items() if name not in optional or _is_logged(values)}


def _stacked(run: Run, places: Sequence[Mapping[int, Expert]], experts: Sequence[int], name: str) -> Array:
    """Return a column, [E, L, T]; the clean expert has direction 0 to itself, and no product with itself."""
    values = np.array([[place[expert].columns[name] for place in places] for expert in experts], dtype=np.float64)
    if name in ("direction", "half_product_clean") and 0 in experts:
        values[experts.index(0)] = 0.0
    return values


def _is_logged(values_ELT: Array) -> bool:
    return bool(values_ELT.size) and bool((np.isfinite(values_ELT).mean(axis=-1) >= LOGGED).all())


def _bottom(column: Mapping[str, Array]) -> Array:
    """Return the log of the bottom norm over the middle norm, [E, L, T]; per tensor where that is logged."""
    if "bottom_to_middle" in column:
        return column["bottom_to_middle"]
    return _log(column["bottom_norm"]) - _log(column["middle_norm"])


def _levels(
    run: Run, column: Mapping[str, Array], bottom_ELT: Array, bins: Bins, least: float
) -> tuple[dict[str, Array], Array | None]:
    """Return the levels by effect, [E, L, K], and the reliability if it is known."""
    share = _log(column["routing_weight"]) if "routing_weight" in column else 0.0
    found = {BOTTOM: bins.mean(bottom_ELT)}
    if "half_product" in column and "half_product_clean" in column:
        product, whole = bins.mean(column["half_product"]), bins.mean(column["norm"] ** 2)
        reliable = product / whole
        clear_K = (reliable >= least).all(axis=(0, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = bins.mean(column["half_product_clean"]) / np.sqrt(product * product[:1])
            found[SIZE] = np.where(clear_K, np.log(product) / 2, np.nan)
        cosine[0] = 1.0
        found[DIRECTION] = np.where(clear_K, 1 - cosine, np.nan)
        return found, reliable
    if "direction" in column:
        found[SIZE] = bins.mean(_log(column["norm"]) - share)
        found[DIRECTION] = bins.mean(column["direction"])
    else:
        found |= {f"{tier}_size": bins.mean(_log(column[f"{tier}_norm"]) - share) for tier in TIERS}
    return found, None


def _log(values: Array) -> Array:
    """Return the natural log; NaN where it does not exist."""
    return np.asarray(np.log(np.where(values > 0, values, np.nan)))


def effect_K(levels: Levels, name: str, sham: Levels | None = None) -> Array:
    """Return an effect of a run, [K]: mean over perturbed minus mean over control experts, mean over layers.

    sham: the sham run with the same seed; its effect is subtracted. Without control experts, the effect is the run's
    perturbed experts minus the same experts of the sham run. NaN in missing bins; all NaN without a comparison.
    """
    if len(levels.role("control")):
        effect = _difference(levels, name)
        return effect if sham is None else effect - _difference(sham, name)
    if sham is None:
        return np.full(levels.of[name].shape[-1], np.nan)
    perturbed = levels.role("perturbed")
    return np.asarray((levels.of[name][perturbed] - sham.of[name][perturbed]).mean(axis=(0, 1)))


def _difference(levels: Levels, name: str) -> Array:
    level = levels.of[name]
    difference = level[levels.role("perturbed")].mean(axis=0) - level[levels.role("control")].mean(axis=0)
    return np.asarray(difference.mean(axis=0))


def of_each_expert(levels: Levels, name: str, sham: Levels | None = None) -> Array:
    """Return the level of each expert, [E], mean over layers and bins, minus its level in the sham run."""
    level = levels.of[name] if sham is None else levels.of[name] - sham.of[name]
    kept = np.isfinite(level).all(axis=(0, 1))
    return np.asarray(level[..., kept].mean(axis=(1, 2)))


@dataclass(frozen=True)
class EffectOverTime:
    """The mean of an effect of one run over all bins, over the first two and over the last two."""

    whole: float
    first: float
    last: float


def effect_over_time(x_K: Array) -> EffectOverTime:
    """Return the mean over all bins, over the first two and over the last two, without missing bins."""
    whole = float(np.nanmean(x_K)) if np.isfinite(x_K).any() else np.nan
    ends = [float(np.nanmean(x)) if np.isfinite(x).any() else np.nan for x in (x_K[:2], x_K[-2:])]
    return EffectOverTime(whole, *ends)
