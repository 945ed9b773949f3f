"""The verdict as the JSON object of `prismatic check --json`: the keys that docs/check.schema.json describes."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

from prismatic._version import __version__
from prismatic.contract.thresholds import RULES
from validation.analysis.distinct import Distinct
from validation.analysis.run import Run
from validation.files.run_file import RunFile
from validation.judgement.baseline import Change, Comparison
from validation.judgement.glance import step_of
from validation.judgement.judge import Judgement
from validation.judgement.study import study_of
from validation.report.study_report import study_part
from validation.text import printable
from validation.verdict.claims import Claim
from validation.verdict.decide import Reading
from validation.verdict.groups import Group
from validation.verdict.outcome import Outcome
from validation.verdict.registration import Registration

SCHEMA = "prismatic-verdict/2"
OPTION_CHARACTERS = 500  # the longest text of an option that a file may give


def versions() -> dict[str, str]:
    """Return the versions of the programs that computed a report."""
    libraries = {name: version(name) for name in ("duckdb", "numpy", "scipy")}
    return {"prismatic": __version__, "python": platform.python_version(), **libraries}


def as_json(judgement: Judgement, comparison: Comparison | None = None, *, portable: bool = False) -> dict[str, Any]:
    """Return the object that `check --json` prints. It is complete also when no file could be read.

    docs/check.schema.json describes each key. Numbers that are not finite become None.
    portable: commands are for readers elsewhere, see `origin_of`.
    """
    verdict, study = judgement.verdict, study_of(judgement)
    runs = zip(judgement.runs, judgement.files, judgement.registrations, strict=True)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "claim": verdict.claim,
        "status": verdict.status,
        "headline": verdict.headline,
        "because": verdict.reading.because,
        "as_written": _reading(verdict.as_written),
        "controlled": _reading(verdict.controlled),
        "distinct": _reading(verdict.distinct),
        "study": None if study is None else study_part(study),
        "premise": list(map(asdict, verdict.premises)),
        "groups": [_group(group) for group in verdict.groups],
        "dose": list(map(asdict, verdict.doses)),
        "advice": [
            {**asdict(advice), "line": advice.line, "command": step_of(advice, judgement, portable=portable).command}
            for advice in judgement.advice
        ],
        "rules": RULES,
        "thresholds": asdict(verdict.thresholds),
        "versions": versions(),
        "runs": [run_object(run, file, registration) for run, file, registration in runs],
        "diagnostics": list(map(asdict, judgement.findings)),
    }
    if comparison is not None:
        report["baseline"] = _baseline(comparison)
    return dict(finite_values(report))


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "status": reading.status,
        "headline": reading.headline,
        "because": reading.because,
        "claims": list(map(claim_object, reading.claims)),
    }


def claim_object(claim: Claim) -> dict[str, Any]:
    """Return a claim by the keys of the schema."""
    values = asdict(claim)
    return {"claim": values.pop("name"), **values}


def _group(group: Group) -> dict[str, Any]:
    """Return a group; controls have the result of their check in place of a status."""
    status = group.status if group.check is None else None
    plain = {entry.name: getattr(group, entry.name) for entry in fields(group)}
    premise = None if group.premise is None else asdict(group.premise)
    notes = list(map(asdict, group.notes))
    known: dict[str, Any] = {"premise": premise, "notes": notes, "distinct": _distinct(group.distinct)}
    known["outcome"] = None if group.outcome is None else _outcome(group.outcome)
    known["distinct_claim"] = None if group.distinct_claim is None else claim_object(group.distinct_claim)
    return {**plain, **known, "claims": list(map(claim_object, group.claims)), "status": status}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    """Return the difference in held-out loss, with the runs and twins that it is made of."""
    return {
        "estimate": outcome.interval.mid,
        "low": outcome.interval.low,
        "high": outcome.interval.high,
        "unit": "nats",
        "because": outcome.because,
        "pairs": [{**asdict(pair), "difference": pair.difference} for pair in outcome.pairs],
    }


def _distinct(found: Distinct | None) -> dict[str, Any] | None:
    """Return the matrices of pairs and their course, as lists."""
    if found is None:
        return None
    return {
        "experts": found.experts,
        "last_third": {name: matrix_EE.tolist() for name, matrix_EE in found.of.items()},
        "course": {name: mean_K.tolist() for name, mean_K in found.course.items()},
        "over": found.over,
    }


def run_object(run: Run, file: RunFile, registration: Registration) -> dict[str, Any]:
    """Return a run by the keys of the schema."""
    differences = {
        name: {"registered": registered, "used": used} for name, (registered, used) in registration.differences.items()
    }
    return {
        "run": run.id,
        "file": run.name,
        "steps": len(run.steps),
        "experts": len(run.experts),
        "seed": run.seed,
        "perturbation_scale": run.option("perturbation_scale"),
        "sha256": file.sha256,
        "provisional": not run.finished,
        "positive_control": run.is_positive_control,
        "registered": {"status": registration.status, "because": registration.because, "differences": differences},
        "options": options(run),
        "events": dict(run.events),
    }


def options(run: Run) -> dict[str, Any]:
    """Return the options that a run was trained with as JSON values. Long or unknown values become cut text."""
    return {name: _option(value) for name, value in run.config.items()}


def _option(value: object) -> object:
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return printable(value, OPTION_CHARACTERS)


def _baseline(comparison: Comparison) -> dict[str, Any]:
    other = comparison.baseline
    return {
        "status": other.verdict.status,
        "because": other.verdict.reading.because,
        "worsened": comparison.worsened,
        "runs": [
            {"run": run.id, "file": run.name, "sha256": file.sha256}
            for run, file in zip(other.runs, other.files, strict=True)
        ],
        "changes": list(map(_change, comparison.changes)),
        "checks": [
            {**asdict(check), "worsened": check.worsened, "because": check.because} for check in comparison.checks
        ],
        "unmatched": list(comparison.unmatched),
        "diagnostics": list(map(asdict, other.findings)),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "where": change.where,
        "claim": change.after.name,
        "before": _compared(change.before),
        "after": _compared(change.after),
        "difference": change.difference,
        "overlap": change.overlap,
        "worsened": change.worsened,
        "because": change.because,
    }


def _compared(claim: Claim) -> dict[str, Any]:
    return {
        "status": claim.status,
        "estimate": claim.estimate,
        "low": claim.low,
        "high": claim.high,
        "unit": claim.unit,
        "threshold": claim.threshold,
    }


def finite_values(value: Any) -> Any:
    """Return the value with None in place of infinities and NaN, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite_values(item) for key, item in value.items()}
    return [finite_values(item) for item in value] if isinstance(value, list | tuple) else value
