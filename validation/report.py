"""A judgement as JSON and as text for a terminal. The same numbers, whoever shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from validation.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim, counted
from validation.judge import Judgement
from validation.verdict import Reading

SCHEMA = "prismatic-verdict/1"
EXIT_CODES = {SUPPORTED: 0, REFUTED: 1, INCONCLUSIVE: 3, CONFOUNDED: 3, INVALID: 4}
UNREADABLE = 2


def exit_code(judgement: Judgement) -> int:
    """0 supported, 1 refuted, 2 a file could not be read, 3 inconclusive or confounded, 4 invalid data."""
    return UNREADABLE if judgement.rejected else EXIT_CODES[judgement.verdict.status]


def as_json(judgement: Judgement) -> dict[str, Any]:
    """The object that `check --json` prints; always complete, also when no file could be read."""
    verdict = judgement.verdict
    return {
        "schema": SCHEMA,
        "status": verdict.status,
        "because": verdict.controlled.because,
        "as_written": _reading(verdict.as_written),
        "controlled": _reading(verdict.controlled),
        "premise": [asdict(premise) for premise in verdict.premises],
        "thresholds": asdict(verdict.thresholds),
        "runs": [
            {
                "run": run.run,
                "file": run.name,
                "steps": len(run.steps),
                "experts": len(run.experts),
                "seed": run.seed,
                "perturbation_scale": run.number("config.perturbation_scale"),
                "sha256": file.sha256,
                "provisional": not run.finished,
                "positive_control": run.is_positive_control,
            }
            for run, file in zip(judgement.runs, judgement.files, strict=True)
        ],
        "diagnostics": [asdict(finding) for finding in judgement.findings],
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {"status": reading.status, "because": reading.because, "claims": [asdict(claim) for claim in reading.claims]}


def as_text(judgement: Judgement) -> str:
    """What `check` prints for a person: the headline, both readings of each run, the premise, what is wrong."""
    verdict = judgement.verdict
    lines = [f"{verdict.status.upper()}: {verdict.controlled.because}"]
    for run in judgement.runs:
        lines += [
            "",
            f"run {run.run} ({run.name}): {counted(len(run.steps), 'logged step')}, {len(run.experts)} experts",
        ]
        lines += [f"  premise      {premise.because}" for premise in verdict.premises if premise.run == run.run]
        for title, reading in (("controlled", verdict.controlled), ("as written", verdict.as_written)):
            lines += [f"  {title}", *_claim_lines([c for c in reading.claims if c.run == run.run and c.expert is None])]
    across = [claim for claim in verdict.controlled.claims if claim.run is None]
    if across:
        lines += ["", "all runs, controlled", *_claim_lines(across)]
    for finding in judgement.findings:
        where = f" [{finding.run}]" if finding.run else ""
        lines += ["", f"{finding.severity}: {finding.symptom}{where} ({finding.id})"]
        lines += [f"  seen:  {finding.evidence}", f"  cause: {finding.cause}", f"  fix:   {finding.fix}"]
    return "\n".join(lines)


def _claim_lines(claims: Sequence[Claim]) -> list[str]:
    return [f"    {claim.claim:<12} {claim.status:<13} {claim.because}" for claim in claims]
