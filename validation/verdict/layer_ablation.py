"""Which layers drive the verdict: the run judged again without each of them, by the same rules. Exploratory.

A layer that turns the verdict was looked for among many: its p-values are adjusted, and it is a hint where to look and
no finding. Axis letters: T logged steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from prismatic.contract.thresholds import Thresholds
from validation.analysis.controls import Cohort
from validation.analysis.evidence import evidence_of
from validation.analysis.interim import interim_look
from validation.analysis.run import METRICS, Expert, Run
from validation.analysis.statistics import Array, batched, benjamini_yekutieli, exp, finite
from validation.verdict.claims import Claim
from validation.verdict.decide import decide

JUDGED = ("awakening", "divergence")


@dataclass(frozen=True)
class LayerAblation:
    """One claim about a run, as it would be without one of its layers."""

    layer: int
    """Its place among the layers of the run."""
    claim: Claim
    alone: float | None
    """What this layer alone shows, mean over the perturbed experts, in the unit of the claim."""
    p: float | None
    """That it differs from the other layers by chance, over the steps of this run; exploratory."""
    adjusted_p: float | None = None
    """The same, for having looked at every layer (Benjamini and Yekutieli: layers depend on each other)."""


def ablate_layers(
    run: Run, shams: Sequence[Run], claims: Sequence[Claim], thresholds: Thresholds
) -> dict[str, list[LayerAblation]]:
    """By claim, the run without each layer in turn. claims: the run's own, per expert and as a whole.

    The sham runs that it is compared to lose the same layer. Empty for a run with fewer than two layers.
    """
    places = range(len(run.layers))
    if len(places) < 2:
        return {}
    together = [run, *(sham for sham in shams if len(sham.layers) == len(places))]
    parts = {name: _leading_part([c for c in claims if c.name == name and c.expert is not None]) for name in JUDGED}
    found: dict[str, list[LayerAblation]] = {name: [] for name in JUDGED}
    for place in places:
        rest = [keep_layers(one, [other for other in places if other != place]) for one in together]
        alone = [keep_layers(one, [place]) for one in together]
        judged = decide(rest, {}, thresholds).controlled.whole(run.id)
        for name in JUDGED:
            own_T, rest_T = (_effect(name, parts[name], some, thresholds) for some in (alone, rest))
            found[name].append(
                LayerAblation(place, judged[name], _shown(own_T, judged[name].unit), _chance(own_T, rest_T))
            )
    return {name: _adjusted(some) for name, some in found.items()}


def keep_layers(run: Run, places: Sequence[int]) -> Run:
    """The run as if only these layers had been logged."""
    layers = [run.layers[place] for place in places]
    experts = {number: _mean(one, layers) for number, one in run.experts.items()}
    alone = run.isolated if run.isolated is not None and len(run.isolated.layers) == len(run.layers) else None
    isolated = keep_layers(alone, places) if alone is not None else None
    return replace(run, layers=layers, experts=experts, isolated=isolated)


def _mean(expert: Expert, layers: Sequence[Mapping[int, Expert]]) -> Expert:
    """The mean over layers, as the trainer writes it into `dynamics`."""
    own = [layer[expert.index] for layer in layers if expert.index in layer]
    columns = {metric: np.mean([one[metric] for one in own], axis=0) for metric in METRICS} if own else expert.columns
    return Expert(expert.index, expert.role, columns)


def _leading_part(claims: Sequence[Claim]) -> str | None:
    """Which of a claim's parts is largest: direction, or the tier that differs most."""
    parts = sorted({part for claim in claims for part in claim.parts})
    return max(parts, key=lambda part: abs(np.mean([c.parts.get(part, 0.0) for c in claims])), default=None)


def _effect(name: str, part: str | None, runs: Sequence[Run], thresholds: Thresholds) -> Array:
    """The series behind a claim about the first run, mean over its perturbed experts; NaN in rows that do not count."""
    looks = [interim_look(one, thresholds).run for one in runs]
    cohort, found = Cohort(looks, thresholds), []
    for expert in looks[0].of_role("perturbed"):
        evidence = evidence_of(looks[0], looks[0].experts[expert.index], cohort, thresholds)
        own = evidence.bottom_gain if name == "awakening" else evidence.divergence.get(part or "")
        if own is not None:
            found.append(np.where(evidence.rows, own, np.nan))
    alike = [one for one in found if len(one) == len(found[0])]
    return np.asarray(np.mean(alike, axis=0)) if alike else np.empty(0)


def _shown(values_T: Array, unit: str) -> float | None:
    """The mean of a series in the unit of its claim."""
    kept_T = values_T[np.isfinite(values_T)]
    if not len(kept_T):
        return None
    mean = float(kept_T.mean())
    return finite(exp(mean) if unit == "ratio" else mean)


def _chance(own_T: Array, rest_T: Array) -> float | None:
    """Two-sided p of equal means, by the same batch means as the verdict; None for too few rows."""
    if len(own_T) != len(rest_T):  # one could be judged from isolated gradients, the other not
        return None
    difference_T = own_T - rest_T
    batches = batched(difference_T[np.isfinite(difference_T)])
    error = math.sqrt(batches.variance / len(batches.mean_B))
    if not 0 < error < math.inf:
        return None
    return float(2 * special.stdtr(batches.freedom, -abs(float(batches.mean_B.mean())) / error))


def _adjusted(left: Sequence[LayerAblation]) -> list[LayerAblation]:
    """With p-values for having looked at every layer."""
    known = [one.p for one in left if one.p is not None]
    adjusted = iter(benjamini_yekutieli(np.array(known)).tolist())
    return [one if one.p is None else replace(one, adjusted_p=next(adjusted)) for one in left]
