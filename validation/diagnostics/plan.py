"""Checks of a run against its plan: the logging grid, the clock, the probe, layers, the planned length and end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.bins import BINS
from validation.analysis.run import Run
from validation.diagnostics.finding import ERROR, INFO, WARNING, Finding, sources
from validation.text import pluralize, printable

OFF_GRID_SHARE = 0.10
"""Of the rows. A training leaves single rows off the grid, such as the last step before it was extended."""
CLOCK_SECONDS = 5.0
"""A machine's clock is corrected by less, if its time comes from a network."""
CLOCK_CORRECTIONS = 0.01
"""Of the rows; a clock that is corrected at every hundredth row is broken."""


def off_grid(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find rows at other steps than the declared ones, which the verdict does not use."""
    for source in sources(run):
        if source.every is None or not len(source.steps):
            continue
        # The first and the last step of a training are always logged.
        counted = (source.steps > source.steps[0]) & (source.steps != run.planned_steps - 1)
        off = counted & ~source.plan(thresholds.warmup).on_grid(source.steps)
        if off.sum() > max(1, OFF_GRID_SHARE * counted.sum()):
            shown = ", ".join(map(str, source.steps[off][:3].tolist()))
            yield Finding(
                "off_grid",
                ERROR,
                "many rows lie between the steps that the run declares",
                f"{int(off.sum())} of {len(source.steps)} {source.source} rows are not at a multiple of "
                f"{source.every}, such as those at step {shown}",
                "log_freq or probe_freq changed during the training, the loop logged at other steps as well, or rows "
                "were chosen by hand",
                "log every log_freq steps, counted from step 0, from the first step to the last",
                run.id,
            )


def wall_time_falls(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find rows that were measured earlier than rows of smaller steps."""
    wall_time = run.step_column("wall_time")
    known = np.isfinite(wall_time)
    with np.errstate(over="ignore"):
        falls = -np.diff(wall_time[known])
    earlier = int((falls > 0).sum())
    if earlier and (falls.max() > CLOCK_SECONDS or earlier > max(1, CLOCK_CORRECTIONS * len(falls))):
        at = run.steps[known][1 + int(falls.argmax())]
        yield Finding(
            "wall_time_falls",
            ERROR,
            "rows are not in the order in which they were measured",
            f"{pluralize(earlier, 'row')} were measured before the row above, by up to {falls.max():.3g} s, at step "
            f"{at}; corrections of a clock are smaller than {CLOCK_SECONDS:g} s and rare",
            "rows were renumbered or reordered, or rows of an abandoned attempt follow those of the resumed training",
            "log each step when it is trained; DynamicsLogger removes the rows that a resumed training repeats",
            run.id,
        )


def missing_probe(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a run that planned to measure each expert alone, and has no such row."""
    probe_freq = run.probe_freq or 0
    if probe_freq < 1 or run.isolated is not None:
        return
    due = int(replace(run, source="isolated").plan(thresholds.warmup).on_grid(run.steps).sum())
    if due > 1:  # while a run is read, the rows of its newest step may still be missing
        failed = run.events.get("measurement_failed")
        cause = "the probe failed, which the events of the run name" if failed else "the rows were removed"
        yield Finding(
            "missing_probe",
            ERROR,
            "the run planned isolated gradients, and the file holds none",
            f"probe_freq = {probe_freq:g}, {pluralize(due, 'probe')} due in {pluralize(len(run.steps), 'row')}",
            f"{cause}, or the loop gave no batch to the probe",
            "judge the whole file of the training, or train with probe_freq: 0",
            run.id,
        )


def means_only(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a file with means over several layers, which can hide what happens in each."""
    if len(run.steps) and run.has_means_only:
        yield Finding(
            "means_only",
            WARNING,
            "the file holds only means over layers, which can show a difference and never support one",
            f"the model has {run.number('routers') or run.number('config.num_layers'):g} layers of experts, and table "
            "'layers' has no rows",
            "the logger did not write the layers, or they were removed",
            "pass the whole result of log_gradient_dynamics(model, step) to DynamicsLogger.log",
            run.id,
        )


def missing_layers(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a file that holds some of the model's layers and not the others."""
    layers = run.number("routers") or 0
    for source in sources(run):
        # Custom layers have no isolated gradients, unless they can be forced to one expert.
        all_forced = source.source == "merged" or run.facts.get("mixture") == "parameters"
        if 0 < len(source.layers) < layers and all_forced:
            yield Finding(
                "missing_layers",
                ERROR,
                "the file lacks some of the model's layers",
                f"{source.source} rows of {len(source.layers)} of {layers:g} layers",
                "layers were removed, or the model had other layers when it was resumed",
                "judge the whole file of the training",
                run.id,
            )


def no_plan(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a run that does not say how long it was planned to be."""
    if len(run.steps) and (run.number("planned_steps") or 0) <= 0:
        yield Finding(
            "no_plan",
            WARNING,
            "the run declares no planned length, so it may have been stopped at a convenient moment",
            f"no planned_steps among {pluralize(len(run.facts), 'fact')}; the last logged step is {run.steps[-1]}",
            "the training loop did not say how many steps it would take",
            "declare planned_steps before the first step, as in attach(model, optimizer, planned_steps=2000)",
            run.id,
        )


def too_short(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a run that plans fewer rows after its warm-up than there are bins of time."""
    if not len(run.steps):
        return
    plan = (run.isolated or run).plan(thresholds.warmup)
    empty = int((plan.rows_K == 0).sum())
    if empty:
        yield Finding(
            "too_short",
            WARNING,
            "the run is too short to decide",
            f"{pluralize(plan.planned, 'step')}, with a row every {plan.every}: {empty} of {BINS} bins of time after "
            f"the warm-up, which ends at step {plan.warmup:.0f}, have no row",
            "training is still running, stopped early, or is logged too rarely",
            "train longer (--set steps=1500) or log more often (--set log_freq=5)"
            if run.by_trainer
            else "train longer or log more often",
            run.id,
        )


def unfinished(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a run that has not reached its planned end."""
    if len(run.steps) and not run.finished:
        state = printable(run.facts.get("exit_state", "unknown"), 20)
        yield Finding(
            "unfinished",
            INFO if state == "running" else WARNING,
            "the run has not reached its planned end, so its verdict is provisional",
            f"last logged step {run.steps[-1]} of {run.planned_steps} planned; state: {state}",
            "the training is still running, or it was stopped",
            "judge it again when it has finished",
            run.id,
        )
