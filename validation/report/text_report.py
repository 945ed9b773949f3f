"""The verdict as text: headline, table, premise, finding and next step of `prismatic check`, and its --verbose.

STYLES has the colours of statuses on a terminal. A pipe gets the same words without colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prismatic import terminal
from validation.analysis.run import Run
from validation.diagnostics import ERROR, INFO, WARNING, Finding
from validation.diagnostics.finding import group_same
from validation.judgement.advice import Advice
from validation.judgement.baseline import Change, Comparison
from validation.judgement.judge import Judgement
from validation.report.short_reasons import headline, headline_claims, short_reason
from validation.text import pluralize, printable, spaced
from validation.verdict.claims import CLAIMS, CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim
from validation.verdict.groups import POSITIVE, SHAM, TREATED, Group
from validation.verdict.premise import Premise
from validation.verdict.registration import ALTERED, CHANGED, Registration
from validation.verdict.wording import digits, estimated, has_interval, threshold

LONGEST = 5000  # characters of a line
LONGEST_NAME = 50  # characters of a group's name in a table
SHOWN = 5  # of several that are alike
GROUP_ROWS = 12
RUNS = {TREATED: "run", SHAM: "sham run", POSITIVE: "positive control"}
STYLES = {
    SUPPORTED: "bold green",
    REFUTED: "bold red",
    INCONCLUSIVE: "bold",
    CONFOUNDED: "bold yellow",
    INVALID: "bold magenta",
    ERROR: "bold red",
    WARNING: "bold yellow",
    INFO: "bold",
}


def render(
    judgement: Judgement, comparison: Comparison | None = None, *, verbose: bool = False, brief: bool = False
) -> list[RenderableType]:
    """Return what `check` prints: the headline, the three claims, the premise, the gravest finding, the next step.

    verbose: every run, both readings, every finding and every advice as well. brief: of these, nothing about single
    runs where there are several.
    """
    status = judgement.verdict.status
    parts: list[RenderableType] = [_line((f"{status.upper()}: ", STYLES[status]), headline(judgement))]
    parts += _tables(judgement)
    if verbose:
        parts += _details(judgement, comparison, brief=brief)
    else:
        parts += _summary(judgement, comparison)
    return parts


def _line(*parts: str | tuple[str, str]) -> Text:
    """Return one line of texts and (text, style). Names of options and files cannot add lines or colours to it."""
    line = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        line.append(printable(text, LONGEST), style=style)
    return line


def _status(status: str, width: int = 0) -> tuple[str, str]:
    return f"{status:<{width}}", STYLES[status]


def _tables(judgement: Judgement) -> Iterator[RenderableType]:
    """Yield the table of the three claims and, where there are several experiments, a table of these."""
    claims = headline_claims(judgement).values()
    if claims:
        alpha = judgement.verdict.thresholds.alpha
        looked = any(claim.look is not None for claim in claims)
        interval = "interval" if looked else f"{100 * (1 - alpha):g} % interval"
        yield ""
        yield terminal.table(
            [
                {
                    "claim": claim.name,
                    "status": _line(_status(claim.status)),
                    "estimate": estimated(claim, bare=True),
                    interval: _interval(claim),
                    "threshold": threshold(claim),
                    "reason": _line(short_reason(claim, judgement)),
                }
                for claim in claims
            ]
        )
    groups = judgement.verdict.groups
    if len(groups) > 1:
        yield ""
        yield terminal.table([_group_row(group) for group in groups[:GROUP_ROWS]])
        if len(groups) > GROUP_ROWS:
            yield _line(f"and {pluralize(len(groups) - GROUP_ROWS, 'more experiment')} (--verbose)")


def _group_row(group: Group) -> dict[str, object]:
    claims = {claim.name: claim for claim in group.claims}
    runs = pluralize(len(group.runs), RUNS[group.role])
    row: dict[str, object] = {"experiment": _line(printable(group.name, LONGEST_NAME)), "runs": runs}
    for claim in (claims[name] for name in CLAIMS):
        row[claim.name] = _line(_status(claim.status), f" {estimated(claim, bare=True)}".rstrip())
    return row


def _interval(claim: Claim) -> str:
    if not has_interval(claim):
        return ""
    low = "-∞" if claim.low is None else digits(claim.low, claim)
    high = "∞" if claim.high is None else digits(claim.high, claim)
    return f"[{low}, {high}]"


def _summary(judgement: Judgement, comparison: Comparison | None) -> Iterator[RenderableType]:
    """Yield the premise, changed thresholds, the gravest finding, the next step and how the baseline compares."""
    yield from _premise(judgement)
    changed = [registration for registration in judgement.registrations if registration.status in (CHANGED, ALTERED)]
    for because, count in Counter(registration.because for registration in changed).items():
        yield _line(("thresholds: ", "bold"), because, f" ({pluralize(count, 'run')})" if count > 1 else "")
    findings, several = group_same(judgement.findings), len(judgement.runs) > 1
    step = judgement.advice[0] if judgement.advice else None
    if findings:
        gravest = min(findings, key=lambda same: (ERROR, WARNING, INFO).index(same[0].severity))
        mended = step is not None and step.id == "mend_the_data" and step.run == gravest[0].run
        yield ""
        yield from _finding_lines(gravest, seen=1, cause=False, fix=not mended, named=several)
    if step is not None:
        yield ""
        yield from _advice_lines("next: ", step, named=several)
    if comparison is not None:
        yield ""
        yield from _comparison_lines(comparison, verbose=False)
    if judgement.runs or len(findings) > 1:
        yield ""
        yield _line((_verbose_hint(judgement, len(findings)), "dim"))


def _verbose_hint(judgement: Judgement, findings: int) -> str:
    """Return the line that names what --verbose adds, with the status of the reading as written."""
    verdict, steps = judgement.verdict, len(judgement.advice)
    more = ["each run"] if judgement.runs else []
    more += ["the dose-response"] if verdict.doses else []
    more += [f"the documented rules as written ({verdict.as_written.status})"]
    more += [pluralize(findings - 1, "more finding")] if findings > 1 else []
    more += [pluralize(steps - 1, "more step")] if steps > 1 else []
    return f"--verbose shows {', '.join(more)}."


def _premise(judgement: Judgement) -> Iterator[RenderableType]:
    """Yield in one line whether the clean expert's bottom weights are dormant, the premise of awakening."""
    premises = judgement.verdict.premises
    if not premises:
        return
    if len(premises) == 1:
        found = f"{spaced(premises[0].status)}; {_dormancy(premises[0])}"
    else:
        counts = Counter(spaced(premise.status) for premise in premises)
        each = ", ".join(f"{status} in {pluralize(count, 'run')}" for status, count in counts.items())
        found = f"bottom weights of the clean expert are {each}"
    yield ""
    yield _line(("premise: ", "bold"), found)


def _dormancy(premise: Premise) -> str:
    """Return the gradient of a bottom weight relative to a middle one, with the threshold of dormancy."""
    if premise.estimate is None:
        return "too few usable rows"
    low = "0.00" if premise.low is None else f"{premise.low:.2f}"
    high = "∞" if premise.high is None else f"{premise.high:.2f}"
    size = f"{premise.estimate:.2f}x [{low}, {high}] a middle weight's gradient"
    return f"bottom weights of the clean expert receive {size} (dormant: below {premise.threshold:.2f}x)"


def _details(judgement: Judgement, comparison: Comparison | None, *, brief: bool) -> Iterator[RenderableType]:
    """Yield every run, group, dose, finding and advice, with the full reasons, and every change since the baseline."""
    verdict = judgement.verdict
    if not (brief and len(judgement.runs) > 1):
        for run, registration in zip(judgement.runs, judgement.registrations, strict=True):
            yield ""
            yield from _run_lines(judgement, run, registration)
    if len(verdict.groups) > 1:
        for group in verdict.groups:
            yield ""
            yield _line(f"group {group.name} ({pluralize(len(group.runs), 'run')}, {spaced(group.role)})")
            yield from _claim_lines(group.claims)
    if verdict.controlled.of(None):
        yield ""
        yield "all runs, controlled"
        yield from _claim_lines(verdict.controlled.of(None))
    for number, dose in enumerate(verdict.doses):
        yield from [] if number else [""]
        yield _line(f"dose: {dose.because}")
    for several in group_same(judgement.findings):
        yield ""
        yield from _finding_lines(several)
    if judgement.advice:
        yield ""
        yield "next"
        for advice in judgement.advice:
            yield from _advice_lines("  ", advice)
    if comparison is not None:
        yield ""
        yield from _comparison_lines(comparison)


def _run_lines(judgement: Judgement, run: Run, registration: Registration) -> Iterator[RenderableType]:
    verdict = judgement.verdict
    yield _line(f"run {run.id} ({run.name}): {pluralize(len(run.steps), 'logged step')}, {len(run.experts)} experts")
    if run.id in verdict.premise_of:
        yield _line(f"  premise      {verdict.premise_of[run.id].because}")
    yield _line(f"  thresholds   {registration.because}")
    for title, reading in (("controlled", verdict.controlled), ("as written", verdict.as_written)):
        yield _line(f"  {title}")
        yield from _claim_lines(list(reading.whole(run.id).values()))


def _claim_lines(claims: Sequence[Claim]) -> Iterator[RenderableType]:
    for claim in claims:
        yield _line(f"    {claim.name:<12} ", _status(claim.status, 13), f" {estimated(claim):<20} {claim.because}")


def _finding_lines(
    several: Sequence[Finding], *, seen: int = SHOWN, cause: bool = True, fix: bool = True, named: bool = True
) -> Iterator[RenderableType]:
    """Yield one finding, which may be about several runs.

    seen: print the evidence of at most so many runs. named: print the names of the runs.
    """
    first = several[0]
    runs = list(dict.fromkeys(finding.run for finding in several if finding.run)) if named else []
    where = f" [{', '.join(runs[:SHOWN])}{', ...' if len(runs) > SHOWN else ''}]" if runs else ""
    yield _line((f"{first.severity}: ", STYLES[first.severity]), f"{first.symptom}{where} ({first.id})")
    rows = [("seen:", finding.evidence) for finding in several[:seen]]
    rows += [("", f"and {len(several) - seen} more like this")] if len(several) > seen else []
    rows += [("cause:", first.cause)] if cause else []
    rows += [("fix:", first.fix)] if fix else []
    yield _labelled(rows)


def _labelled(rows: Sequence[tuple[str, str]]) -> Table:
    """Return lines of a label and a text that wraps beside it."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    for label, text in rows:
        grid.add_row(f"  {label:<6}", _line(text))
    return grid


def _advice_lines(title: str, advice: Advice, *, named: bool = True) -> Iterator[RenderableType]:
    where = f" [{advice.run}]" if advice.run and named else ""
    command = f": prismatic train ... {advice.line}" if advice.line else ""
    yield _line((title, "bold"), f"{advice.text}{where}{command}")


def _comparison_lines(comparison: Comparison, *, verbose: bool = True) -> Iterator[RenderableType]:
    """Yield what became worse; verbose: every claim per run or over all runs, and runs without a counterpart too."""
    status = comparison.baseline.verdict.status
    worse = "worse than the baseline" if comparison.worsened else "no claim that the baseline supports is lost"
    yield _line("baseline (", _status(status), f"): {worse if comparison.baseline.runs else 'no run could be read'}")
    changes = [change for change in comparison.changes if change.worsened or (verbose and change.after.expert is None)]
    of_runs = [change for change in changes if change.after.expert is None]
    shown = changes if verbose else (of_runs or changes)[:SHOWN]
    yield from map(_change_line, shown)
    if len(changes) > len(shown):
        yield _line(f"    and {len(changes) - len(shown)} more (--verbose)")
    if verbose:
        yield from (_line(f"    {name}") for name in comparison.unmatched[:SHOWN])
        if len(comparison.unmatched) > SHOWN:
            yield _line(f"    and {len(comparison.unmatched) - SHOWN} more without a counterpart")
    for finding in comparison.baseline.findings_of(None):
        yield from _finding_lines([finding])


def _change_line(change: Change) -> Text:
    expert = "" if change.after.expert is None else f" expert {change.after.expert}"
    mark = "!" if change.worsened else " "
    return _line(f"  {mark} {change.where}, {change.after.name}{expert}: {change.because}")
