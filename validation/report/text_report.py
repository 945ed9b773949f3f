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
from validation.judgement.baseline import Change, CheckChange, Comparison
from validation.judgement.glance import RUNS, Glance, Row, Step, glance_of, step_of
from validation.judgement.judge import Judgement
from validation.judgement.step import Advice
from validation.judgement.study import study_of
from validation.text import pluralize, printable, spaced
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim, Reason
from validation.verdict.decide import Verdict
from validation.verdict.groups import PEERS, POSITIVE, SHAM, Group
from validation.verdict.hypotheses import EXPLAINED, OPEN
from validation.verdict.registration import ALTERED, CHANGED, Registration
from validation.verdict.words.statuses import SELF_TEST
from validation.verdict.words.wording import CHECKS, estimated, parts_of, replication, threshold

AS_WRITTEN = "as written"
LONGEST = 5000  # characters of a line
LONGEST_NAME = 50  # characters of a group's name in a table
SHOWN = 5  # of several that are alike
GROUP_ROWS = 12
CHECKED = {SHAM: "A/A", POSITIVE: "effect"}
STYLES = {
    SUPPORTED: "bold green",
    REFUTED: "bold red",
    INCONCLUSIVE: "bold",
    CONFOUNDED: "bold yellow",
    INVALID: "bold magenta",
    SELF_TEST: "bold blue",
    ERROR: "bold red",
    WARNING: "bold yellow",
    INFO: "bold",
}


def render(
    judgement: Judgement, comparison: Comparison | None = None, *, verbose: bool = False, brief: bool = False
) -> list[RenderableType]:
    """Return what `check` prints: headline, deciding numbers, next step, claims, the documented reading, a finding.

    verbose: every group, every run, both readings, every finding and every advice as well. brief: of these, nothing
    about single runs where there are several.
    """
    glance = glance_of(judgement)
    told = f" ({'; '.join(glance.notes)})" if glance.notes else ""
    word = (f"{glance.shown.word.upper()}: ", STYLES[glance.shown.kind])
    parts: list[RenderableType] = [_line(word, glance.headline, told)]
    parts += [_line(glance.sentence)] if judgement.runs else []
    parts += _next_step(glance.step) if glance.step is not None else []
    parts += _tables(judgement.verdict, glance)
    parts += _study(judgement)
    if verbose:
        parts += _details(judgement, comparison, brief=brief)
    else:
        parts += _summary(judgement, glance, comparison)
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


def _next_step(step: Step) -> Iterator[RenderableType]:
    yield ""
    yield _line(("next: ", "bold"), step.text)
    if step.command:
        yield _line(f"  {step.command}")
    if step.cost:
        yield _line((f"  {step.cost}", "dim"))


def _tables(verdict: Verdict, glance: Glance) -> Iterator[RenderableType]:
    """Yield the table of the three claims with the documented reading, and a table of several experiments."""
    if glance.rows:
        yield ""
        rows = _claim_rows(glance.rows)
        yield terminal.table(rows, whole=[name for name in rows[0] if name.startswith("estimate")])
    if glance.documented:
        yield ""
        yield _line((glance.documented, "dim"))
    if len(verdict.groups) > 1:
        yield ""
        checked = any(group.check for group in verdict.groups)
        names = dict.fromkeys(claim.name for group in verdict.groups for claim in group.judged)
        yield terminal.table([_group_row(group, [*names], checked=checked) for group in verdict.groups[:GROUP_ROWS]])
        if len(verdict.groups) > GROUP_ROWS:
            yield _line(f"and {pluralize(len(verdict.groups) - GROUP_ROWS, 'more experiment')} (--verbose)")


def _study(judgement: Judgement) -> Iterator[RenderableType]:
    """Yield the study of the runs: its planned runs, and the answers to its hypotheses."""
    study = study_of(judgement)
    if study is None:
        return
    yield ""
    yield _line(("study ", "bold"), f"{study.plan.name}: {study.because}")
    for each in study.answers:
        answer = (f"{EXPLAINED[each.status]}: ", "" if each.status == OPEN else "bold")
        yield _line("  ", answer, f"{each.hypothesis.sentence}. {each.because}")


def _claim_rows(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return a row for each claim, with numbers if there are any: claims over several experiments have none."""
    numbers = any(row.claim.estimate is not None for row in rows)
    estimate = f"estimate {replication(rows[0].claim)}"
    found: list[dict[str, object]] = []
    for row in rows:
        cells: dict[str, object] = {"claim": row.claim.name, "status": _line((row.shown.word, STYLES[row.shown.kind]))}
        cells |= {estimate: estimated(row.claim, unit=False), "threshold": threshold(row.claim)} if numbers else {}
        found.append(cells | {"reason": row.reason})
    return found


def _group_row(group: Group, names: Sequence[str], *, checked: bool) -> dict[str, object]:
    """Return the row of an experiment. A control has the result of its check, and estimates without a status.

    names: of the claims that are made of any experiment. checked: with a column for that result.
    """
    runs, used = pluralize(len(group.runs), RUNS[group.role]), group.judged[0].units
    some = len(group.runs) > 1 and used != len(group.runs)  # the units of a single run are its experts
    row: dict[str, object] = {"experiment": _line(printable(group.name, LONGEST_NAME))}
    row["runs"] = f"{used} of {runs}" if some else runs
    judged = {claim.name: claim for claim in group.judged}
    for name in names:
        claim = judged.get(name)
        status = [_status(claim.status)] if claim is not None and group.check is None else []
        row[name] = _line(*status, " " if status else "", "" if claim is None else estimated(claim, bare=True))
    check = f"{CHECKED[group.role]} {spaced(group.check)}" if group.check else ""
    return row | ({"check": check} if checked else {})


def _summary(judgement: Judgement, glance: Glance, comparison: Comparison | None) -> Iterator[RenderableType]:
    """Yield the premise, the outcome, changed thresholds, the gravest finding and how the baseline compares."""
    if glance.premise:
        yield ""
        yield _line(("premise: ", "bold"), glance.premise)
    yield from _outcome_lines(judgement.verdict)
    changed = [registration for registration in judgement.registrations if registration.status in (CHANGED, ALTERED)]
    for because, count in Counter(registration.because for registration in changed).items():
        yield _line(("thresholds: ", "bold"), because, f" ({pluralize(count, 'run')})" if count > 1 else "")
    findings, several = group_same(judgement.findings), len(judgement.runs) > 1
    if findings:
        gravest = min(findings, key=lambda same: (ERROR, WARNING, INFO).index(same[0].severity))
        told = glance.step is not None and gravest[0].fix in glance.step.text
        yield ""
        yield from _finding_lines(gravest, seen=1, cause=False, fix=not told, named=several)
    if comparison is not None:
        yield ""
        yield from _comparison_lines(comparison, verbose=False)
    if judgement.runs or len(findings) > 1:
        yield ""
        yield _line((_verbose_hint(judgement, len(findings)), "dim"))


def _outcome_lines(verdict: Verdict) -> Iterator[RenderableType]:
    """Yield how the runs end against their twins, a line for each experiment."""
    outcomes = verdict.outcomes
    yield from [""] if outcomes else []
    for name, outcome in outcomes[:SHOWN]:
        which = f"{printable(name, LONGEST_NAME)}: " if len(verdict.deciding) > 1 else ""
        yield _line(("outcome: ", "bold"), f"{which}{outcome.because}")
    if len(outcomes) > SHOWN:
        yield _line(f"and {pluralize(len(outcomes) - SHOWN, 'more outcome')} (--verbose)")


def _verbose_hint(judgement: Judgement, findings: int) -> str:
    """Return the line that names what --verbose adds."""
    verdict, steps = judgement.verdict, len(judgement.advice)
    more = ["each run"] if judgement.runs else []
    more += ["the dose-response"] if verdict.doses else []
    peers = all(group.role == PEERS for group in verdict.groups)
    more += [] if peers else ["the documented rules as written"]
    more += [pluralize(findings - 1, "more finding")] if findings > 1 else []
    more += [pluralize(steps - 1, "more step")] if steps > 1 else []
    return f"--verbose shows {', '.join(more)}."


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
    for title, claims in _readings(verdict, None) if several else ():
        if title == AS_WRITTEN or len(verdict.deciding) > 1:
            yield ""
            yield f"over all runs, {title}"
            yield from _claim_lines(claims)
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
            yield from _advice_lines(advice, judgement)
    if comparison is not None:
        yield ""
        yield from _comparison_lines(comparison)


def _readings(verdict: Verdict, run: str | None) -> Iterator[tuple[str, list[Claim]]]:
    """Yield the controlled claims about a run (None: over all), and those as written, which peers have not."""
    judged = verdict.rows if run is None else verdict.judged(run)
    yield "controlled", [*judged.values()]
    written = verdict.as_written.whole(run)
    if not all(claim.reason == Reason.NO_PERTURBATION for claim in written.values()):
        yield AS_WRITTEN, [*written.values()]


def _run_lines(judgement: Judgement, run: Run, registration: Registration) -> Iterator[RenderableType]:
    verdict = judgement.verdict
    yield _line(f"run {run.id} ({run.name}): {pluralize(len(run.steps), 'logged step')}, {len(run.experts)} experts")
    if run.id in verdict.premise_of:
        yield _line(f"  premise      {verdict.premise_of[run.id].because}")
    yield _line(f"  thresholds   {registration.because}")
    for title, claims in _readings(verdict, run.id):
        yield _line(f"  {title}")
        yield from _claim_lines(claims)


def _group_lines(group: Group) -> Iterator[RenderableType]:
    yield _line(f"group {group.name} ({pluralize(len(group.runs), RUNS[group.role])})")
    if group.premise is not None:
        yield _line(f"  premise      {group.premise.because}")
    if group.check is not None:
        yield _line(f"  check        {CHECKS[group.check]}")
    for note in (note for note in group.notes if note.name not in {claim.name for claim in group.judged}):
        yield _line(f"  {note.name:<12} {spaced(note.status)}: {note.because}")
    yield from _claim_lines(group.judged)


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


def _advice_lines(advice: Advice, judgement: Judgement) -> Iterator[RenderableType]:
    step = step_of(advice, judgement)
    yield _line(f"  {step.text}", f" [{advice.run}]" if advice.run else "")
    if step.command:
        yield _line(f"    {step.command}")


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
