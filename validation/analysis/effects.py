"""Effects of one run: perturbed minus control experts, minus the sham run of the same seed, in six bins of time.

`bottom` is the bottom tier's gain over the middle tier, `size` the gradient norm, `direction` 1 - cosine to the clean
expert's gradient, corrected for the noise of the batch where half-batch products are logged (Spearman 1904). Version 2
of the rules decides by these; version 1, which is in force, does not. Axis letters: E experts, L layers, T logged rows,
K bins.
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
    """The levels of the experts of a run, by effect and bin."""

    bins: Bins
    experts: tuple[int, ...]
    roles: tuple[str, ...]
    of: Mapping[str, Array]
    """By effect, [E, L, K]; NaN where a bin is missing."""
    reliability_ELK: Array | None = None
    """Share of the squared gradient norm that both halves of the batch agree on; None where it is not logged."""

    def role(self, name: str) -> NDArray[np.intp]:
        """Places of the experts of a role along E."""
        return np.flatnonzero(np.array(self.roles) == name)

    def restricted(self, experts: Sequence[int]) -> Levels:
        """The same of these experts alone, in this order. Raises ValueError for an expert that is not there."""
        places = [self.experts.index(expert) for expert in experts]
        reliability = None if self.reliability_ELK is None else self.reliability_ELK[places]
        return Levels(
            self.bins,
            tuple(experts),
            tuple(self.roles[place] for place in places),
            {name: level[places] for name, level in self.of.items()},
            reliability,
        )


def levels_of(run: Run, *, warmup: float, rows_share: float, reliability: float) -> Levels:
    """Return the levels of a run.

    warmup: share of the planned steps that is left out at least. rows_share: of the planned rows that a bin needs.
    reliability: below it, a bin is missing for the corrected effects.
    """
    places = run.layers or [run.experts]
    experts = tuple(sorted(set.intersection(*({*place} for place in places)) & {*run.experts}))
    column = {name: _stacked(run, places, experts, name) for name in _columns(run, places, experts)}
    bottom_ELT = _bottom(column)
    norms = [column[f"{tier}_norm"] for tier in TIERS]
    sound_T = np.all([np.isfinite(one) for one in column.values()], axis=(0, 1, 2)) & np.all(
        [one > 0 for one in norms], axis=(0, 1, 2)
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


def _columns(run: Run, places: Sequence[Mapping[int, Expert]], experts: Sequence[int]) -> list[str]:
    """Names of the columns that the effects need and the run has."""
    wanted = [*(f"{tier}_norm" for tier in TIERS), "norm"]
    optional = ["bottom_to_middle", "direction", "half_product", "half_product_clean"]
    if run.source == "merged" and run.merges_parameters:
        optional.append("routing_weight")
    return wanted + [name for name in optional if _is_logged(_stacked(run, places, experts, name))]


def _stacked(run: Run, places: Sequence[Mapping[int, Expert]], experts: Sequence[int], name: str) -> Array:
    """A column as [E, L, T]; the clean expert has direction 0 to itself, and no product with itself."""
    values = np.array([[place[expert].columns[name] for place in places] for expert in experts], dtype=np.float64)
    if name in ("direction", "half_product_clean") and 0 in experts:
        values[experts.index(0)] = 0.0
    return values


def _is_logged(values_ELT: Array) -> bool:
    return bool(values_ELT.size) and bool((np.isfinite(values_ELT).mean(axis=-1) >= LOGGED).all())


def _bottom(column: Mapping[str, Array]) -> Array:
    """[E, L, T] log of the bottom norm over the middle norm, per tensor where that is logged."""
    if "bottom_to_middle" in column:
        return column["bottom_to_middle"]
    return _log(column["bottom_norm"]) - _log(column["middle_norm"])


def _levels(
    run: Run, column: Mapping[str, Array], bottom_ELT: Array, bins: Bins, least: float
) -> tuple[dict[str, Array], Array | None]:
    """By effect, [E, L, K], and the reliability where it is known."""
    share = _log(column["routing_weight"]) if "routing_weight" in column else 0.0
    found = {BOTTOM: bins.mean(bottom_ELT)}
    if "half_product" in column:
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
    """Natural log; NaN where there is none."""
    return np.asarray(np.log(np.where(values > 0, values, np.nan)))


def effect_K(levels: Levels, name: str, twin: Levels | None = None) -> Array:
    """[K] an effect of a run: mean over perturbed minus mean over control experts, mean over layers.

    With a sham twin its own effect is subtracted. Without control experts the twin's same experts stand for them: the
    perturbed experts of the run minus the same experts of the twin. NaN in missing bins; all NaN without a comparison.
    """
    if len(levels.role("control")):
        own = _difference(levels, name)
        return own if twin is None else own - _difference(twin, name)
    if twin is None:
        return np.full(levels.of[name].shape[-1], np.nan)
    perturbed = levels.role("perturbed")
    return np.asarray((levels.of[name][perturbed] - twin.of[name][perturbed]).mean(axis=(0, 1)))


def _difference(levels: Levels, name: str) -> Array:
    level = levels.of[name]
    apart = level[levels.role("perturbed")].mean(axis=0) - level[levels.role("control")].mean(axis=0)
    return np.asarray(apart.mean(axis=0))


def of_each_expert(levels: Levels, name: str, twin: Levels | None = None) -> Array:
    """[E] the level of each expert, mean over layers and bins, minus its twin's: the units within one run."""
    level = levels.of[name] if twin is None else levels.of[name] - twin.of[name]
    kept = np.isfinite(level).all(axis=(0, 1))
    return np.asarray(level[..., kept].mean(axis=(1, 2)))


@dataclass(frozen=True)
class Course:
    """An effect of one run in three numbers."""

    whole: float
    first: float
    last: float


def course(x_K: Array) -> Course:
    """Return the mean of the bins that are there, and the means of the first two and the last two bins."""
    whole = float(np.nanmean(x_K)) if np.isfinite(x_K).any() else np.nan
    ends = [float(np.nanmean(x)) if np.isfinite(x).any() else np.nan for x in (x_K[:2], x_K[-2:])]
    return Course(whole, *ends)
