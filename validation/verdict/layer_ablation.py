"""The layers that drive the verdict: the run judged again without each layer, by the same rules. Exploratory.

A layer that changes the verdict was found by testing every layer, so its p-values are adjusted and it is only a hint.
Axis letters: T logged steps.
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
    """A claim about a run, judged without one of its layers."""

    layer: int
    """Index of the layer in `Run.layers`."""
    claim: Claim
    alone: float | None
    """Effect in this layer alone, mean over the perturbed experts, in the unit of the claim."""
    p: float | None
    """p-value against no difference from the other layers, over the steps of this run."""
    adjusted_p: float | None = None
    """The p-value, adjusted for testing every layer (Benjamini and Yekutieli, as layers depend on each other)."""


def ablate_layers(
    run: Run, shams: Sequence[Run], claims: Sequence[Claim], thresholds: Thresholds
) -> dict[str, list[LayerAblation]]:
    """Return by claim the run without each of its layers. claims: about the run and its experts.

    The sham runs lose the same layer. The result is empty for a run with fewer than two layers.
    """
    layers = range(len(run.layers))
    if len(layers) < 2:
        return {}
    cohort = [run, *(sham for sham in shams if len(sham.layers) == len(layers))]
    parts = {name: _leading_part([c for c in claims if c.name == name and c.expert is not None]) for name in JUDGED}
    found: dict[str, list[LayerAblation]] = {name: [] for name in JUDGED}
    for layer in layers:
        without = [keep_layers(member, [other for other in layers if other != layer]) for member in cohort]
        alone = [keep_layers(member, [layer]) for member in cohort]
        verdict = decide(without, {}, thresholds).controlled.whole(run.id)
        for name in JUDGED:
            alone_T, without_T = (_effect(name, parts[name], runs, thresholds) for runs in (alone, without))
            effect, p = _mean_in_unit(alone_T, verdict[name].unit), _p_value(alone_T, without_T)
            found[name].append(LayerAblation(layer, verdict[name], effect, p))
    return {name: _adjusted(ablations) for name, ablations in found.items()}


def keep_layers(run: Run, indices: Sequence[int]) -> Run:
    """Return the run as if only these layers had been logged."""
    layers = [run.layers[index] for index in indices]
    experts = {number: _mean(expert, layers) for number, expert in run.experts.items()}
    alone = run.isolated if run.isolated is not None and len(run.isolated.layers) == len(run.layers) else None
    isolated = keep_layers(alone, indices) if alone is not None else None
    return replace(run, layers=layers, experts=experts, isolated=isolated)


def _mean(expert: Expert, layers: Sequence[Mapping[int, Expert]]) -> Expert:
    """Return the mean over layers, as the trainer writes it into `dynamics`."""
    each = [layer[expert.index] for layer in layers if expert.index in layer]
    columns = {metric: np.mean([e[metric] for e in each], axis=0) for metric in METRICS} if each else expert.columns
    return Expert(expert.index, expert.role, columns)


def _leading_part(claims: Sequence[Claim]) -> str | None:
    """Return the largest of the claims' parts: the direction, or the tier that differs most."""
    parts = sorted({part for claim in claims for part in claim.parts})
    return max(parts, key=lambda part: abs(np.mean([c.parts.get(part, 0.0) for c in claims])), default=None)


def _effect(name: str, part: str | None, runs: Sequence[Run], thresholds: Thresholds) -> Array:
    """Return the series of a claim about the first run, mean over its perturbed experts; NaN in unused rows."""
    judged = [interim_look(run, thresholds).run for run in runs]
    cohort, found = Cohort(judged, thresholds), []
    for expert in judged[0].of_role("perturbed"):
        evidence = evidence_of(judged[0], judged[0].experts[expert.index], cohort, thresholds)
        effect = evidence.bottom_gain if name == "awakening" else evidence.divergence.get(part or "")
        if effect is not None:
            found.append(np.where(evidence.rows, effect, np.nan))
    aligned = [effect_T for effect_T in found if len(effect_T) == len(found[0])]
    return np.asarray(np.mean(aligned, axis=0)) if aligned else np.empty(0)


def _mean_in_unit(values_T: Array, unit: str) -> float | None:
    """Return the mean of a series in the unit of its claim."""
    finite_T = values_T[np.isfinite(values_T)]
    if not len(finite_T):
        return None
    mean = float(finite_T.mean())
    return finite(exp(mean) if unit == "ratio" else mean)


def _p_value(alone_T: Array, without_T: Array) -> float | None:
    """Return the two-sided p of equal means, by the batch means of the verdict; None for too few rows."""
    if len(alone_T) != len(without_T):  # one may be judged by isolated gradients, the other not
        return None
    difference_T = alone_T - without_T
    batches = batched(difference_T[np.isfinite(difference_T)])
    error = math.sqrt(batches.variance / len(batches.mean_B))
    if not 0 < error < math.inf:
        return None
    return float(2 * special.stdtr(batches.freedom, -abs(float(batches.mean_B.mean())) / error))


def _adjusted(ablations: Sequence[LayerAblation]) -> list[LayerAblation]:
    """Return the ablations with p-values adjusted for testing every layer."""
    known = [ablation.p for ablation in ablations if ablation.p is not None]
    adjusted = iter(benjamini_yekutieli(np.array(known)).tolist())
    return [each if each.p is None else replace(each, adjusted_p=next(adjusted)) for each in ablations]
