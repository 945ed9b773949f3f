"""Gradient norms divided by routing shares: what is left of a difference between experts without the router.

Axis letters: T logged steps. NaN means missing; a zero norm is a real zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from prismatic.contract.schema import TIERS
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array

NORMS = (*(f"{tier}_norm" for tier in TIERS), "norm")
MOSTLY = 0.8  # share of the rows that must have a routing share


@dataclass(frozen=True)
class RatioToClean:
    """The norms of an expert relative to the clean expert's, as geometric means over the steps after the warm-up."""

    logged: float
    """Ratio of the bottom norms as logged; of whole norms in a run without tiers."""
    beyond: float
    """Ratio of the bottom norms, each divided by its expert's routing share."""
    farthest: float
    """The largest distance of a ratio of divided norms from 1, over all tiers and all steps."""


def can_divide(run: Run) -> bool:
    """Return True if norms are proportional to their experts' routing shares, the shares are logged, and some norm is.

    Isolated gradients have no share, and a router of tokens gives an expert different tokens, not only more of them.
    """
    proportional = run.source == "merged" and run.merges_parameters
    return proportional and has_norms(run) and _with_shares(run) is not None


def has_norms(run: Run) -> bool:
    """Return True if any norm is above zero."""
    return any((expert[norm] > 0).any() for expert in run.experts.values() for norm in NORMS)


def divide_by_shares(run: Run, experts: Collection[int]) -> Run:
    """Return the run with the norms of these experts divided by their routing shares; needs `can_divide`.

    Each layer has its own router, so its norms are divided by its own shares. Then come means over the layers, as the
    logged norms are.
    """
    layers = _with_shares(run) or ()
    divided = {e: replace(run.experts[e], columns=_divided(layers, run.experts[e])) for e in experts}
    return replace(run, experts={**run.experts, **divided}, layers=())


def ratios_to_clean(run: Run, experts: Sequence[int], *, warmup: float) -> dict[int, RatioToClean]:
    """Return how the norms of each of these experts compare with those of the clean expert; needs `can_divide`."""
    chosen = [0, *(e for e in experts if e)]
    if 0 not in run.experts:
        return {}
    divided, later_T = divide_by_shares(run, chosen), run.after_warmup(warmup)
    metric = "bottom_norm" if np.isfinite(run.experts[0].log("bottom_norm")).any() else "norm"
    return {
        e: RatioToClean(
            _mean_ratio(run, e, metric, later_T),
            _mean_ratio(divided, e, metric, later_T),
            max(_farthest(divided, e, norm) for norm in NORMS),
        )
        for e in chosen[1:]
    }


def _with_shares(run: Run) -> Sequence[Mapping[int, Expert]] | None:
    """Return the layers, or the means over layers if only these have shares; None if shares are not logged."""
    if run not in _SHARED:
        both = (run.layers, [run.experts])
        _SHARED[run] = next((place for place, layers in enumerate(both) if layers and _have_shares(run, layers)), None)
    place = _SHARED[run]
    return None if place is None else (run.layers, [run.experts])[place]


_SHARED: WeakKeyDictionary[Run, int | None] = WeakKeyDictionary()
"""By run, the first of its layers and its means that has shares: a page asks often, and experts may be thousands."""


def _have_shares(run: Run, layers: Sequence[Mapping[int, Expert]]) -> bool:
    return all(_has_share(layer, e) for layer in layers for e in run.experts)


def _has_share(layer: Mapping[int, Expert], expert: int) -> bool:
    share = layer[expert]["routing_weight"] if expert in layer else np.empty(0)
    return len(share) > 0 and float(np.isfinite(share).mean()) >= MOSTLY


def _divided(layers: Sequence[Mapping[int, Expert]], whole: Expert) -> Mapping[str, Array]:
    """Return the columns of an expert with the mean over layers of norm / share in place of each norm."""
    columns = dict(whole.columns)
    for metric in NORMS:
        # Like the logger, take the mean over the layers that have a norm; one without its share has no mean.
        total, known = np.zeros_like(whole[metric]), np.zeros_like(whole[metric])
        for layer in layers:
            there = ~np.isnan(layer[whole.index][metric])
            total += np.where(there, _quotient(layer[whole.index], metric), 0.0)
            known += there
        columns[metric] = total / np.where(known > 0, known, np.nan)
    return columns


def _quotient(expert: Expert, metric: str) -> Array:
    share = expert["routing_weight"]
    with np.errstate(over="ignore"):  # of a damaged file; infinity counts as missing
        return np.asarray(expert[metric] / np.where(share > 0, share, np.nan))


def _mean_ratio(run: Run, expert: int, metric: str, rows_T: np.ndarray) -> float:
    log_ratio = (run.experts[expert].log(metric) - run.experts[0].log(metric))[rows_T]
    known = log_ratio[np.isfinite(log_ratio)]
    return float(np.exp(known.mean())) if len(known) else float("nan")


def _farthest(run: Run, expert: int, metric: str) -> float:
    log_ratio = run.experts[expert].log(metric) - run.experts[0].log(metric)
    known = log_ratio[np.isfinite(log_ratio)]
    return float(np.expm1(np.abs(known).max())) if len(known) else 0.0
