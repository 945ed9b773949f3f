"""Groups of runs that differ only in the seed, their names and roles, and the claims over all groups.

The run is the unit of replication, never the step. Sham runs and positive controls decide the overall verdict only
where there are no other runs. Runs of peers are only asked if their experts are distinct.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import SCALE, MeasuredRun, Options, options_of
from validation.analysis.distinct import Distinct
from validation.analysis.intervals import holm
from validation.analysis.measurements import Measurements
from validation.analysis.run import Run
from validation.verdict.beside import Note
from validation.verdict.claims import (
    CLAIMS,
    DISTINCT,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    Reason,
    combine_statuses,
    overall,
)
from validation.verdict.outcome import Outcome
from validation.verdict.premise import Premise
from validation.verdict.rules import awakening

ROLES = TREATED, POSITIVE, SHAM, PEERS = "treated", "positive_control", "sham", "peers"
PASSES, FAILS, UNDECIDED = "passes", "fails", "undecided"
FOUND, NOT_FOUND = "found", "not_found"
NAMED_OPTIONS = 5
NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?(e-?\d{1,2})?")
GAIN = "positive_control"
Parts = Mapping[str, float]
"""The effects of one run, by name: logs of factors, and 1 - cosine."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, and their claims together."""

    name: str
    """The options in which this group differs from the others, as `name=value`; "all runs" for the only group."""
    role: str
    runs: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    """The three claims about a perturbation."""
    distinct_claim: Claim | None = None
    """The claim that its experts are distinct; None before it is judged."""
    values: Mapping[str, Mapping[str, Parts]] = field(default_factory=dict)
    """By claim and run, the effects that the claims are about, less those of the twin where twins are subtracted."""
    p: Mapping[str, float] = field(default_factory=dict)
    """By claim, the smallest alpha at which it is supported over seeds."""
    premise: Premise | None = None
    distinct: Distinct | None = None
    """Differences between all experts of the valid runs; None unless each compared its pairs of experts."""
    outcome: Outcome | None = None
    """The held-out losses of its runs against their twins; None without two pairs."""
    notes: tuple[Note, ...] = ()
    """Findings beside the claims: distinct experts, the outcome, the registered study."""
    check: str | None = None
    """The result of a control, of `check_of`; None for treated runs."""

    @property
    def options_beside_scale(self) -> dict[str, str]:
        """The options without perturbation_scale: groups that share them form a dose-response."""
        return {name: value for name, value in self.options.items() if name != SCALE}

    @property
    def judged(self) -> tuple[Claim, ...]:
        """The claims that are made of its experts: the three, or of peers that they are distinct."""
        return self.claims if self.role != PEERS or self.distinct_claim is None else (self.distinct_claim,)

    @property
    def status(self) -> str:
        """The status of the claims that are made, together."""
        return overall([claim.status for claim in self.judged])

    def claim(self, name: str) -> Claim | None:
        """Return a claim by its name."""
        known = (*self.claims, *([self.distinct_claim] if self.distinct_claim is not None else []))
        return next((claim for claim in known if claim.name == name), None)


def check_of(role: str, m: Measurements) -> str | None:
    """Return the result of a group that is a control: sham runs pass or fail, a positive control is found or not.

    It is undecided where the design, such as too few seeds, could not have found it.
    """
    if role == POSITIVE:
        decision = awakening(m)
        sought = decision.status == REFUTED or decision.reason == Reason.BOTH_SIDES_OF_MARGIN
        return FOUND if decision.status == SUPPORTED else NOT_FOUND if sought else UNDECIDED
    if role != SHAM:
        return None
    decision = awakening(m)
    if decision.reason == Reason.SHAM_RUNS_SHOW_AN_EFFECT:
        return FAILS
    both_sides = [replace(effect, two_sided=True) for effect in m.effects.values()]
    within = both_sides and all(effect.inside(m.alpha) for effect in both_sides)
    enough = m.units >= m.units_needed and decision.status != INVALID
    return PASSES if within and enough else UNDECIDED


def group_runs(runs: Sequence[MeasuredRun]) -> list[tuple[list[MeasuredRun], Group]]:
    """Return the groups of these runs, without claims, controls last, in the order of the options that differ.

    A run of unknown options is a group of its own.
    """
    members: dict[Options | str, list[MeasuredRun]] = {}
    for each in runs:
        members.setdefault(options_of(each.run) if each.run.config else each.run.id, []).append(each)
    options = [dict(key) if isinstance(key, tuple) else {} for key in members]
    known_runs = [each.run for each in runs if each.run.experts]
    peers = bool(known_runs) and all(run.peers for run in known_runs)  # a file without any expert is one of them
    differing = _differing([known for known in options if known])
    groups = []
    for group, known in zip(members.values(), options, strict=True):
        first = group[0].run
        # Only positive controls are named by their gain: other groups do not differ by having none.
        named = differing if first.is_positive_control else [name for name in differing if name != GAIN]
        shown = {name: known.get(name, "unknown") for name in named}
        role = PEERS if peers and not first.experts else _role(first)
        groups.append((group, Group(_name(shown, group, len(members)), role, tuple(r.run.id for r in group), shown)))
    return sorted(groups, key=lambda pair: (ROLES.index(pair[1].role), [*map(_ordered, pair[1].options.values())]))


def _role(run: Run) -> str:
    if run.peers:
        return PEERS
    return SHAM if run.is_sham else POSITIVE if run.is_positive_control else TREATED


def _ordered(value: str) -> tuple[bool, float, str]:
    """Return a key that orders the values of an option: numbers by size before other words."""
    number = float(value) if NUMBER.fullmatch(value) else math.inf
    return number == math.inf, number, value


def deciding_groups(groups: Sequence[Group], claim: str | None = None) -> list[Group]:
    """Return the groups that a claim is about: the treated ones, else positive controls, sham runs, peers.

    Peers are beside the treated ones for the claim that experts are distinct. claim: None for the three together.
    """
    first = (TREATED, PEERS) if claim == DISTINCT else (TREATED,)
    by_role = ([group for group in groups if group.role in roles] for roles in (first, *((role,) for role in ROLES)))
    return next(filter(None, by_role), [])


def combine_groups(name: str, groups: Sequence[Group], thresholds: Thresholds) -> Claim:
    """Return one claim over all runs, from the groups that the verdict is about; the others are their controls.

    "In every group" needs no correction; "in some group" is Holm's over the groups.
    """
    deciding = deciding_groups(groups, name)
    claims = [(group, claim) for group in deciding if (claim := group.claim(name)) is not None]
    if len(claims) == 1:
        return replace(claims[0][1], run=None, expert=None)
    counts = Counter(claim.status for _, claim in claims)
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    status = combine_statuses([claim.status for _, claim in claims])
    if len(counts) == 1:
        reason, headline = Reason.SAME_IN_EVERY_GROUP, f"{status.capitalize()} in each of {len(claims)} experiments"
    else:
        reason, headline = Reason.GROUPS_DIFFER, f"The experiments differ: {listed}"
    each = "; ".join(f"{group.name}: {claim.status}" for group, claim in claims[: 2 * NAMED_OPTIONS])
    more = f"; and {len(claims) - 2 * NAMED_OPTIONS} more" if len(claims) > 2 * NAMED_OPTIONS else ""
    because = f"{len(claims)} experiments are judged apart: {each}{more}"
    adjusted = holm([group.p.get(name, 1.0) for group, _ in claims])
    surely = [
        group.name
        for (group, claim), p in zip(claims, adjusted, strict=True)
        if claim.status == SUPPORTED and p <= thresholds.alpha
    ]
    if surely and status != SUPPORTED:
        names = ", ".join(surely[:NAMED_OPTIONS])
        because += f"; supported in some of them, corrected for {len(claims)} experiments: {names}"
    return Claim(name, status, because, reason, headline)


def combine_written(
    runs: Sequence[MeasuredRun], written: Sequence[Sequence[Claim]], groups: Sequence[Group]
) -> tuple[list[Claim], list[Claim]]:
    """Return the claims as written about each run, and those over the runs that the verdict is about."""
    deciding = {run for group in deciding_groups(groups) for run in group.runs}
    claims = [claim for of_run in written for claim in of_run]
    over_all = []
    for name in CLAIMS if runs else ():
        whole = [claim for claim in claims if claim.name == name and claim.expert is None and claim.run in deciding]
        status = combine_statuses([claim.status for claim in whole])
        if len(whole) == 1 or (whole and all(claim.reason == Reason.NO_PERTURBATION for claim in whole)):
            over_all.append(replace(whole[0], run=None))
            continue
        counts = Counter(claim.status for claim in whole)
        listed = ", ".join(f"{counts[s]} {s}" for s in (SUPPORTED, REFUTED, INCONCLUSIVE, INVALID) if counts[s])
        over_all.append(Claim(name, status, f"{listed} of {len(whole)} runs"))
    return claims, over_all


def _differing(options: Sequence[Mapping[str, str]]) -> list[str]:
    names = sorted({name for group in options for name in group})
    return [name for name in names if len({group.get(name) for group in options}) > 1]


def _name(options: Mapping[str, str], group: Sequence[MeasuredRun], groups: int) -> str:
    if groups == 1:
        return "all runs"
    if not group[0].run.config:
        return f"run {group[0].run.id} (options unknown)"
    if not options:
        return "the runs of known options"
    shown = [f"{name}={value[:40]}" for name, value in options.items()]
    more = f" and {len(shown) - NAMED_OPTIONS} more options" if len(shown) > NAMED_OPTIONS else ""
    return ", ".join(shown[:NAMED_OPTIONS]) + more
