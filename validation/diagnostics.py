"""One function per way in which a run can be wrong: what is seen, the evidence, the cause and the fix.

A check takes a run and yields findings. To add one, write the function and list it in CHECKS. A finding of severity
"error" means that the data of that run (or of that expert) cannot carry a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prismatic.schema import TIERS
from prismatic.thresholds import Thresholds
from validation import series
from validation.claims import counted
from validation.errors import WHOLE_COPY, shown
from validation.mixtures import common_factor, differing, scales_with, unrouted, why_parallel
from validation.runs import Rejected
from validation.series import Run
from validation.statistics import Array

ERROR, WARNING, INFO = "error", "warning", "info"
COLLAPSED_SHARE = 0.95
BROKEN_SHARE = 0.20  # of the rows; STATISTICS of the verdict hold up to 10 %
GAP_SHARE = 0.25  # of the run's span
STUCK_ROWS = 10
SHOWN = 20  # experts named in one sentence


@dataclass(frozen=True)
class Finding:
    """Something a reader of this run must know."""

    id: str
    severity: str
    symptom: str
    evidence: str
    cause: str
    fix: str
    run: str | None = None
    expert: int | None = None


def of_rejected(rejected: Rejected) -> Finding:
    """The finding for a file that could not be read as a run."""
    error = rejected.error
    return Finding(
        error.id, ERROR, f"the file {rejected.name} cannot be read as a run", error.evidence, error.cause, error.fix
    )


def diagnose(run: Run, thresholds: Thresholds | None = None) -> list[Finding]:
    """Everything that is wrong with a run, errors first."""
    order = (ERROR, WARNING, INFO)
    findings = [finding for check in CHECKS for finding in check(run, thresholds or Thresholds())]
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def invalidating(findings: Iterable[Finding]) -> dict[tuple[str, int | None], str]:
    """Per run and expert (None: the whole run), why its data carries no verdict."""
    reasons: dict[tuple[str, int | None], str] = {}
    for finding in findings:
        if finding.severity == ERROR and finding.run is not None:
            reasons.setdefault((finding.run, finding.expert), f"{finding.symptom} ({finding.id})")
    return reasons


def no_data(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """The table is there, and empty."""
    if not len(run.steps):
        yield Finding(
            "no_data",
            ERROR,
            "the file holds no logged step",
            "table 'dynamics' has 0 rows",
            "gradient logging was not enabled in the training loop, or the run stopped before its first logged step",
            "train with router_type: prismatic, or call log_gradient_dynamics(model, step) after loss.backward() and "
            "hand its result to DynamicsLogger.log",
            run.run,
        )


def wal_missing(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Rows of a WAL-mode database wait in a second file, which a copy or an upload leaves behind."""
    if run.wal:
        planned = run.number("planned_steps") is not None
        whole = planned and run.finished and run.facts.get("exit_state") == "finished"
        yield Finding(
            "wal_missing",
            INFO if whole else ERROR,
            "rows may be missing: the newest rows of a WAL-mode file wait in a -wal file, which is not here",
            f"the header says WAL mode; {len(run.steps)} rows are in the main file",
            "the writer uses journal_mode=WAL and the -wal file beside the database was not copied with it",
            f"close the run first, or make a whole copy with {WHOLE_COPY}, and upload that",
            run.run,
        )


def missing_experts(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Experts that the model has and the file has not."""
    cause = "only some experts were iterated when the gradients were collected"
    fix = "log every expert: log_gradient_dynamics(model, step) does, for every Prismatic router of the model"
    if 0 not in run.experts or not run.of_role("perturbed"):
        seen = ", ".join(map(str, run.experts)) or "none"
        symptom = "there is no clean expert to compare to" if 0 not in run.experts else "there is no perturbed expert"
        yield Finding("missing_experts", ERROR, symptom, f"experts in the file: {seen}", cause, fix, run.run)
        return
    gaps = sorted(set(range(max(run.experts))) - set(run.experts))
    expected = int((run.number("config.num_experts") or 0) + (run.number("config.control_experts") or 0))
    silent = [e for e in run.experts if len(run.steps) and not np.isfinite(_logged_norms(run, e)).any()]
    first = len(run.experts) + len(gaps)
    # The number comes from the file: it is named, not counted up to.
    missing = sorted({*gaps, *range(first, min(expected, first + SHOWN)), *silent})
    if missing:
        told = ", ".join(map(str, missing[:SHOWN])) + (" and more" if expected > first + SHOWN else "")
        evidence = f"no values for expert {told}; the file has {counted(len(run.experts), 'expert')}"
        yield Finding("missing_experts", WARNING, "some experts were not logged", evidence, cause, fix, run.run)
    for expert in silent:
        symptom = f"expert {expert} has a column and no value in it"
        seen = f"no finite norm in {counted(len(run.steps), 'row')}"
        yield Finding("missing_experts", ERROR, symptom, seen, cause, fix, run.run, expert or None)


def zero_norms(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Gradients that were gone when they were measured."""
    logged = {expert: _logged_norms(run, expert) for expert in run.experts}
    zero = [e for e, norms in logged.items() if np.isfinite(norms).any() and not np.nan_to_num(norms).any()]
    cause = "logging was called before loss.backward() or after optimizer.zero_grad()"
    fix = "call it after backward() and before optimizer.step(), and zero_grad() only after that"
    if len(zero) == len(run.experts) and zero:
        evidence = f"the gradient norms of {len(zero)} experts are 0 in all {len(run.steps)} rows"
        yield Finding("zero_norms", ERROR, "all gradient norms are zero", evidence, cause, fix, run.run)
        return
    for expert in zero:
        evidence = f"its gradient norms are 0 in all {len(run.steps)} rows; other experts have gradients"
        cause = "the expert was never routed to, or its parameters do not require gradients"
        fix = "check requires_grad of its parameters and its routing weight"
        fix += "; routing=frozen gives every expert a share" if run.mixture == "parameters" else ""
        symptom = f"expert {expert} never received a gradient"
        yield Finding("zero_norms", ERROR, symptom, evidence, cause, fix, run.run, None if expert == 0 else expert)


def missing_columns(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """A tier of an expert that the file does not have at all."""
    whole = [e for e in run.experts if len(_logged_norms(run, e)) == 1 and np.isfinite(_logged_norms(run, e)).any()]
    of_run = 0 in whole or len(whole) == len(run.experts)  # without expert 0 there is nothing to compare to
    for number in whole[:1] if of_run else whole:
        told = ", ".join(map(str, whole[:SHOWN] if of_run else [number]))
        yield Finding(
            "missing_columns",
            ERROR,
            "without norms of the tiers awakening, divergence and sustainment cannot be judged",
            f"no value in the top, bottom and middle norm of expert {told}, only in the norm of the whole gradient",
            "the file was written by a logger that does not know tiers",
            "log the top, bottom and middle norm of every expert, as log_gradient_dynamics does",
            run.run,
            None if of_run else number,
        )
    for expert in run.experts.values():
        if not len(run.steps):
            continue
        absent = [tier for tier in TIERS if not np.isfinite(expert[f"{tier}_norm"]).any()]
        if absent and len(absent) < len(TIERS):
            names = ", ".join(f"expert_{expert.expert}_{tier}_norm" for tier in absent)
            yield Finding(
                "missing_columns",
                ERROR,
                f"expert {expert.expert} is not logged in every tier",
                f"no value in {names}",
                "the file was written by a logger that does not know all three tiers",
                "log the top, bottom and middle norm of every expert, as log_gradient_dynamics does",
                run.run,
                None if expert.expert == 0 else expert.expert,
            )


def zero_tier(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """A tier whose gradient is exactly zero: its logarithm does not exist, so the row is not used."""
    for expert in run.experts.values():
        norms = _norms(run, expert.expert)
        if not np.nan_to_num(norms).any():
            continue  # nothing at all: zero_norms
        for tier, zero in zip(TIERS, norms == 0, strict=True):
            if zero.any():
                yield Finding(
                    "zero_tier",
                    ERROR if zero.all() else WARNING,
                    f"the {tier} norm of expert {expert.expert} is zero",
                    f"in {int(zero.sum())} of {counted(len(zero), 'row')}, which are left out of the verdict",
                    f"these weights received no gradient: {unrouted(run)}a dead part of the block, or underflow",
                    "look at the loss scale and at what those weights are connected to",
                    run.run,
                    None if expert.expert == 0 else expert.expert,
                )


def constant_rows(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Norms that never change: training does not do that."""
    norms = np.stack([_norms(run, expert) for expert in run.experts]) if run.experts else np.zeros((0, 3, 0))
    if len(run.steps) >= STUCK_ROWS and np.isfinite(norms).all() and norms.any() and not np.ptp(norms, axis=-1).any():
        yield Finding(
            "constant_rows",
            ERROR,
            "every row is the same",
            f"no norm of any expert changes in {len(run.steps)} rows",
            "the same measurement was logged again and again, or the gradients were not cleared and not computed anew",
            "log after the backward pass of each step",
            run.run,
        )


def nonfinite(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """NaN, infinite or absent values."""
    for expert in run.experts.values():
        norms = _norms(run, expert.expert)
        # A tier without any value is missing_columns, an expert without any is missing_experts.
        logged = norms[np.isfinite(norms).any(axis=1)]
        broken = np.asarray(~np.isfinite(logged).all(axis=0))
        if not broken.any():
            continue
        tail = max(5, round(0.02 * len(broken)))
        ended = len(broken) >= tail and bool(broken[-tail:].all())
        severe = ended or broken.mean() > BROKEN_SHARE
        first = int(run.steps[np.flatnonzero(broken)[0]])
        symptom = f"expert {expert.expert} has norms that are NaN, infinite or missing" + (
            ", to the end" if ended else ""
        )
        yield Finding(
            "nonfinite",
            ERROR if severe else WARNING,
            symptom,
            f"{int(broken.sum())} of {len(broken)} rows, first at step {first}",
            "the loss or the gradients overflowed (training diverged, or half precision without a GradScaler), or the "
            "expert was not logged in these steps",
            "lower the learning rate or clip with max_grad_norm; rows before the first broken step are still charted",
            run.run,
            None if expert.expert == 0 else expert.expert,
        )


def missing_gradients(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Parameters that had no gradient at all, as the logger counted them."""
    count = run.step_column("missing_gradients")
    if np.nansum(count) > 0:
        rows = int((count > 0).sum())
        yield Finding(
            "missing_gradients",
            WARNING,
            "some expert parameters had no gradient",
            f"up to {int(np.nanmax(count))} tensors, in {rows} of {len(run.steps)} rows",
            f"{unrouted(run)}parameters are frozen or unused, or logging was called after zero_grad(set_to_none=True)",
            "log after backward() and before zero_grad(); freeze the same parameters in every expert or in none",
            run.run,
        )


ORDER_FIXES = {
    "no_gradients": ("logged when no expert had a gradient", "log after backward() and before zero_grad()"),
    "zero_gradients": ("logged when all gradients were zero", "log before zero_grad(), not after it"),
    "after_step": ("logged after the optimizer's step", "log after backward() and before optimizer.step()"),
    "repeated_step": ("the same step was logged twice", "log once per step, with a step count that rises"),
}


LOST = {
    "dropped": (
        "steps that were logged could not be written",
        "the disk was full, or the file was locked, for longer than memory could hold the rows",
        "free the disk or copy the run elsewhere, and resume; the missing steps are gaps in every series",
    ),
    "measurement_failed": (
        "steps could not be measured",
        "the measurement raised an error, which the events of the run tell",
        "read the event's message; if it is a fault of this project, report it with that message",
    ),
    "refused_row": (
        "rows were refused by the file",
        "a value or a column that SQLite cannot keep, which the events of the run tell",
        "read the event's message; write finite numbers under names of lower-case letters, digits and underscores",
    ),
}


def rows_lost(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """What the logger counted as lost: it never stops training, and never keeps a loss to itself."""
    for code, (symptom, cause, fix) in LOST.items():
        if run.events.get(code):
            evidence = f"{counted(run.events[code], 'event')} of kind {code}"
            yield Finding("rows_lost", WARNING, symptom, evidence, cause, fix, run.run)


def logging_order(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Calls in the wrong order, as the logger saw them happen."""
    for code, (symptom, fix) in ORDER_FIXES.items():
        if run.events.get(code):
            yield Finding(
                "logging_order",
                WARNING,
                symptom,
                f"{counted(run.events[code], 'event')} of kind {code} in {counted(len(run.steps), 'row')}",
                "the call that logs stands at the wrong place of the training loop",
                fix + "; DynamicsLoggerCallback.attach(model, optimizer) always does",
                run.run,
            )


def step_gaps(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """A long stretch of training without any row."""
    if len(run.steps) < 3:
        return
    # Steps may be anywhere in 64 bits, so that their differences need floats.
    jumps = np.diff(run.steps.astype(np.float64))
    widest = int(jumps.argmax())
    span = int(run.steps[-1]) - int(run.steps[0])
    if jumps[widest] > GAP_SHARE * span and jumps[widest] > 2 * np.median(jumps):
        yield Finding(
            "step_gaps",
            ERROR,
            "a long stretch of training was not logged",
            f"nothing between step {run.steps[widest]} and step {run.steps[widest + 1]} of {span} steps",
            "the run was interrupted and resumed later, or two runs were written into one file",
            "log the whole run into one file, or judge the parts as runs of their own",
            run.run,
        )


def duplicate_steps(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Steps written twice; the last one counts."""
    if run.duplicates:
        yield Finding(
            "duplicate_steps",
            INFO,
            "some steps were logged more than once",
            f"{run.duplicates} rows were replaced by a later row of the same step",
            "training was resumed from an earlier step, or a step was logged twice",
            "nothing to do if you resumed; the last row of each step is used",
            run.run,
        )


def too_short(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Too few rows for an interval."""
    usable = int(run.after_warmup(limits.warmup).sum())
    if len(run.steps) and usable < limits.min_points:
        yield Finding(
            "too_short",
            WARNING,
            "the run is too short to decide",
            f"{counted(len(run.steps), 'logged step')}, {usable} after the warm-up; {limits.min_points:g} are needed",
            "training is still going on, stopped early, or was logged too rarely",
            "train longer (--set steps=1500) or log more often (--set log_freq=5)"
            if run.by_trainer
            else "train longer or log more often",
            run.run,
        )


def identical_experts(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """A perturbed expert that is the clean one."""
    if 0 not in run.experts or not len(run.steps) or run.is_sham:
        return
    for expert in run.of_role("perturbed"):
        changed = run.changed.get(expert.expert)
        unchanged = changed is not None and not any(changed.values())
        alive = np.nan_to_num(_norms(run, 0)).any()
        same = (
            alive
            and bool(np.array_equal(_norms(run, expert.expert), _norms(run, 0), equal_nan=True))
            and len(run.steps) > 1
        )
        if unchanged or (same and changed is None):
            evidence = (
                "the file says that 0 % of its weights were changed"
                if unchanged
                else f"its norms equal expert 0's to the last digit in all {len(run.steps)} rows"
            )
            yield Finding(
                "identical_experts",
                ERROR,
                f"expert {expert.expert} is the same as the clean expert",
                evidence,
                "perturbation_scale or sparsity is so small that nothing changed, the weights were initialised again "
                "after perturbing, or expert 0 was logged under two names",
                "raise perturbation_scale, and call Prismatic.reset_experts() after any re-initialisation"
                if run.mixture == "parameters"
                else "give each expert weights of its own, and log each under its own number",
                run.run,
                expert.expert,
            )


def router_collapse(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """A router that has chosen one expert."""
    remedy = "--set routing=frozen" if run.by_trainer else "balance its load"
    for expert in run.experts.values():
        share = expert["routing_weight"]
        last = share[-max(1, len(share) // 5) :]
        if np.isfinite(last).any() and float(np.nanmean(last)) > COLLAPSED_SHARE:
            since = int(run.steps[np.flatnonzero(share > COLLAPSED_SHARE)[0]])
            yield Finding(
                "router_collapse",
                WARNING,
                f"the router has collapsed onto expert {expert.expert}",
                f"its share is above {COLLAPSED_SHARE:.0%} from step {since}, {float(np.nanmean(last)):.1%} at the end",
                "nothing keeps the router from sending everything to the expert that learns first; the others starve, "
                "which shows as divergence and is none",
                f"look at the router before the perturbation: {remedy}",
                run.run,
            )


def collinear_gradients(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """Experts whose gradients are one common gradient times their shares."""
    if 0 not in run.experts:
        return
    alike = [e.expert for e in run.of_role("perturbed") if series.is_collinear(run, e.expert)]
    if alike:
        yield Finding(
            "collinear_gradients",
            WARNING,
            f"all experts share one gradient: their norms can differ only {common_factor(run)}",
            f"expert {', '.join(map(str, alike))}: parallel to expert 0's gradient in all but a few rows",
            why_parallel(run),
            f"{differing(run)}; a control expert then shows why they do",
            run.run,
        )


def scale_dependent_threshold(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """A documented verdict on divergence that another scale of the loss would turn round."""
    if 0 not in run.experts or not len(run.steps):
        return
    scores = [
        float(np.nanmean(e["divergence"])) for e in run.of_role("perturbed") if np.isfinite(e["divergence"]).any()
    ]
    near = [s for s in scores if limits.divergence_refuted / 10 < s < limits.divergence_supported * 10]
    if near:
        yield Finding(
            "scale_dependent_threshold",
            INFO,
            "the documented divergence score depends on the scale of the loss",
            f"mean score {near[0]:.3g}; ten times the loss gives {near[0] * 10:.3g}, a tenth {near[0] / 10:.3g}",
            f"the thresholds 0.05 and 0.01 are absolute, while gradient norms scale with {scales_with(run)}",
            "read the controlled verdict, which is free of that",
            run.run,
        )


def positive_control(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """An artificial yes must never be taken for a result."""
    gain = run.number("config.positive_control")
    if run.is_positive_control:
        yield Finding(
            "positive_control",
            WARNING,
            "this run is a positive control: its effect was put in by hand",
            f"positive_control = {gain:g} multiplies the bottom-tier gradients of the perturbed experts",
            "it was trained to show what a yes looks like",
            "do not report it as a result; set positive_control: 1.0 for an experiment",
            run.run,
        )


def unfinished(run: Run, limits: Thresholds) -> Iterator[Finding]:
    """A run that has not reached its planned end."""
    if len(run.steps) and not run.finished:
        state = shown(run.facts.get("exit_state", "unknown"), 20)
        yield Finding(
            "unfinished",
            INFO if state == "running" else WARNING,
            "the run has not reached its planned end, so its verdict is provisional",
            f"last logged step {run.steps[-1]} of {run.planned_steps} planned; state: {state}",
            "it is still training, or it was stopped",
            "judge it again when it is done",
            run.run,
        )


CHECKS: Sequence[Callable[[Run, Thresholds], Iterator[Finding]]] = (
    no_data,
    wal_missing,
    missing_experts,
    zero_norms,
    zero_tier,
    missing_columns,
    constant_rows,
    nonfinite,
    missing_gradients,
    rows_lost,
    logging_order,
    step_gaps,
    duplicate_steps,
    identical_experts,
    positive_control,
    too_short,
    collinear_gradients,
    router_collapse,
    scale_dependent_threshold,
    unfinished,
)


def _logged_norms(run: Run, expert: int) -> Array:
    """Tier norms of one expert, [3, T]; of a file without them the norm of the whole gradient, [1, T]."""
    tiers = _norms(run, expert)
    return tiers if np.isfinite(tiers).any() else run.experts[expert]["norm"][None]


def _norms(run: Run, expert: int) -> Array:
    """Tier norms of one expert, [3, T]."""
    return np.stack([run.experts[expert][f"{tier}_norm"] for tier in TIERS])
