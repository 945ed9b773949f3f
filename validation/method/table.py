"""The decision table in words: for each reason of a claim, when its line applies, and the status it gives.

docs/verdict.md has the same tables, and a test compares both word for word. The rules themselves are code
(`verdict/rules.py`). Conditions are Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass

from validation.verdict.claims import CONFOUNDED, DISTINCT, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim, Reason

SHARED = 9
"""Lines that all three claims pass first; those after them are of awakening and divergence."""


@dataclass(frozen=True)
class Line:
    """A line of the decision table."""

    reasons: tuple[Reason, ...]
    condition: str
    """When the line applies."""
    status: str
    only: str = ""
    """The one claim that has this line; empty if all have it."""


LINES = (
    Line(
        (Reason.TOO_FEW_VALID_RUNS,),
        "more than a fifth of the runs carry no verdict (a diagnostic of severity error). Fewer are left out",
        INVALID,
    ),
    Line(
        (Reason.NO_REPLICAS,),
        "a seed is there twice or unknown, two runs are copies (levels within 0.03, or within 0.01 but for one factor "
        "on every gradient; runs of one common gradient are not compared), or a twin is its run (within 0.01)",
        INVALID,
    ),
    Line(
        (Reason.SHAM_RUNS_SHOW_AN_EFFECT,),
        "six or more sham runs surely show an effect beyond ± its margin: the A/A check fails",
        INVALID,
    ),
    Line((Reason.NOTHING_PERTURBED,), "these are sham runs", INCONCLUSIVE),
    Line(
        (Reason.ONE_COMMON_GRADIENT,),
        "merged gradients of all experts are one gradient times a factor in more than half of the runs, as "
        "[one merge per batch](#one-common-gradient) makes them",
        CONFOUNDED,
    ),
    Line((Reason.NOTHING_TO_COMPARE,), "there are neither control experts nor twins", CONFOUNDED),
    Line((Reason.TOO_FEW_PLANNED_ROWS,), "a bin has no planned row", INCONCLUSIVE),
    Line((Reason.BEFORE_FIRST_LOOK,), "some run has passed fewer than two bins", INCONCLUSIVE),
    Line(
        (Reason.TOO_FEW_SEEDS, Reason.TOO_FEW_EXPERTS),
        "fewer than six seeds; in one run (its twin aside) fewer than three experts of each role",
        INCONCLUSIVE,
    ),
    Line(
        (Reason.SHARES_NOT_LOGGED,),
        "divergence only: merged parameters (or an unknown mixture) without routing shares, so that a size may be the "
        "router's",
        CONFOUNDED,
        "divergence",
    ),
    Line(
        (Reason.MEANS_OVER_LAYERS,),
        "an effect is beyond its margin (α/n), but several layers were logged as one mean, which supports nothing",
        INCONCLUSIVE,
    ),
    Line(
        (Reason.ROUTING_DIFFERS,),
        "line 13 or 18 would apply to merged gradients, but [the router](#unequal-shares) may be the cause: the "
        "routing shares of the roles surely differ by more than 10 % (α), or line 13 would and parameters are merged "
        "by shares that are not logged",
        CONFOUNDED,
    ),
    Line((Reason.ABOVE_MARGIN,), "an effect is beyond its margin (α/n)", SUPPORTED),
    Line(
        (Reason.ODD_EXPERT,),
        "an interval is beyond its margin (α/n), but [one odd expert](#odd-experts) in each run may be the cause",
        INCONCLUSIVE,
    ),
    Line(
        (Reason.DIRECTION_NOT_MEASURED,),
        "divergence only: directions are not logged, or are mostly noise",
        CONFOUNDED,
        "divergence",
    ),
    Line(
        (Reason.DIRECTION_SATURATED,),
        "divergence only: the control experts' own direction is surely above 0.90",
        CONFOUNDED,
        "divergence",
    ),
    Line(
        (Reason.NOISE_NOT_CORRECTED,),
        "divergence only: all effects are inside, but experts see batches of their own without half-batch products",
        INCONCLUSIVE,
        "divergence",
    ),
    Line((Reason.INSIDE_MARGIN,), "every effect is inside its margin (α)", REFUTED),
    Line((Reason.BOTH_SIDES_OF_MARGIN,), "no line before it applies", INCONCLUSIVE),
)
SUSTAINMENT = (
    Line((Reason.NOT_FINISHED,), "a bin is not complete", INCONCLUSIVE),
    Line(
        (Reason.COLLAPSES,),
        "the kept share of one of these n effects is below 0.5, its whole interval at α/n",
        REFUTED,
    ),
    Line((Reason.NOTHING_TO_SUSTAIN,), "no effect is surely beyond its margin over the run", INCONCLUSIVE),
    Line(
        (Reason.LASTS,),
        "the kept share of every effect that is, is surely above 0.5 (unless line 11 or 12 says otherwise)",
        SUPPORTED,
    ),
    Line((Reason.SHARE_UNDECIDED,), "no line before it applies", INCONCLUSIVE),
)
DISTINCT_LINES = (
    Line(
        (Reason.TOO_FEW_VALID_RUNS,),
        "more than a fifth of the runs carry no verdict. Fewer are left out",
        INVALID,
    ),
    Line((Reason.NO_REPLICAS,), "a seed is there twice or unknown, or two runs are copies", INVALID),
    Line(
        (Reason.PAIRS_NOT_COMPARED,),
        "some run holds no pairs of experts, or the runs have different experts",
        CONFOUNDED,
    ),
    Line((Reason.TOO_FEW_PLANNED_ROWS,), "a bin has no planned row of the probe", INCONCLUSIVE),
    Line((Reason.NOT_FINISHED,), "a bin is not complete", INCONCLUSIVE),
    Line(
        (Reason.DIRECTION_NOT_MEASURED,),
        "more than one bin, or both of the last third, are mostly noise (reliability below 0.10)",
        CONFOUNDED,
    ),
    Line(
        (Reason.TOO_FEW_SEEDS, Reason.TOO_FEW_EXPERTS),
        "fewer than six seeds; in one run fewer than three experts",
        INCONCLUSIVE,
    ),
    Line((Reason.ABOVE_MARGIN,), "the interval of the mean direction lies above 0.05", SUPPORTED),
    Line((Reason.INSIDE_MARGIN,), "it lies below 0.05", REFUTED),
    Line((Reason.BOTH_SIDES_OF_MARGIN,), "no line before it applies", INCONCLUSIVE),
)
BEYOND_THE_TABLE = {
    Reason.DEPENDS_ON_INVALID_RUNS: (
        "If some runs were left out, a *supported* or *refuted* must also hold with the least favourable effects of "
        "the group in their place; else the claim is inconclusive"
    ),
    Reason.SAME_IN_EVERY_GROUP: "over all, a claim is supported only if it is in every group",
    Reason.GROUPS_DIFFER: "over all, a claim is supported only if it is in every group",
    Reason.NO_PERTURBATION: "Nothing is claimed about a perturbation of peers",
    Reason.AS_WRITTEN: "These rules have no interval, no warm-up and no control",
}
"""Sentences of the page for the reasons that no line of the tables gives."""


def lines_of(claim: str) -> list[Line]:
    """Return the lines that a claim passes, in their order."""
    if claim == DISTINCT:
        return [*DISTINCT_LINES]
    if claim == "sustainment":
        return [*LINES[:SHARED], *SUSTAINMENT]
    return [line for line in LINES if line.only in ("", claim)]


def deciding_line(claim: Claim) -> Line | None:
    """Return the line that decided a claim; None for a reason that no line of the table gives."""
    return next((line for line in lines_of(claim.name) if claim.reason in line.reasons), None)


def lines_before(claim: Claim) -> list[Line]:
    """Return the lines that were asked before the one that decided and did not apply."""
    lines = lines_of(claim.name)
    line = deciding_line(claim)
    return lines[: lines.index(line)] if line else []
