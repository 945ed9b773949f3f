"""The verdict as text: headline, claims, premise, finding and next step of `prismatic check`, and its --verbose.

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
from validation.judgement.baseline import Change, CheckChange, Comparison
from validation.judgement.judge import Judgement
from validation.text import pluralize, printable, sentence, spaced
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim
from validation.verdict.decide import Reading, Verdict
from validation.verdict.groups import POSITIVE, SHAM, TREATED, Group, deciding_groups
from validation.verdict.registration import ALTERED, CHANGED, Registration
from validation.verdict.words.wording import CHECKS, estimated, parts_of, replication, threshold

LONGEST = 5000  # characters of a line
LONGEST_NAME = 50  # characters of a group's name in a table
SHOWN = 5  # of several that are alike
GROUP_ROWS = 12
RUNS = {TREATED: "run", SHAM: "sham run", POSITIVE: "positive control"}
CHECKED = {SHAM: "A/A", POSITIVE: "effect"}
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
    """Return what `check` prints: headline, deciding numbers, claims, premise, gravest finding and next step.

    verbose: every group, every run, both readings, every finding and every advice as well. brief: of these, nothing
    about single runs where there are several.
    """
    verdict = judgement.verdict
    parts: list[RenderableType] = [_line((f"{verdict.status.upper()}: ", STYLES[verdict.status]), verdict.headline)]
    parts += [_line(sentence(verdict.controlled.because))] if judgement.runs else []
    parts += _tables(verdict)
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


def _tables(verdict: Verdict) -> Iterator[RenderableType]:
    """Yield the table of the three claims and, where there are several experiments, a table of these."""
    if verdict.headlines:
        yield ""
        rows = _claim_rows(list(verdict.headlines.values()))
        yield terminal.table(rows, whole=[name for name in rows[0] if name.startswith("estimate")])
    if len(verdict.groups) > 1:
        yield ""
        checked = any(group.check for group in verdict.groups)
        yield terminal.table([_group_row(group, checked=checked) for group in verdict.groups[:GROUP_ROWS]])
        if len(verdict.groups) > GROUP_ROWS:
            yield _line(f"and {pluralize(len(verdict.groups) - GROUP_ROWS, 'more experiment')} (--verbose)")


def _claim_rows(claims: Sequence[Claim]) -> list[dict[str, object]]:
    """Return a row for each claim, with numbers if there are any: claims over several experiments have none."""
    numbers = any(claim.estimate is not None for claim in claims)
    estimate = f"estimate {replication(claims[0])}"
    rows: list[dict[str, object]] = []
    for claim in claims:
        row: dict[str, object] = {"claim": claim.name, "status": _line(_status(claim.status))}
        row |= {estimate: estimated(claim, unit=False), "threshold": threshold(claim)} if numbers else {}
        rows.append(row | {"reason": claim.headline})
    return rows


def _group_row(group: Group, *, checked: bool) -> dict[str, object]:
    """Return the row of an experiment. A control has the result of its check, and estimates without a status.

    checked: with a column for that result.
    """
    runs, used = pluralize(len(group.runs), RUNS[group.role]), group.claims[0].units
    some = len(group.runs) > 1 and used != len(group.runs)  # the units of a single run are its experts
    row: dict[str, object] = {"experiment": _line(printable(group.name, LONGEST_NAME))}
    row["runs"] = f"{used} of {runs}" if some else runs
    for claim in group.claims:
        status = [_status(claim.status)] if group.check is None else []
        row[claim.name] = _line(*status, " " if status else "", estimated(claim, bare=True))
    check = f"{CHECKED[group.role]} {spaced(group.check)}" if group.check else ""
    return row | ({"check": check} if checked else {})


def _summary(judgement: Judgement, comparison: Comparison | None) -> Iterator[RenderableType]:
    """Yield the premise, changed thresholds, the gravest finding, the next step and how the baseline compares."""
    yield from _premise(judgement.verdict)
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


def _premise(verdict: Verdict) -> Iterator[RenderableType]:
    """Yield in one line whether the clean expert's bottom weights are dormant, the premise of awakening."""
    premises = [group.premise for group in deciding_groups(verdict.groups) if group.premise is not None]
    if not premises:
        return
    if len(premises) == 1:
        found = f"{premises[0].because} (dormant: below {premises[0].threshold:.2f}x)"
    else:
        counts = Counter(spaced(premise.status) for premise in premises)
        each = ", ".join(f"{status} in {pluralize(count, 'experiment')}" for status, count in counts.items())
        found = f"bottom weights of the clean expert are {each}"
    yield ""
    yield _line(("premise: ", "bold"), found)


def _details(judgement: Judgement, comparison: Comparison | None, *, brief: bool) -> Iterator[RenderableType]:
    """Yield every run, group, dose, finding and advice, with the full reasons, and every change since the baseline."""
    verdict, several = judgement.verdict, len(judgement.runs) > 1
    if not (brief and several):
        for run, registration in zip(judgement.runs, judgement.registrations, strict=True):
            yield ""
            yield from _run_lines(judgement, run, registration)
    for group in verdict.groups if several else ():
        yield ""
        yield from _group_lines(group)
    for title, reading in _readings(verdict) if several else ():
        if reading is verdict.as_written or len(deciding_groups(verdict.groups)) > 1:
            yield ""
            yield f"over all runs, {title}"
            yield from _claim_lines(reading.of(None))
    for number, dose in enumerate(verdict.doses):
        yield from [] if number else [""]
        yield _line(f"dose: {dose.because}")
    for same in group_same(judgement.findings):
        yield ""
        yield from _finding_lines(same)
    if judgement.advice:
        yield ""
        yield "next"
        for advice in judgement.advice:
            yield from _advice_lines("  ", advice)
    if comparison is not None:
        yield ""
        yield from _comparison_lines(comparison)


def _readings(verdict: Verdict) -> tuple[tuple[str, Reading], ...]:
    return ("controlled", verdict.controlled), ("as written", verdict.as_written)


def _run_lines(judgement: Judgement, run: Run, registration: Registration) -> Iterator[RenderableType]:
    verdict = judgement.verdict
    yield _line(f"run {run.id} ({run.name}): {pluralize(len(run.steps), 'logged step')}, {len(run.experts)} experts")
    if run.id in verdict.premise_of:
        yield _line(f"  premise      {verdict.premise_of[run.id].because}")
    yield _line(f"  thresholds   {registration.because}")
    for title, reading in _readings(verdict):
        yield _line(f"  {title}")
        yield from _claim_lines(list(reading.whole(run.id).values()))


def _group_lines(group: Group) -> Iterator[RenderableType]:
    yield _line(f"group {group.name} ({pluralize(len(group.runs), RUNS[group.role])})")
    if group.premise is not None:
        yield _line(f"  premise      {group.premise.because}")
    if group.check is not None:
        yield _line(f"  check        {CHECKS[group.check]}")
    for note in group.notes:
        yield _line(f"  {note.name:<12} {spaced(note.status)}: {note.because}")
    yield from _claim_lines(group.claims)


def _claim_lines(claims: Sequence[Claim]) -> Iterator[RenderableType]:
    """Yield each claim with its reason, and its components where there are several."""
    for claim in claims:
        yield _line(f"    {claim.name:<12} ", _status(claim.status, 13), f" {estimated(claim):<34} {claim.because}")
        for part in parts_of(claim):
            yield _line(f"      {spaced(part.name):<24} {estimated(part):<34} threshold {threshold(part)}")


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
    """Yield what became worse; verbose: every claim and check, and runs without a counterpart too."""
    status = comparison.baseline.verdict.status
    worse = "worse than the baseline" if comparison.worsened else "nothing that the baseline shows is lost"
    yield _line("baseline (", _status(status), f"): {worse if comparison.baseline.runs else 'no run could be read'}")
    changes = [change for change in comparison.all if change.worsened or verbose]
    yield from map(_change_line, changes if verbose else changes[:SHOWN])
    if len(changes) > SHOWN and not verbose:
        yield _line(f"    and {len(changes) - SHOWN} more (--verbose)")
    if verbose:
        yield from (_line(f"    {name}") for name in comparison.unmatched[:SHOWN])
        if len(comparison.unmatched) > SHOWN:
            yield _line(f"    and {len(comparison.unmatched) - SHOWN} more without a counterpart")
    for finding in comparison.baseline.findings_of(None):
        yield from _finding_lines([finding])


def _change_line(change: Change | CheckChange) -> Text:
    return _line(f"  {'!' if change.worsened else ' '} {change.where}, {change.what}: {change.because}")
