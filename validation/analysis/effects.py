"""Levels of every expert of a run in six bins of time, and effects: perturbed minus control experts, minus the twin.

`bottom` is the bottom tier's gain over the middle tier, `size` the gradient norm, `direction` 1 - cosine to the clean
expert's gradient, corrected for the noise of the batch where half-batch products are logged (Spearman 1904). The twin
is the sham run with the same seed.
Axis letters: E experts, L layers, T logged rows, K bins; 3: the whole run, its beginning, its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.schema import ROLES, TIERS
from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import MISSING_BINS, Bins, bins_of
from validation.analysis.run import Expert, Run, is_measured
from validation.analysis.statistics import Array

BOTTOM, SIZE, DIRECTION = "bottom", "size", "direction"
LOAD = "load"
"""No effect, but what may explain one of merged gradients: the log of an expert's routing share."""
TIER_SIZES = tuple(f"{tier}_size" for tier in TIERS)
TWO_SIDED = {SIZE, LOAD, *TIER_SIZES}
LOGGED = 0.5  # of the rows that a column needs to count as logged; the other rows are then missing
ENDS = 2  # bins at the beginning and at the end that sustainment compares


@dataclass(frozen=True, eq=False)
class Levels:
    """The level of each expert of a run, by effect, layer and bin."""

    bins: Bins
    experts: tuple[int, ...]
    roles: tuple[str, ...]
    of: Mapping[str, Array]
    """By effect, [E, L, K]; NaN where a bin is missing."""
    reliability_ELK: Array | None = None
    """Share of the squared gradient norm that both halves of the batch agree on; None where it is not logged."""
    means_only: bool = False
    """True if only means over several layers are logged."""
    clean_is_control: bool = False
    """True where no symmetry breaks and all experts see the same batch, so that the clean expert is one of a kind."""
    shares_missing: bool = False
    """True if only `bottom` can be compared: parameters may be merged, and their routing shares are not logged."""
    load_ELK: Array | None = None
    """Log of each expert's share of the routing, of merged gradients; None of isolated ones, or where not logged."""

    @property
    def layers(self) -> int:
        """The number of layers."""
        return int(next(iter(self.of.values())).shape[1])

    @cached_property
    def _places(self) -> dict[str, NDArray[np.intp]]:
        roles = np.array(self.roles)
        return {name: np.flatnonzero(roles == name) for name in ROLES}

    def role(self, name: str) -> NDArray[np.intp]:
        """Return the places of the experts of a role along E."""
        return self._places[name]

    @property
    def controls(self) -> NDArray[np.intp]:
        """The places of the experts that the perturbed ones are compared to, along E."""
        controls = self.role("control")
        return controls if len(controls) or not self.clean_is_control else self.role("clean")

    def measured(self, bins: int) -> set[str]:
        """Return the effects that at most MISSING_BINS of the first bins lack."""
        absent = {name: np.isnan(level[..., :bins]).any(axis=(0, 1)).sum() for name, level in self.of.items()}
        return {name for name, count in absent.items() if count <= MISSING_BINS < bins}

    def until(self, bins: int) -> Levels:
        """Return the levels of the first bins; the others are missing."""
        later = np.arange(len(self.bins.rows_K)) >= bins
        load_ELK = None if self.load_ELK is None else np.where(later, np.nan, self.load_ELK)
        cut = {name: np.where(later, np.nan, level) for name, level in self.of.items()}
        return replace(self, of=cut, load_ELK=load_ELK)

    def of_layers(self, layers: Sequence[int]) -> Levels:
        """Return the levels of some layers."""
        load_ELK = None if self.load_ELK is None else self.load_ELK[:, list(layers)]
        return replace(self, of={name: level[:, list(layers)] for name, level in self.of.items()}, load_ELK=load_ELK)

    @property
    def loads(self) -> Levels | None:
        """The shares of the routing, as the levels of an effect."""
        return None if self.load_ELK is None else replace(self, of={LOAD: self.load_ELK})


def levels_of(run: Run, thresholds: Thresholds) -> Levels | None:
    """Return the levels of a run; None without rows, or, unless all are peers, a clean or a perturbed expert."""
    places = run.tiered_layers or [run.experts]
    experts = tuple(sorted(set.intersection(*({*place} for place in places)) & {*run.experts}))
    roles = tuple(run.experts[e].role for e in experts)
    known = bool(experts) if run.peers else 0 in experts and "perturbed" in roles
    if not len(run.steps) or not known:
        return None
    column = _columns(run, places, experts)
    bottom_ELT = _bottom(column)
    bins = _bins(run, column, bottom_ELT, thresholds)
    of, reliable = _levels(column, bottom_ELT, bins, thresholds.reliability)
    frozen = run.config.get("routing") == "frozen" and run.same_batch
    shares_missing = run.source == "merged" and run.merges_parameters and "routing_weight" not in column
    of = {BOTTOM: of[BOTTOM]} if shares_missing else of
    load = _load(run, places, experts, bins)
    return Levels(bins, experts, roles, of, reliable, run.has_means_only, frozen, shares_missing, load)


def _load(run: Run, places: Sequence[Mapping[int, Expert]], experts: Sequence[int], bins: Bins) -> Array | None:
    """Return the log of each expert's routing share, [E, L, K]; None where nothing is routed, or none is logged."""
    if run.source != "merged" or run.mixture == "separate":
        return None
    share = _stacked(places, experts, "routing_weight")
    # A row without shares has none of any expert, and changes no difference between experts.
    return _log(bins.mean(np.nan_to_num(share))) if _is_logged(share) else None


def _bins(run: Run, column: Mapping[str, Array], bottom_ELT: Array, thresholds: Thresholds) -> Bins:
    positive = [values for name, values in column.items() if name.endswith("norm") or name == "routing_weight"]
    sound_T = np.all([np.isfinite(values) for values in column.values()], axis=(0, 1, 2)) & np.all(
        [values > 0 for values in positive], axis=(0, 1, 2)
    )
    return bins_of(run.plan(thresholds.warmup), run.steps, sound_T, bottom_ELT, share=thresholds.rows_share)


def _columns(run: Run, places: Sequence[Mapping[int, Expert]], experts: Sequence[int]) -> dict[str, Array]:
    """Return the columns that the effects need and the run has, by name, [E, L, T]."""

    def logged(*names: str) -> dict[str, Array]:
        found = {name: _stacked(places, experts, name) for name in names}
        return found if all(map(_is_logged, found.values())) else {}

    columns = {name: _stacked(places, experts, name) for name in (f"{tier}_norm" for tier in TIERS)}
    columns |= logged("bottom_to_middle")
    columns |= logged("norm", "half_product", "half_product_clean") or logged("norm", "direction")
    if run.source == "merged" and run.merges_parameters:
        columns |= logged("routing_weight")
    return columns


def _stacked(places: Sequence[Mapping[int, Expert]], experts: Sequence[int], name: str) -> Array:
    """Return a column, [E, L, T]; NaN where it is not measured.

    The clean expert has direction 0 to itself, and no product with itself.
    """
    values = np.array([[place[expert].columns[name] for place in places] for expert in experts], dtype=np.float64)
    values[~is_measured(values)] = np.nan
    if name in ("direction", "half_product_clean"):
        values[0] = 0.0
    return values


def _is_logged(values_ELT: Array) -> bool:
    return bool(values_ELT.size) and bool((np.isfinite(values_ELT).mean(axis=-1) >= LOGGED).all())


def _bottom(column: Mapping[str, Array]) -> Array:
    """Return the log of the bottom norm over the middle norm, [E, L, T]; per tensor where that is logged."""
    if "bottom_to_middle" in column:
        return column["bottom_to_middle"]
    return _log(column["bottom_norm"]) - _log(column["middle_norm"])


def _levels(
    column: Mapping[str, Array], bottom_ELT: Array, bins: Bins, least: float
) -> tuple[dict[str, Array], Array | None]:
    """Return the levels by effect, [E, L, K], and the reliability if it is known."""
    share = bins.mean(_log(column["routing_weight"])) if "routing_weight" in column else 0.0
    found = {BOTTOM: bins.mean(bottom_ELT)}
    if "half_product" in column:
        product, whole = bins.mean(column["half_product"]), bins.mean(column["norm"] ** 2)
        reliable = product / whole
        clear_K = (reliable >= least).all(axis=(0, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = bins.mean(column["half_product_clean"]) / (np.sqrt(product) * np.sqrt(product[:1]))
            found[SIZE] = np.where(clear_K, np.log(product) / 2 - share, np.nan)
        cosine[0] = 1.0
        found[DIRECTION] = np.where(clear_K, 1 - cosine, np.nan)
        return found, reliable
    if "direction" in column:
        found[SIZE] = bins.mean(_log(column["norm"])) - share
        found[DIRECTION] = bins.mean(column["direction"])
    else:
        found |= {f"{tier}_size": bins.mean(_log(column[f"{tier}_norm"])) - share for tier in TIERS}
    return found, None


def _log(values: Array) -> Array:
    """Return the natural log; NaN where it does not exist."""
    return np.asarray(np.log(np.where(values > 0, values, np.nan)))


def effect_K(levels: Levels, name: str, twin: Levels | None = None) -> Array:
    """Return an effect of a run, [K]: the mean over layers of `effect_LK`."""
    return np.asarray(effect_LK(levels, name, twin).mean(axis=0))


def effect_LK(levels: Levels, name: str, twin: Levels | None = None) -> Array:
    """Return an effect of a run in each layer, [L, K]: mean over perturbed minus mean over control experts.

    twin: the sham run with the same seed; its effect is subtracted. Without control experts, the effect is the run's
    perturbed experts minus the same experts of the twin. NaN in missing bins; all NaN without a comparison.
    """
    if len(levels.controls):
        effect = _difference(levels, name)
        return effect if twin is None else effect - _difference(twin, name)
    if twin is None:
        return np.full(levels.of[name].shape[1:], np.nan)
    perturbed = levels.role("perturbed")
    return np.asarray((levels.of[name][perturbed] - twin.of[name][perturbed]).mean(axis=0))


def _difference(levels: Levels, name: str) -> Array:
    level = levels.of[name]
    return np.asarray(level[levels.role("perturbed")].mean(axis=0) - level[levels.controls].mean(axis=0))


def expert_levels(levels: Levels, name: str, twin: Levels | None = None) -> Array:
    """Return the level of each expert, mean over layers, minus its level in the twin, [E, K]."""
    level = levels.of[name] if twin is None else levels.of[name] - twin.of[name]
    return np.asarray(level.mean(axis=1))


def over_time(x: Array) -> Array:
    """Return the means of x [..., K] over all bins, over the first two and over the last two, [..., 3].

    Bins that are missing anywhere are skipped; NaN if none is left.
    """
    there = x[..., np.isfinite(x).all(axis=tuple(range(x.ndim - 1)))]
    if not there.shape[-1]:
        return np.full((*x.shape[:-1], 3), np.nan)
    return np.stack([part.mean(axis=-1) for part in (there, there[..., :ENDS], there[..., -ENDS:])], axis=-1)
