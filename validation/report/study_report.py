"""The report of a study as JSON (`study.json`), and its part of the other reports: plan, answers, planned runs.

It holds nothing that differs when the same study is trained again or resumed: no times, hosts, files, or events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from prismatic.contract.thresholds import RULES
from validation.analysis.run import Run
from validation.diagnostics.consistency import expert_hashes
from validation.judgement.judge import Judgement
from validation.judgement.study import StudyJudgement, study_of
from validation.verdict.hypotheses import Answer

SCHEMA = "prismatic-study/1"
STABLE = ("claim", "status", "headline", "because", "controlled", "distinct", "premise", "groups", "dose")
"""The keys of `check --json` that depend on the runs' numbers and options alone."""


def as_study_json(judgement: Judgement, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of `study.json`. verdict: that of `check --json`.

    The judgement must be one of a study, see `require_registered`.
    """
    study = study_of(judgement)
    assert study is not None
    hashes = {run.id: numbers_sha256(run) for run in judgement.runs}
    told = study_part(study)
    for run in told["runs"]:
        run["numbers_sha256"] = hashes.get(run["run"])
    return {
        "schema": SCHEMA,
        **told,
        "rules": RULES,
        "thresholds": asdict(judgement.verdict.thresholds),
        "verdict": {name: verdict[name] for name in STABLE},
    }


def study_part(study: StudyJudgement) -> dict[str, Any]:
    """Return a study as JSON values: its plan, the answers to its hypotheses, its planned runs."""
    return {
        "name": study.plan.name,
        "question": study.plan.question,
        "plan_sha256": study.plan.sha256,
        "because": study.because,
        "hypotheses": list(map(_answer, study.answers)),
        "missing": study.missing,
        "extra": list(study.extra),
        "runs": [
            {"run": run.run, "seed": run.seed, "options": dict(run.options), "registered": run.registered}
            for run in study.runs
        ],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        **answer.hypothesis.as_dict(),
        "sentence": answer.hypothesis.sentence,
        "answer": answer.status,
        "because": answer.because,
        "experiments": list(map(asdict, answer.parts)),
    }


def numbers_sha256(run: Run) -> str | None:
    """Return the hash of a run's tier norms, the same for equal trainings; None without any gradient."""
    return next((digest for digest, expert in expert_hashes(run).items() if expert is None), None)
