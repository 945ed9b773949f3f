"""The answer of the gate as the JSON object of `prismatic gate --json`, as text, and as an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from prismatic.contract.thresholds import RULES
from validation.judgement.gate.decision import Gate
from validation.judgement.gate.experiment import Experiment
from validation.judgement.gate.next_step import next_command
from validation.judgement.gate.rules import DISCARD, KEEP, MORE_SEEDS, Ruling
from validation.judgement.judge import Judgement
from validation.report.exit_code import UNREADABLE
from validation.report.json_report import claim_object, finite_values, run_object, versions
from validation.report.text_report import LONGEST
from validation.text import pluralize, printable, sentence, spaced
from validation.verdict.words.wording import estimated, replication, threshold

SCHEMA = "prismatic-gate/1"
EXIT_CODES = {KEEP: 0, DISCARD: 1, None: UNREADABLE, MORE_SEEDS: 3}
WITHOUT_VERDICT = 4


def gate_exit_code(gate: Gate) -> int:
    """Return 0 keep, 1 discard, 2 a file could not be read, 3 more seeds, 4 discard because the data is no evidence."""
    return WITHOUT_VERDICT if gate.without_verdict else EXIT_CODES[gate.answer]


def as_gate_json(gate: Gate, judgement: Judgement) -> dict[str, Any]:
    """Return the object that `gate --json` prints, always complete. docs/gate.schema.json describes each key."""
    runs = zip(judgement.runs, judgement.files, judgement.registrations, strict=True)
    report = {
        "schema": SCHEMA,
        "claim": gate.claim,
        "answer": gate.answer,
        "reason": gate.reason,
        "because": gate.because,
        "more_seeds": gate.more_seeds,
        "more_sham_seeds": gate.more_sham_seeds,
        "experiments": [_experiment(*each) for each in gate.experiments],
        "rules": RULES,
        "thresholds": asdict(judgement.verdict.thresholds),
        "versions": versions(),
        "runs": [run_object(*each) for each in runs],
        "diagnostics": list(map(asdict, judgement.findings)),
    }
    return dict(finite_values(report))


def _experiment(e: Experiment, ruling: Ruling) -> dict[str, Any]:
    plans = e.plans
    return {
        "name": e.group.name,
        "role": e.group.role,
        "runs": list(e.group.runs),
        **asdict(ruling),
        "command": next_command(e, ruling),
        "claim": claim_object(e.claim),
        "aa": asdict(e.aa),
        "plan": {
            "seeds": list(plans.seeds),
            "missing": list(plans.missing),
            "unregistered": list(plans.unregistered),
            "looks": plans.looks,
            "alpha": e.thresholds.alpha,
        },
        "warnings": e.warnings,
    }


def gate_lines(gate: Gate) -> list[str]:
    """Return what `prismatic gate` prints: the answer with its reason, then claim, A/A pair, plan and command."""
    lines = [f"{_answer(gate)}: {sentence(gate.because)}"]
    for e, ruling in gate.experiments:
        lines += ["", *_experiment_lines(e, ruling, named=len(gate.experiments) > 1)]
    return [printable(line, LONGEST) for line in lines]


def _answer(gate: Gate) -> str:
    if gate.answer is None:
        return "NO ANSWER"
    if gate.answer != MORE_SEEDS:
        return gate.answer.upper()
    counts = ((gate.more_seeds, "more seed"), (gate.more_sham_seeds, "more sham run"))
    return f"NEEDS {' and '.join(pluralize(count, thing) for count, thing in counts if count)}".upper()


def _experiment_lines(e: Experiment, ruling: Ruling, *, named: bool) -> Iterator[str]:
    if named:
        yield f"{e.group.name}: {spaced(ruling.answer)}, {ruling.because}"
    numbers = " ".join(filter(None, [estimated(e.claim), replication(e.claim)]))
    limit = f"threshold {threshold(e.claim)}" if e.claim.threshold is not None else ""
    yield ", ".join(filter(None, [f"claim: {e.claim.name} {e.claim.status}", numbers, limit]))
    yield f"A/A pair: {spaced(e.aa.result)}, {e.aa.because}"
    yield f"plan: {_plan(e)}"
    if command := next_command(e, ruling):
        yield f"next: {command}"


def _plan(e: Experiment) -> str:
    plans = e.plans
    if plans.unregistered:
        return f"{len(plans.unregistered)} of {pluralize(len(e.group.runs), 'run')} registered none"
    there, seeds = len(plans.seeds) - len(plans.missing), pluralize(len(plans.seeds), "registered seed")
    return f"{there} of {seeds} are here; look {plans.looks}, at alpha {e.thresholds.alpha:.3g}"
