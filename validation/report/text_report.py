"""The verdict as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from validation.analysis.run import Run
from validation.diagnostics import Finding
from validation.judgement.baseline import Comparison
from validation.judgement.judge import Judgement
from validation.report.json_report import alike
from validation.text import pluralize, printable, spaced
from validation.verdict.claims import Claim
from validation.verdict.registration import Registration
from validation.verdict.wording import estimated

LONGEST = 5000  # characters of a line
SHOWN = 5  # of several that are alike


def as_text(judgement: Judgement, comparison: Comparison | None = None, *, brief: bool = False) -> str:
    """What `check` prints for a person: the headline, both readings of each run, what is wrong, what to do next.

    brief: without a section for each of several runs.
    """
    verdict = judgement.verdict
    lines = [f"{verdict.status.upper()}: {verdict.controlled.because}"]
    chosen = [] if brief and len(judgement.runs) > 1 else zip(judgement.runs, judgement.registrations, strict=True)
    for run, registration in chosen:
        lines += ["", *_run_lines(judgement, run, registration)]
    if len(verdict.groups) > 1:
        for group in verdict.groups:
            lines += ["", f"group {group.name} ({pluralize(len(group.runs), 'run')}, {spaced(group.role)})"]
            lines += _claim_lines(group.claims)
    across = verdict.controlled.of(None)
    if across:
        lines += ["", "all runs, controlled", *_claim_lines(across)]
    lines += ["", *(f"dose: {dose.because}" for dose in verdict.doses)] if verdict.doses else []
    for several in alike(judgement.findings):
        lines += ["", *_finding_lines(several)]
    if judgement.advice:
        lines += ["", "next", *(_advice_line(a.run, a.text, a.line) for a in judgement.advice)]
    if comparison is not None:
        lines += ["", *_comparison_lines(comparison)]
    # Names of options and files are data: none of them makes a line or a colour of its own on the terminal.
    return "\n".join(printable(line, LONGEST) for line in lines)


def _run_lines(judgement: Judgement, run: Run, registration: Registration) -> list[str]:
    verdict = judgement.verdict
    lines = [f"run {run.run} ({run.name}): {pluralize(len(run.steps), 'logged step')}, {len(run.experts)} experts"]
    if run.run in verdict.premise_of:
        lines.append(f"  premise      {verdict.premise_of[run.run].because}")
    lines += [f"  thresholds   {registration.because}"]
    for title, reading in (("controlled", verdict.controlled), ("as written", verdict.as_written)):
        lines += [f"  {title}", *_claim_lines(list(reading.whole(run.run).values()))]
    return lines


def _claim_lines(claims: Sequence[Claim]) -> list[str]:
    return [f"    {claim.claim:<12} {claim.status:<13} {estimated(claim):<20} {claim.because}" for claim in claims]


def _finding_lines(several: Sequence[Finding]) -> list[str]:
    first = several[0]
    runs = list(dict.fromkeys(finding.run for finding in several if finding.run))
    where = f" [{', '.join(runs[:SHOWN])}{', ...' if len(runs) > SHOWN else ''}]" if runs else ""
    lines = [f"{first.severity}: {first.symptom}{where} ({first.id})"]
    lines += [f"  seen:  {finding.evidence}" for finding in several[:SHOWN]]
    lines += [f"         and {len(several) - SHOWN} more like this"] if len(several) > SHOWN else []
    return [*lines, f"  cause: {first.cause}", f"  fix:   {first.fix}"]


def _advice_line(run: str | None, text: str, line: str) -> str:
    return f"  {text}{f' [{run}]' if run else ''}{f': {line}' if line else ''}"


def _comparison_lines(comparison: Comparison) -> list[str]:
    """Every claim per run or over all of them; of single experts only what is worse."""
    head = "worse than the baseline" if comparison.worsened else "no claim that the baseline supports is lost"
    lines = [f"baseline ({comparison.baseline.verdict.status}): {head}"]
    for change in comparison.changes:
        expert = "" if change.after.expert is None else f" expert {change.after.expert}"
        if change.worsened or not expert:
            mark = "!" if change.worsened else " "
            lines.append(f"  {mark} {change.where}, {change.after.claim}{expert}: {change.because}")
    lines += [f"    {one}" for one in comparison.unmatched[:SHOWN]]
    left = len(comparison.unmatched) - SHOWN
    lines += [f"    and {left} more without a counterpart"] if left > 0 else []
    for finding in comparison.baseline.findings:
        lines += _finding_lines([finding]) if finding.run is None else []
    return lines
