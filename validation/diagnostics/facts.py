"""Checks of the facts of a run against each other: the options and the hash that names them, roles, plan, layers."""

from __future__ import annotations

from collections.abc import Iterator

from prismatic.contract.run_hash import run_hash
from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run
from validation.diagnostics.finding import ERROR, Finding
from validation.text import printable

SAME = {"planned_steps": "steps", "warmup_steps": "warmup_steps", "log_freq": "log_freq"}
"""Facts that `prismatic train` writes from its options."""


def facts_disagree(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find facts of a run of `prismatic train` that contradict each other, because one was changed afterwards."""
    evidence = next(_contradictions(run), "") if run.reproducible else ""
    if evidence:
        yield Finding(
            "facts_disagree",
            ERROR,
            "the facts of the run contradict each other",
            evidence,
            "facts of the file were changed after the training",
            "judge the file as the training wrote it",
            run.id,
        )


def _contradictions(run: Run) -> Iterator[str]:
    declared = run.facts.get("run_hash")
    if (own := run_hash(run.config, str(run.facts.get("corpus_sha256")))) != declared:
        yield f"run_hash is {printable(declared, 20)}, and the hash of the options and the text is {own}"
    for fact, option in SAME.items():
        value, chosen = run.facts.get(fact), run.config.get(option)
        if value != chosen:
            yield f"{fact} is {printable(value, 20)}, and the option {option} is {printable(chosen, 20)}"
    if "trainer" in run.config:
        return  # the rest is about Prismatic layers
    if not run.merges_parameters:
        yield f"the mixture is {run.mixture}, and this trainer merges parameters"
    first = run.option("num_experts") or 0
    wrong = [e for e in run.experts.values() if e.index and (e.role == "control") != (e.index >= first)]
    if wrong:
        yield f"expert {wrong[0].index} is named {wrong[0].role}, and control experts begin with expert {first:g}"
