"""The numbers that decided one claim, and the thresholds in force with their origin, as rows to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from prismatic.contract.thresholds import Thresholds, read_registration
from validation.analysis.bins import BINS
from validation.analysis.experiment import LOOK_SHARE
from validation.analysis.run import Run
from validation.text import pluralize, spaced
from validation.verdict.claims import DISTINCT, REFUTED, SEED, Claim, Reason
from validation.verdict.words.wording import QUANTITIES, compared_with, estimated, has_interval, threshold

OF_ALL = ("alpha", "warmup", "min_seeds", "min_experts", "rows_share")
OF_CLAIM = {
    "awakening": ("awakening_ratio", *OF_ALL),
    "divergence": ("divergence_ratio", "divergence_direction", "reliability", "saturated", *OF_ALL),
    DISTINCT: ("divergence_direction", "reliability", *OF_ALL),
    "sustainment": ("sustained_share", "awakening_ratio", "divergence_ratio", "divergence_direction", *OF_ALL),
}
AS_WRITTEN = {"divergence": ("divergence_supported", "divergence_refuted")}
Row = tuple[str, str]


@dataclass(frozen=True)
class UsedThreshold:
    """A threshold in force."""

    name: str
    value: float
    origin: str
    """registered, default, or changed from another value."""
    meaning: str


def numbers_of(claim: Claim, thresholds: Thresholds) -> list[Row]:
    """Return the numbers of a claim: its effects, error rate, units and comparison; none over groups or as written."""
    if claim.units is None:
        return []
    return [
        *(
            (QUANTITIES.get(part.name, spaced(part.name)), _effect(replace(claim, **asdict(part))))
            for part in claim.components
        ),
        ("error rate", _alpha(claim, thresholds)),
        ("units", _units(claim, thresholds)),
        ("gradients", claim.source),
        ("compared with", _compared(claim)),
        ("parts of the training", f"{claim.bins} of {BINS}" if claim.bins else "none yet"),
    ]


def _compared(claim: Claim) -> str:
    if claim.name == DISTINCT:
        return "each expert with each other"
    return compared_with(claim.control, twins=claim.twins)


def _effect(part: Claim) -> str:
    found = estimated(part) if has_interval(part) else f"{estimated(part, bare=True)}, no interval"
    return f"{found}; threshold {threshold(part)}"


def _alpha(claim: Claim, thresholds: Thresholds) -> str:
    effects = len(claim.components)
    alpha = thresholds.alpha * (LOOK_SHARE if claim.bins is not None and 0 < claim.bins < BINS else 1)
    shared = effects > 1 and claim.status != REFUTED and claim.reason not in (Reason.LASTS, Reason.SHARE_UNDECIDED)
    look = " at an interim look" if alpha < thresholds.alpha else ""
    return f"α = {alpha:g}{look}" + (f", {alpha / effects:.3g} for each of {effects} effects" if shared else "")


def _units(claim: Claim, thresholds: Thresholds) -> str:
    if claim.replicate == SEED:
        return f"{pluralize(claim.units or 0, 'seed')}; {thresholds.min_seeds:g} are needed"
    units = pluralize(claim.units or 0, "expert")
    if claim.name == DISTINCT:
        return f"one run, {units}; {thresholds.min_experts:g} are needed"
    return f"one run, {units} of the role that has fewer; {thresholds.min_experts:g} of each role are needed"


def thresholds_in_force(claim: Claim, runs: Sequence[Run], used: Thresholds) -> list[UsedThreshold]:
    """Return the thresholds that the claim depends on. runs: those that the claim is about."""
    names = AS_WRITTEN.get(claim.name, ()) if claim.reason == Reason.AS_WRITTEN else OF_CLAIM[claim.name]
    values, defaults, meanings = asdict(used), asdict(Thresholds()), Thresholds.meanings()
    registered = [found.values if (found := read_registration(run.facts)) else {} for run in runs]
    return [
        UsedThreshold(
            name,
            values[name],
            _origin([of.get(name) for of in registered], values[name], defaults[name]),
            meanings[name],
        )
        for name in names
    ]


def _origin(registered: Sequence[float | None], value: float, default: float) -> str:
    if registered and all(each == value for each in registered):
        return "registered before the first step"
    others = sorted({each for each in registered if each is not None} - {value})
    if others:
        return f"changed; registered: {', '.join(f'{each:g}' for each in others)}"
    return "default" if value == default else f"changed; default: {default:g}"
