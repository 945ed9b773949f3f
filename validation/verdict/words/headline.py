"""The headline over the three claims: at most 14 words that say what is decided and what stays open."""

from __future__ import annotations

from collections.abc import Sequence

from validation.text import pluralize
from validation.verdict.claims import (
    CONFOUNDED,
    DISTINCT,
    EXPERT,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    Reason,
)
from validation.verdict.groups import FOUND, NOT_FOUND, POSITIVE, Group

ALL_SUPPORTED = "The perturbation awakens the bottom weights, changes the gradients, and it lasts"
NONE_SUPPORTED = "On average, the perturbed experts learn like unperturbed ones"
HEADLINES_OF_SELF_TEST = {
    FOUND: "The verdict found the effect that was planted",
    NOT_FOUND: "The planted effect was not found: runs like these cannot answer",
}
WHOLE = "the hypothesis needs all three claims, so it is refuted as a whole"
NO_RUN = "No run could be judged"
NOUNS = {DISTINCT: "difference between experts"}
DECIDED = (SUPPORTED, REFUTED)


def headline_of(status: str, claims: Sequence[Claim], deciding: Sequence[Group]) -> str:
    """Return the headline. claims: the three over all runs; deciding: the groups that they are about."""
    first = first_of(status, claims)
    if first is None:
        return NO_RUN
    if status == INVALID:
        return first.headline
    if all(group.role == POSITIVE for group in deciding):
        checks = {group.check for group in deciding}
        check = checks.pop() if len(checks) == 1 else None
        return HEADLINES_OF_SELF_TEST.get(check or "", first.headline)
    if status == SUPPORTED and claims[0].replicate != EXPERT:
        return ALL_SUPPORTED
    if len(deciding) > 1:
        return _over_groups(claims, deciding)
    if not any(claim.status in DECIDED for claim in claims):
        return first.headline
    return _decided(claims)


def headline_of_one(status: str, claims: Sequence[Claim], deciding: Sequence[Group]) -> str:
    """Return the headline of a single claim. claims: that over all runs; deciding: the groups that it is about."""
    first = first_of(status, claims)
    if first is None:
        return NO_RUN
    if len(deciding) == 1 and deciding[0].role == POSITIVE and first.name == "awakening":
        return HEADLINES_OF_SELF_TEST.get(deciding[0].check or "", first.headline)
    every = [claim for group in deciding if (claim := group.claim(first.name)) is not None]
    if len({claim.reason for claim in every}) == 1:
        return every[0].headline
    text = _of_groups(NOUNS.get(first.name, first.name), every)
    return text[:1].upper() + text[1:]


def sentence_of(status: str, claims: Sequence[Claim]) -> str:
    """Return the sentence with the numbers that give the overall status, and why it is that of the whole."""
    first = first_of(status, claims)
    if first is None:
        return "no run could be judged"
    same = all(claim.reason == first.reason and claim.because == first.because for claim in claims)
    text = first.because if same else f"{first.name}: {first.because}"
    return f"{text}; {WHOLE}" if refuted_as_a_whole(status, claims) else text


def refuted_as_a_whole(status: str, claims: Sequence[Claim]) -> bool:
    """Return True if the whole is refuted by some of its claims, and not by all."""
    return status == REFUTED and any(claim.status != REFUTED for claim in claims)


def first_of(status: str, claims: Sequence[Claim]) -> Claim | None:
    """Return the first claim of a status: the one that the sentence is about."""
    return next((claim for claim in claims if claim.status == status), None)


def _decided(claims: Sequence[Claim]) -> str:
    """Return what is decided in one experiment, and what stays open: "No awakening over 6 seeds; ..."."""
    *levels, lasting = claims
    where = "in this run" if claims[0].replicate == EXPERT else f"over {pluralize(claims[0].units or 0, 'seed')}"
    if all(claim.status == REFUTED for claim in levels):
        return f"{NONE_SUPPORTED} {where}"
    found = [claim.name for claim in levels if claim.status == SUPPORTED]
    missing = [claim.name for claim in levels if claim.status == REFUTED]
    parts = [" and ".join(found)] if found else []
    parts += [f"{'but ' if found else ''}no {name}" for name in missing]
    text = ", ".join(parts) + f" {where}" if parts else ""
    if lasting.reason == Reason.LASTS:
        text += ", and it lasts" if text else "an effect lasts"
    elif lasting.reason == Reason.COLLAPSES:
        text += ", but it fades" if text else "an effect fades"
    rest = [_open(claim) for claim in levels if claim.status not in DECIDED]
    rest += ["whether it lasts stays open"] if found and lasting.status not in DECIDED else []
    text = "; ".join([*filter(None, [text]), *rest])
    return text[:1].upper() + text[1:]


def _open(claim: Claim) -> str:
    return f"{claim.name} {'cannot be seen here' if claim.status == CONFOUNDED else 'stays open'}"


def _over_groups(claims: Sequence[Claim], deciding: Sequence[Group]) -> str:
    """Return how many of several experiments show awakening and divergence; one reason for all is said once."""
    every = [claim for group in deciding for claim in group.claims]
    if len({claim.reason for claim in every}) == 1:
        return every[0].headline
    text = "; ".join(_of_groups(claim.name, [c for c in every if c.name == claim.name]) for claim in claims[:2])
    return text[:1].upper() + text[1:]


def _of_groups(name: str, claims: Sequence[Claim]) -> str:
    """Return in how many of several experiments a claim is supported, else refuted, else why it is not."""
    of, statuses = len(claims), [claim.status for claim in claims]
    supported, refuted = statuses.count(SUPPORTED), statuses.count(REFUTED)
    if supported:
        return f"{name} in {f'all {of}' if supported == of else f'{supported} of {of}'} experiments"
    if refuted:
        return f"no {name} in {f'any of {of}' if refuted == of else f'{refuted} of {of}'} experiments"
    return f"{name} {'stays open' if INCONCLUSIVE in statuses else 'cannot be seen here'}"
