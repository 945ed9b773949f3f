"""Statuses as readers see them: an icon, a word that names the confounder, and the result of a self-test.

A *self-test* is a group of positive controls or of sham runs: it tests the verdict and not the perturbation. Its status
in JSON stays that of any other group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from validation.verdict.claims import CONFOUNDED, DISTINCT, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim, Reason
from validation.verdict.groups import FAILS, FOUND, NOT_FOUND, PASSES, POSITIVE, SHAM, UNDECIDED, Group

SELF_TEST = "self_test"
ICONS = {SUPPORTED: "✓", REFUTED: "✗", INCONCLUSIVE: "?", CONFOUNDED: "⇄", INVALID: "!", SELF_TEST: "◎"}
CONFOUNDERS = {
    Reason.ONE_COMMON_GRADIENT: "routing",
    Reason.SHARES_NOT_LOGGED: "routing",
    Reason.ROUTING_DIFFERS: "routing",
    Reason.NOTHING_TO_COMPARE: "chance",
    Reason.DIRECTION_SATURATED: "chance",
    Reason.DIRECTION_NOT_MEASURED: "missing directions",
    Reason.PAIRS_NOT_COMPARED: "a missing probe",
}
"""What else could explain the numbers, for every reason of the status confounded."""
STATUSES_OF_SELF_TEST = {SUPPORTED: "found", REFUTED: "not found"}
RESULTS = {
    FOUND: (SELF_TEST, "self-test passed"),
    PASSES: (SELF_TEST, "self-test passed"),
    NOT_FOUND: (REFUTED, "self-test failed"),
    FAILS: (REFUTED, "self-test failed"),
    UNDECIDED: (INCONCLUSIVE, "self-test undecided"),
}


@dataclass(frozen=True)
class Shown:
    """A status as readers see it."""

    kind: str
    """One of the five statuses or SELF_TEST: it has an icon and a colour."""
    word: str

    @property
    def icon(self) -> str:
        """The icon of the kind, one character."""
        return ICONS[self.kind]


def shown_claim(claim: Claim, *, planted: bool = False) -> Shown:
    """Return the status of a claim. planted: its runs are positive controls, so that an effect is no result."""
    if planted and claim.status in STATUSES_OF_SELF_TEST:
        return Shown(SELF_TEST if claim.status == SUPPORTED else REFUTED, STATUSES_OF_SELF_TEST[claim.status])
    noise = claim.name == DISTINCT and claim.reason == Reason.DIRECTION_NOT_MEASURED
    confounder = "noise" if noise else CONFOUNDERS.get(claim.reason)
    by = f" by {confounder}" if claim.status == CONFOUNDED and confounder else ""
    return Shown(claim.status, f"{claim.status}{by}")


def shown_group(group: Group) -> Shown:
    """Return the status of a group, or the result of its self-test."""
    if group.check is not None and group.status != INVALID:
        return Shown(*RESULTS[group.check])
    return shown_status(group.status, group.judged)


def shown_groups(status: str, claims: Sequence[Claim], deciding: Sequence[Group]) -> Shown:
    """Return the status of several groups together. claims: those over all of them."""
    tested = all(group.role in (POSITIVE, SHAM) for group in deciding)
    if status != INVALID and deciding and tested:
        results = [shown_group(group) for group in deciding]
        return max(results, key=lambda shown: (REFUTED, INCONCLUSIVE, SELF_TEST)[::-1].index(shown.kind))
    return shown_status(status, claims)


def shown_status(status: str, claims: Sequence[Claim]) -> Shown:
    """Return the status of three claims together, with the confounder of the first confounded one."""
    first = next((claim for claim in claims if claim.status == status), None)
    return shown_claim(first) if first is not None and status == CONFOUNDED else Shown(status, status)
