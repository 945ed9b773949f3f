"""The registration of thresholds before the first step: used as registered, changed afterwards, altered, or missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prismatic.contract.thresholds import RULES, RegisteredThresholds, Thresholds, read_registration
from validation.analysis.run import Run

AS_REGISTERED, CHANGED, ALTERED, NOT_REGISTERED = "as_registered", "changed", "altered", "not_registered"


@dataclass(frozen=True)
class Registration:
    """The thresholds that one run registered, compared with those that judge it."""

    run: str
    status: str
    because: str
    differences: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """By name, the registered and the used value of each threshold that differs."""


def thresholds_of(runs: Sequence[Run]) -> Thresholds:
    """Return the registered thresholds if all runs that registered any agree, else the defaults."""
    found = [read_registration(run.facts) for run in runs]
    usable = {each.thresholds for each in found if each is not None and each.thresholds is not None}
    return usable.pop() if len(usable) == 1 else Thresholds()


def registration_of(run: Run, used: Thresholds) -> Registration:
    """Return the registration of a run, compared with the thresholds that judge it."""
    found = read_registration(run.facts)
    if found is None:
        return Registration(
            run.id, NOT_REGISTERED, "the file registers no thresholds; these were chosen when it was read"
        )
    if not found.intact:
        because = "the registered thresholds do not match their hash: the file was altered afterwards"
        return Registration(run.id, ALTERED, because, found.differences(used))
    differences = found.differences(used)
    if found.rules == RULES and found.thresholds is None:
        because = "the registered thresholds are outside of the values that may be registered; the defaults are used"
        return Registration(run.id, ALTERED, because, differences)
    if found.rules != RULES:
        because = f"registered under version {found.rules} of the rules, judged under version {RULES}"
        return Registration(run.id, CHANGED, f"{because}{_listed(differences)}", differences)
    if differences:
        return Registration(run.id, CHANGED, f"changed after the fact{_listed(differences)}", differences)
    return Registration(run.id, AS_REGISTERED, f"as registered before the first step (sha256 {_short(found)})")


def _listed(differences: Mapping[str, tuple[float | None, float | None]]) -> str:
    def number(value: float | None) -> str:
        return "nothing" if value is None else f"{value:g}"

    pairs = [f"{name} from {number(old)} to {number(new)}" for name, (old, new) in sorted(differences.items())]
    return f": {', '.join(pairs)}" if pairs else ""


def _short(found: RegisteredThresholds) -> str:
    return Thresholds().changed(found.values).sha256[:12]
