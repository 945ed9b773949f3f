"""Checks of rows, experts and columns: damage, missing or duplicate rows, an absent -wal file, missing tiers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import FEW_LOST, Bins
from validation.analysis.mixtures import unrouted
from validation.analysis.run import Run
from validation.diagnostics.finding import ERROR, INFO, WARNING, Finding, graver, logged_norms
from validation.files.errors import WHOLE_COPY
from validation.text import pluralize

GAP_SHARE = 0.25  # of the run's span
SHOWN = 20  # experts named in one sentence


def no_data(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a file without rows."""
    if not len(run.steps):
        yield Finding(
            "no_data",
            ERROR,
            "the file holds no logged step",
            "table 'dynamics' has 0 rows",
            "the training loop did not log gradients, or the run stopped before its first logged step",
            "train with router_type: prismatic, or call log_gradient_dynamics(model, step) after loss.backward() and "
            "pass its result to DynamicsLogger.log",
            run.id,
        )


def wal_missing(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a WAL-mode database without its -wal file, which holds the newest rows."""
    if run.wal:
        planned = run.number("planned_steps") is not None
        complete = planned and run.finished and run.facts.get("exit_state") == "finished"
        yield Finding(
            "wal_missing",
            INFO if complete else ERROR,
            "rows may be missing: the newest rows of a WAL-mode file are in its -wal file, which is not here",
            f"the header says WAL mode; {len(run.steps)} rows are in the main file",
            "the writer uses journal_mode=WAL, and the -wal file was not copied with the database",
            f"close the run first, or make a whole copy with {WHOLE_COPY}, and upload that",
            run.id,
        )


def damaged(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a file with a table that is damaged or cannot be read, or with values that its logger did not record."""
    if run.damage:
        yield Finding(
            "damaged",
            ERROR,
            "the file is not whole: a table is damaged, lost or changed",
            "; ".join(run.damage),
            "a copy or a disk changed it, another program wrote to it, or a table is over a limit of reading",
            f"copy it again from where it was written; during a training, {WHOLE_COPY} makes a complete copy",
            run.id,
        )


def missing_experts(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find experts of the model that the file lacks, or that have no values in it."""
    if len(run.steps) and not any(np.isfinite(logged_norms(run, expert)).any() for expert in run.experts):
        yield Finding(
            "missing_experts",
            ERROR,
            "every gradient column is empty",
            f"no norm of any expert in {pluralize(len(run.steps), 'row')}; the file names "
            f"{pluralize(len(run.experts), 'expert')}",
            "the rows were written when no expert had a gradient, or all norms were NaN, which SQLite stores as NULL",
            "log after loss.backward() and before optimizer.zero_grad(), and look for NaN in the loss",
            run.id,
        )
        return
    cause = "gradients were collected from some experts only"
    fix = "log every expert, as log_gradient_dynamics(model, step) does for every Prismatic router of the model"
    if not run.peers and (0 not in run.experts or not run.of_role("perturbed")):
        known = ", ".join(map(str, run.experts)) or "none"
        symptom = "there is no clean expert to compare to" if 0 not in run.experts else "there is no perturbed expert"
        yield Finding("missing_experts", ERROR, symptom, f"experts in the file: {known}", cause, fix, run.id)
        return
    gaps = sorted(set(range(max(run.experts))) - set(run.experts))
    expected = run.planned_experts
    silent = [e for e in run.experts if len(run.steps) and not np.isfinite(logged_norms(run, e)).any()]
    first = len(run.experts) + len(gaps)
    # The expected number comes from the file and may be huge, so the range is cut.
    missing = sorted({*gaps, *range(first, min(expected, first + SHOWN)), *silent})
    if missing:
        numbers = ", ".join(map(str, missing[:SHOWN])) + (" and more" if expected > first + SHOWN else "")
        evidence = f"no values for expert {numbers}; the file has {pluralize(len(run.experts), 'expert')}"
        yield Finding("missing_experts", WARNING, "some experts were not logged", evidence, cause, fix, run.id)
    for expert in silent:
        symptom = f"expert {expert} has columns without any value"
        evidence = f"no finite norm in {pluralize(len(run.steps), 'row')}"
        why = f"{unrouted(run)}{cause}"
        yield Finding("missing_experts", graver(run), symptom, evidence, why, fix, run.id, expert or None)


def missing_columns(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find experts without the norms of all three tiers."""
    yield from _without_tiers(run)
    for expert in run.experts.values():
        if not len(run.steps):
            continue
        absent = [tier for tier in TIERS if not np.isfinite(expert[f"{tier}_norm"]).any()]
        if absent and len(absent) < len(TIERS):
            names = ", ".join(f"expert_{expert.index}_{tier}_norm" for tier in absent)
            yield Finding(
                "missing_columns",
                ERROR,
                f"expert {expert.index} is not logged in every tier",
                f"no value in {names}",
                "the logger that wrote the file does not log all three tiers",
                "log the top, bottom and middle norm of every expert, as log_gradient_dynamics does",
                run.id,
                None if expert.index == 0 else expert.index,
            )


def _without_tiers(run: Run) -> Iterator[Finding]:
    """Find experts that have only the norm of the whole gradient."""
    whole = [e for e in run.experts if len(logged_norms(run, e)) == 1 and np.isfinite(logged_norms(run, e)).any()]
    of_run = 0 in whole or len(whole) == len(run.experts)  # without expert 0 there is nothing to compare to
    for number in whole[:1] if of_run else whole:
        numbers = ", ".join(map(str, whole[:SHOWN] if of_run else [number]))
        yield Finding(
            "missing_columns",
            ERROR,
            "without the norms of the tiers, awakening, divergence and sustainment cannot be judged",
            f"expert {numbers}: no value in the top, bottom and middle norm, only the norm of the whole gradient",
            "the logger that wrote the file does not log tiers",
            "log the top, bottom and middle norm of every expert, as log_gradient_dynamics does",
            run.id,
            None if of_run else number,
        )


def step_gaps(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a long stretch of training without rows."""
    if len(run.steps) < 3:
        return
    # Steps may lie anywhere in 64 bits, so their differences need floats.
    jumps = np.diff(run.steps.astype(np.float64))
    widest = int(jumps.argmax())
    span = int(run.steps[-1]) - int(run.steps[0])
    if jumps[widest] > GAP_SHARE * span and jumps[widest] > 2 * np.median(jumps):
        yield Finding(
            "step_gaps",
            ERROR,
            "a long stretch of training was not logged",
            f"no row between step {run.steps[widest]} and step {run.steps[widest + 1]}, of {span} steps",
            "the run was interrupted and resumed later, or two runs were written into one file",
            "log the whole run into one file, or judge the parts as separate runs",
            run.id,
        )


def duplicate_steps(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find steps that were logged twice."""
    if run.duplicates:
        yield Finding(
            "duplicate_steps",
            WARNING,
            "some steps were logged more than once",
            f"{run.duplicates} rows were replaced by a later row of the same step",
            "training was resumed from an earlier step, or a step was logged twice",
            "remove the rows of an abandoned attempt before you resume, as DynamicsLogger does",
            run.id,
        )


def rows_missing(run: Run, bins: Bins) -> Iterator[Finding]:
    """Find a run that lacks planned rows, in one source of gradients: too many for a verdict, or more than a few.

    bins: those of the run. Not in CHECKS, because the bins are known only when the run has been measured. A run with
    fewer planned rows than bins is too short instead.
    """
    lost_K, rows_K = bins.lost_K, bins.rows_K[: bins.complete]
    grave = not bins.usable
    if not bins.enough_planned or not (grave or lost_K.sum() > FEW_LOST * rows_K.sum()):
        return
    counts = ", ".join(f"{rows_K[k] - lost_K[k]} of {rows_K[k]} in bin {k + 1}" for k in np.flatnonzero(lost_K > 0))
    yield Finding(
        "rows_missing",
        ERROR if grave else WARNING,
        "too few of the planned rows are there" if grave else "some of the planned rows are not there",
        f"of the planned {run.source} rows with a value of every expert: {counts}",
        "steps were not logged, rows were removed, or the norm of an expert is zero, NaN or far off in them",
        "log every step of the plan, and judge the whole file of the training",
        run.id,
    )
