"""The verdict at a glance: status, headline, the deciding sentence, the next step, a row for each claim.

The first page, the head of a report and `prismatic check` show it, each in its own way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from prismatic.terminal import format_duration
from validation.analysis.mixtures import scales_with
from validation.analysis.run import Run
from validation.diagnostics import ERROR, Finding
from validation.judgement.judge import Judgement
from validation.judgement.step import Advice, Origin, origin_of
from validation.text import pluralize, sentence, spaced
from validation.verdict.claims import DISTINCT, EXPERT, INVALID, REFUTED, SUPPORTED, Claim, Reason
from validation.verdict.decide import Verdict
from validation.verdict.groups import FOUND, PEERS, POSITIVE, ROLES, SHAM, TREATED, Group
from validation.verdict.premise import DORMANT, NOT_DORMANT, Premise
from validation.verdict.words.headline import WHOLE, first_of, refuted_as_a_whole
from validation.verdict.words.statuses import Shown, shown_claim, shown_groups, shown_status
from validation.verdict.words.wording import QUESTIONS, estimated, over_experiments

RUNS = {TREATED: "run", SHAM: "sham run", POSITIVE: "positive control", PEERS: "run"}
REASONS_OF_SELF_TEST = {
    "awakening": "The planted gain is found",
    "divergence": "The gradients differ, by the planted gain or by the perturbation",
    "sustainment": "The difference lasts until the end",
}
AGAIN = "for the same reason"
GROUPS_LISTED = 4  # in the row of a claim


@dataclass(frozen=True)
class Row:
    """A claim as a row of the table."""

    claim: Claim
    question: str
    shown: Shown
    reason: str
    """At most 15 words."""
    groups: tuple[tuple[str, Claim, Shown], ...] = ()
    """By name, the claims of several experiments with their statuses; the names are words of the files."""


@dataclass(frozen=True)
class Step:
    """The next step."""

    text: str
    command: str = ""
    cost: str = ""
    """The number of runs that the command trains, and their duration."""


@dataclass(frozen=True)
class Glance:
    """The whole of the first page, as texts."""

    shown: Shown
    headline: str
    notes: tuple[str, ...]
    """What a reader must know beside the headline: a changed threshold, an interim look."""
    sentence: str
    """The numbers that decide, in one or two sentences."""
    step: Step | None
    rows: tuple[Row, ...]
    premise: str
    """In one or two sentences; empty if unknown, or if an effect was planted."""
    documented: str
    """The reading of the documented rules, in one or two sentences."""


def glance_of(judgement: Judgement, *, portable: bool = False) -> Glance:
    """Return the verdict of all runs at a glance. portable: the command is for readers elsewhere, see `origin_of`."""
    verdict = judgement.verdict
    deciding = verdict.deciding
    claims = tuple(verdict.rows.values())
    planted = bool(deciding) and all(group.role == POSITIVE for group in deciding)
    return Glance(
        _shown(verdict, deciding),
        verdict.reading.headline,
        tuple(_notes(judgement, claims, planted=planted)),
        _sentence(judgement, deciding, planted),
        _step(judgement, deciding, portable=portable),
        tuple(_rows(claims, deciding, planted)),
        "" if planted else _premise(deciding, verdict),
        _documented(judgement, claims, deciding) if claims else "",
    )


def _shown(verdict: Verdict, deciding: Sequence[Group]) -> Shown:
    asked = tuple(verdict.headlines.values())
    if verdict.claim == DISTINCT:  # no self-test is about it
        return shown_status(verdict.status, asked)
    return shown_groups(verdict.status, asked, deciding)


def _notes(judgement: Judgement, claims: Sequence[Claim], *, planted: bool) -> Iterator[str]:
    """Yield what a reader must know beside the headline; a result of one run is one of them."""
    yield from (note for note in judgement.verdict.notes if not (planted and note.startswith(spaced(POSITIVE))))
    asked = judgement.verdict.headlines.values()
    decided = any(claim.status in (SUPPORTED, REFUTED) for claim in asked)
    if decided and not planted and len(judgement.runs) == 1 and claims[0].replicate == EXPERT:
        yield "one run: six seeds show whether it holds beyond this training"


def _sentence(judgement: Judgement, deciding: Sequence[Group], planted: bool) -> str:
    """Return the numbers that decide; for data that carries no verdict, what was seen and its cause."""
    verdict = judgement.verdict
    first = first_of(verdict.status, [*verdict.headlines.values()])
    of_data = verdict.status == INVALID and (first is None or first.reason == Reason.TOO_FEW_VALID_RUNS)
    if of_data and (finding := _gravest(judgement, deciding)):
        return f"Seen: {finding.evidence}. Cause: {finding.cause}."
    gain = _runs_of(judgement, deciding)[0].option("positive_control") if planted else None
    if gain is not None and all(group.check == FOUND for group in deciding):
        found = estimated(verdict.controlled.whole(None)["awakening"])
        measured = f", and the verdict measures {found}" if found else ""
        return (
            f"The bottom-tier gradients of the perturbed experts were multiplied by {gain:g} by hand, on top of what "
            f"the perturbation does{measured}. This tests the method and says nothing about the perturbation."
        )
    if len(deciding) > 1:
        return _over_experiments(verdict, deciding, "" if first is None else first.name)
    return sentence(verdict.reading.because)


def _over_experiments(verdict: Verdict, deciding: Sequence[Group], deciding_claim: str) -> str:
    """Return the design of several experiments, and the numbers of the claim that decides, if all have one reason."""
    text = f"{len(deciding)} experiments ({_counted(deciding)}) are judged apart"
    others = [group for group in verdict.groups if group not in deciding]
    sham, planted = ([group for group in others if group.role == role] for role in (SHAM, POSITIVE))
    text += f", with {_counted(sham)} as their controls" if sham else ""
    text += f"; the method is tested by {_counted(planted)}" if planted else ""
    claims = [claim for group in deciding if (claim := group.claim(deciding_claim)) is not None]
    text += f"; {found}" if (found := over_experiments(claims)) else ""
    return sentence(f"{text}; {WHOLE}" if refuted_as_a_whole(verdict.status, [*verdict.headlines.values()]) else text)


def _counted(groups: Sequence[Group]) -> str:
    """Return the numbers of runs by their role: "18 runs", "6 sham runs"."""
    counts: Counter[str] = Counter()
    for role in ROLES:
        counts[RUNS[role]] += sum(len(group.runs) for group in groups if group.role == role)
    return " and ".join(pluralize(count, kind) for kind, count in counts.items() if count)


def _gravest(judgement: Judgement, deciding: Sequence[Group]) -> Finding | None:
    """Return the first error of the runs that decide; where no run decides, of the files that could not be read."""
    runs: list[str | None] = [name for group in deciding for name in group.runs]
    found = [finding for name in (runs or [None]) for finding in judgement.findings_of(name)]
    return next((finding for finding in found if finding.severity == ERROR), None)


def _runs_of(judgement: Judgement, groups: Sequence[Group]) -> list[Run]:
    names = {name for group in groups for name in group.runs}
    return [run for run in judgement.runs if run.id in names]


def _step(judgement: Judgement, deciding: Sequence[Group], *, portable: bool) -> Step | None:
    """Return the most important advice about the runs that decide."""
    names = {name for group in deciding for name in group.runs}
    own = [advice for advice in judgement.advice if advice.run in names] or [*judgement.advice]
    finding = _gravest(judgement, deciding)
    if own and own[0].id == "mend_the_data" and finding is not None and len(names) == 1:
        return Step(sentence(finding.fix))
    if own:
        return step_of(own[0], judgement, portable=portable)
    return Step(sentence(finding.fix)) if finding is not None and not judgement.runs else None


def step_of(advice: Advice, judgement: Judgement, *, portable: bool = False) -> Step:
    """Return an advice with its command and cost. The command takes the options from the run's file, or names them.

    portable: for readers elsewhere, see `origin_of`.
    """
    run = next((run for run in judgement.runs if run.id == advice.run), None)
    origin = Origin("experiments/prismatic.yml") if run is None else origin_of_run(judgement, run, portable=portable)
    command, cost = advice.command(origin), ""
    if command and advice.runs > 1:
        each = _duration(judgement, run)
        taken = f", about {each} of training each, plus start-up" if each else ""
        cost = f"{pluralize(advice.runs, 'run')}{taken}; finished ones in {origin.runs} are skipped."
    return Step(sentence(advice.text), command, cost)


def origin_of_run(judgement: Judgement, run: Run, *, portable: bool = False) -> Origin:
    """Return the place from which a command takes the options of a judged run."""
    return origin_of(next(file for file in judgement.files if file.id == run.id), portable=portable)


def _duration(judgement: Judgement, run: Run | None) -> str:
    """Return how long finished runs of as many steps were trained, on average; empty if unknown."""
    alike = [each for each in judgement.runs if run is not None and each.planned_steps == run.planned_steps]
    times = [(each.number("started"), each.number("ended")) for each in alike]
    seconds = [end - start for start, end in times if start is not None and end is not None and end > start]
    return format_duration(fmean(seconds)) if seconds else ""


def _rows(claims: Sequence[Claim], deciding: Sequence[Group], planted: bool) -> Iterator[Row]:
    told: set[str] = set()
    for claim in claims:
        planted = planted and claim.name != DISTINCT
        each = [(group.name, own) for group in deciding if (own := group.claim(claim.name)) is not None]
        groups = tuple((name, own, shown_claim(own, planted=planted)) for name, own in each) if len(each) > 1 else ()
        reason = _reason(claim, [own for _, own in each], planted=planted)
        reason = AGAIN if reason in told else reason
        told.add(reason)
        yield Row(claim, QUESTIONS[claim.name], shown_claim(claim, planted=planted), reason, groups)


def _reason(claim: Claim, each: Sequence[Claim], *, planted: bool) -> str:
    """Return the reason of a claim: of several experiments the one that all have, of a self-test what was found."""
    if planted and claim.status == SUPPORTED:
        return REASONS_OF_SELF_TEST.get(claim.name, claim.headline)
    return each[0].headline if len({own.reason for own in each}) == 1 else claim.headline


def _premise(deciding: Sequence[Group], verdict: Verdict) -> str:
    """Return whether the bottom weights are dormant, and how that agrees with the verdict."""
    premises = [group.premise for group in deciding if group.premise is not None]
    if not premises:
        return ""
    if len(premises) > 1:
        counts = Counter(spaced(premise.status) for premise in premises)
        each = ", ".join(f"{status} in {pluralize(count, 'experiment')}" for status, count in counts.items())
        return f"Bottom weights of the clean expert are {each}."
    return _reconciled(premises[0], verdict.controlled.whole(None)["awakening"].status)


def _reconciled(premise: Premise, awakening: str) -> str:
    found = sentence(premise.because)
    if premise.status == DORMANT:
        return f"The premise holds. {found}"
    if premise.status != NOT_DORMANT:
        return found
    says = {
        SUPPORTED: "so awakening here means a larger gradient, not that sleeping weights woke up.",
        REFUTED: "so there was little to awaken, which agrees with the verdict.",
    }.get(awakening, "so there is little to awaken, whatever more data shows.")
    return f"The premise fails. {found.removesuffix('.')}, {says}"


def _documented(judgement: Judgement, claims: Sequence[Claim], deciding: Sequence[Group]) -> str:
    """Return the documented reading of the three claims, and why it may differ."""
    written = judgement.verdict.as_written.whole(None)
    peers = all(group.role == PEERS for group in deciding)
    if peers or all(claim.status == INVALID for claim in written.values()):
        return ""
    runs = _runs_of(judgement, deciding)
    text = ", ".join(f"{name} {claim.status}" for name, claim in written.items())
    scale = scales_with(runs[0])
    text = f"By the rules of the original documentation, without control and interval, scaling with {scale}: {text}."
    if any(written[claim.name].status != claim.status for claim in claims if claim.name in written):
        routing = ", and removes what routing explains" if runs[0].merges_parameters else ""
        text += f" The verdict above adds control and interval{routing}."
    return text
