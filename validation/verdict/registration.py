"""Whether a run is judged by what was registered before its first step, or by thresholds chosen after the fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prismatic.contract.thresholds import RULES, RegisteredThresholds, Thresholds, read_registration
from validation.analysis.run import Run

AS_REGISTERED, CHANGED, ALTERED, NOT_REGISTERED = "as_registered", "changed", "altered", "not_registered"


@dataclass(frozen=True)
class Registration:
    """What one run registered, beside what it is judged by."""

    run: str
    status: str
    because: str
    differences: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """By threshold, the registered value and the one that is used."""


def thresholds_of(runs: Sequence[Run]) -> Thresholds:
    """What the runs registered, if those that registered anything agree; else the defaults."""
    found = [read_registration(run.facts) for run in runs]
    usable = {one.thresholds for one in found if one is not None and one.thresholds is not None}
    return usable.pop() if len(usable) == 1 else Thresholds()


def registration_of(run: Run, used: Thresholds) -> Registration:
    """The run's registration beside the thresholds that it is judged by."""
    found = read_registration(run.facts)
    if found is None:
        return Registration(
            run.id, NOT_REGISTERED, "the file registers no thresholds: they were chosen when it was read"
        )
    if not found.intact:
        because = "the registered thresholds do not match the hash written with them: the file was altered afterwards"
        return Registration(run.id, ALTERED, because, found.differences(used))
    differences = found.differences(used)
    if found.rules != RULES:
        because = f"registered under version {found.rules} of the rules; this is version {RULES}"
        return Registration(run.id, CHANGED, f"{because}{_told(differences)}", differences)
    if differences:
        return Registration(run.id, CHANGED, f"changed after the fact{_told(differences)}", differences)
    return Registration(run.id, AS_REGISTERED, f"as registered before the first step (sha256 {_short(found)})")


def _told(differences: Mapping[str, tuple[float | None, float | None]]) -> str:
    def number(value: float | None) -> str:
        return "nothing" if value is None else f"{value:g}"

    pairs = [f"{name} from {number(old)} to {number(new)}" for name, (old, new) in sorted(differences.items())]
    return f": {', '.join(pairs)}" if pairs else ""


def _short(found: RegisteredThresholds) -> str:
    return Thresholds().changed(found.values).sha256[:12]
