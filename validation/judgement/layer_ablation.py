"""The layers that drive the verdict: an experiment judged again without each layer, by the same rules. Exploratory.

A layer that changes the verdict was found by trying every layer, so it is only a hint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.analysis.experiment import measure, source_of
from validation.verdict.claims import Claim
from validation.verdict.experiment_claims import claims_of

JUDGED = ("awakening", "divergence")


@dataclass(frozen=True)
class LayerAblation:
    """A claim of an experiment, judged without one of its layers."""

    layer: int
    """Index of the layer in `Run.layers`."""
    claim: Claim
    """With the numbers of the effect that decides with all layers."""
    alone: float | None
    """Estimate of this effect in this layer alone, in the unit of the claim."""


def ablate_layers(
    runs: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds
) -> dict[str, list[LayerAblation]]:
    """Return by claim the experiment of these runs without each of its layers; empty for fewer than two layers.

    The sham runs lose the same layer.
    """
    valid = [each for each in runs if each.run.id not in cohort.invalid and each.merged is not None]
    source = source_of(valid)
    twins = [twin for each in valid if (twin := cohort.twin_of(each.run)) is not None]
    counts = {levels.layers for each in (*valid, *twins) if (levels := each.levels(source)) is not None}
    layers = range(counts.pop() if len(counts) == 1 else 0)

    def judged(kept: Sequence[int]) -> dict[str, Claim]:
        """Return the claims of the experiment as if only these layers had been logged."""
        cut = [each.of_layers(kept, source) if each in valid else each for each in runs]
        others = [twin.of_layers(kept, source) for twin in twins]
        m = measure(cut, Cohort([*cut, *others], [*cohort.invalid]), thresholds, {})
        return {claim.name: claim for claim in claims_of(m, [each.run for each in cut], {})}

    found: dict[str, list[LayerAblation]] = {name: [] for name in JUDGED}
    whole = judged(layers) if len(layers) > 1 else {}
    for layer in layers if whole else ():
        without, alone = judged([other for other in layers if other != layer]), judged([layer])
        for name in JUDGED:
            claims = [_same_effect(claim[name], whole[name]) for claim in (without, alone)]
            found[name].append(LayerAblation(layer, claims[0], claims[1].estimate))
    return found if whole else {}


def _same_effect(claim: Claim, whole: Claim) -> Claim:
    """Return the claim with the numbers of the effect that decides the whole claim; without numbers if it lacks it."""
    part = next((part for part in claim.components if part.name == whole.effect), None)
    if part is None:
        return replace(claim, estimate=None, low=None, high=None)
    return replace(claim, **{**asdict(part), "name": claim.name})
