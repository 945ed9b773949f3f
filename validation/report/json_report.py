"""A judgement as JSON, as text for a terminal and as an exit code. The same numbers, whoever shows them."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from prismatic._version import __version__
from prismatic.contract.thresholds import RULES
from validation.analysis.run import Run
from validation.diagnostics import ERROR, WARNING, Finding
from validation.files.read_files import RunFile
from validation.judgement.baseline import Change, Comparison
from validation.judgement.judge import Judgement
from validation.text import pluralize, printable, spaced
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim
from validation.verdict.decide import Reading
from validation.verdict.registration import ALTERED, Registration
from validation.verdict.wording import estimated

SCHEMA = "prismatic-verdict/1"
EXIT_CODES = {SUPPORTED: 0, REFUTED: 1, INCONCLUSIVE: 3, CONFOUNDED: 3, INVALID: 4}
UNREADABLE, WORSENED, UNSURE = 2, 1, 3
LONGEST = 5000  # characters of a line
SHOWN = 5  # of several that are alike
OPTION_CHARACTERS = 500  # of a text that a file gives as the value of an option


def exit_code(judgement: Judgement, *, strict: bool = False, comparison: Comparison | None = None) -> int:
    """0 supported, 1 refuted, 2 a file could not be read, 3 inconclusive or confounded, 4 invalid data.

    Beside a baseline 1 also if a claim that it supported no longer is. Strict: what would be 0 is 3 where a warning, an
    error or an altered registration speaks against it.
    """
    if judgement.rejected or (comparison is not None and comparison.baseline.rejected):
        return UNREADABLE
    if comparison is not None and comparison.worsened:
        return WORSENED
    code = EXIT_CODES[judgement.verdict.status]
    return UNSURE if strict and code == 0 and objections(judgement) else code


def objections(judgement: Judgement) -> list[str]:
    """What stands beside a verdict and keeps a strict reader from taking it as a clean yes."""
    told = [f"{f.id} [{f.run or 'files'}]" for f in judgement.findings if f.severity in (ERROR, WARNING)]
    return told + [f"thresholds altered [{one.run}]" for one in judgement.registrations if one.status == ALTERED]


def versions() -> dict[str, str]:
    """What computed this report."""
    libraries = {name: version(name) for name in ("duckdb", "numpy", "scipy")}
    return {"prismatic": __version__, "python": platform.python_version(), **libraries}


def as_json(judgement: Judgement, comparison: Comparison | None = None) -> dict[str, Any]:
    """The object that `check --json` prints; always complete, also when no file could be read.

    docs/check.schema.json says what each key means.
    """
    verdict = judgement.verdict
    about = zip(judgement.runs, judgement.files, judgement.registrations, strict=True)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "status": verdict.status,
        "because": verdict.controlled.because,
        "as_written": _reading(verdict.as_written),
        "controlled": _reading(verdict.controlled),
        "premise": [asdict(premise) for premise in verdict.premises],
        "groups": [{**asdict(group), "status": group.status} for group in verdict.groups],
        "dose": [asdict(dose) for dose in verdict.doses],
        "advice": [{**asdict(advice), "line": advice.line} for advice in judgement.advice],
        "rules": RULES,
        "thresholds": asdict(verdict.thresholds),
        "versions": versions(),
        "runs": [_run(*one) for one in about],
        "diagnostics": [asdict(finding) for finding in judgement.findings],
    }
    if comparison is not None:
        report["baseline"] = _baseline(comparison)
    return dict(_finite(report))


def _reading(reading: Reading) -> dict[str, Any]:
    return {"status": reading.status, "because": reading.because, "claims": [asdict(claim) for claim in reading.claims]}


def _run(run: Run, file: RunFile, registration: Registration) -> dict[str, Any]:
    differences = {
        name: {"registered": registered, "used": used} for name, (registered, used) in registration.differences.items()
    }
    return {
        "run": run.run,
        "file": run.name,
        "steps": len(run.steps),
        "experts": len(run.experts),
        "seed": run.seed,
        "perturbation_scale": run.number("config.perturbation_scale"),
        "sha256": file.sha256,
        "provisional": not run.finished,
        "positive_control": run.is_positive_control,
        "registered": {"status": registration.status, "because": registration.because, "differences": differences},
        "options": options(run),
        "events": dict(run.events),
    }


def options(run: Run) -> dict[str, Any]:
    """What the run was trained with, as plain values that JSON knows; longer ones as the beginning of their text."""
    return {name: _option(value) for name, value in run.config.items()}


def _option(value: object) -> object:
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return printable(value, OPTION_CHARACTERS)


def _baseline(comparison: Comparison) -> dict[str, Any]:
    other = comparison.baseline
    return {
        "status": other.verdict.status,
        "because": other.verdict.controlled.because,
        "worsened": comparison.worsened,
        "runs": [
            {"run": run.run, "file": run.name, "sha256": file.sha256}
            for run, file in zip(other.runs, other.files, strict=True)
        ],
        "changes": [_change(change) for change in comparison.changes],
        "unmatched": list(comparison.unmatched),
        "diagnostics": [asdict(finding) for finding in other.findings],
    }


def _change(change: Change) -> dict[str, Any]:
    def values(claim: Claim) -> dict[str, Any]:
        return {name: getattr(claim, name) for name in ("status", "estimate", "low", "high", "unit", "threshold")}

    return {
        "where": change.where,
        "claim": change.after.claim,
        "expert": change.after.expert,
        "before": values(change.before),
        "after": values(change.after),
        "difference": change.difference,
        "overlap": change.overlap,
        "worsened": change.worsened,
        "because": change.because,
    }


def _finite(value: Any) -> Any:
    """The same with null for what is not finite, which JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


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


def alike(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings that say the same of several runs, together; what was seen differs."""
    together: dict[tuple[str, ...], list[Finding]] = {}
    for one in findings:
        together.setdefault((one.id, one.severity, one.symptom, one.cause, one.fix), []).append(one)
    return list(together.values())


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
