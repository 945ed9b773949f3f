"""The conversion of a tracked run to a run file: map the columns, take means over layers, write, report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prismatic.contract.schema import PEER
from prismatic.errors import ConfigError, LoggerError, TrackerError
from prismatic.runfile.logger import DynamicsLogger
from prismatic.trackers.mapping import GRADIENT_NORMS, SCORES, NameMap, Target
from prismatic.trackers.report import TIER_NORMS, Report, missing_and_assumed, shorten
from prismatic.trackers.tracked import STEP_NAMES, TrackedRun

ROWS_AT_ONCE = 1000  # rows between two flushes, so that they do not pile up in memory
COUNTS = ("nonfinite", "missing_gradients")
LAYER_NAMES = {"direction": "gradient_cosine", "clean_norm": "norm", "perturbed_norm": "norm"}
MEANS = (*TIER_NORMS, "routing_weight", "bottom_to_middle", "clean_norm", "perturbed_norm")


def convert(run: TrackedRun, mapping: NameMap, db_path: Path | None, *, overwrite: bool = False) -> Report:
    """Write a run file, unless db_path is None, and report what it holds.

    Raises TrackerError if the mapping finds no norm of an expert's tier, ConfigError if two names map to one column or
    the roles do not fit, and LoggerError if the file exists or cannot be written.
    """
    run = _with_mapped_steps(run, mapping)
    columns, report = _columns(run, mapping)
    steps = sorted({step for target in columns if target.expert is not None for step in run.metrics[columns[target]]})
    all_steps = {step for name in columns.values() for step in run.metrics[name]}
    report.steps, report.skipped = tuple(steps), len(all_steps) - len(steps)
    experts = {target.expert for target in columns if target.expert is not None}
    report.experts = len(experts)
    roles = _roles(mapping, max(experts) + 1)
    facts = {
        "imported_from": run.tracker,
        "tracker_run": run.name,
        "exit_state": "imported",
        "clip_state": "unknown",
        **({"tracker_run_id": run.id} if run.id else {}),
        **({"planned_steps": run.planned_steps} if run.planned_steps else {}),
        **mapping.options_of(run),
        **mapping.facts,
    }
    kept = {name.partition("config.tracker_")[2]: value for name, value in facts.items()}
    report.tracker_options = {name: value for name, value in kept.items() if name}
    report.notes += [*missing_and_assumed(run, mapping, columns, facts), *run.notes]
    if db_path is not None:
        by_target = {target: run.metrics[name] for target, name in columns.items()}
        _write(db_path, steps, by_target, run, facts, roles, overwrite=overwrite)
    return report


def _with_mapped_steps(run: TrackedRun, mapping: NameMap) -> TrackedRun:
    """Return the run with the steps that the map names, or with those of our own mirror."""
    if mapping.step is not None and mapping.step not in run.metrics:
        names = shorten(sorted(run.metrics))
        raise ConfigError(f"step = {mapping.step!r}: run {run.name} has no such metric; it has {names}.")
    name = mapping.step or (STEP_NAMES[0] if STEP_NAMES[0] in run.metrics else None)
    return run.with_steps_of(name) if name else run


def _columns(run: TrackedRun, mapping: NameMap) -> tuple[dict[Target, str], Report]:
    """Return the tracker's name for each of our columns, and the report on names."""
    report, columns = Report(run.name, run.tracker), dict[Target, str]()
    for name in sorted(run.metrics):
        found = mapping.target_of(name)
        if found is None:
            report.unmapped.append(name)
            continue
        pattern, target = found
        if target in columns:
            raise ConfigError(f"{columns[target]!r} and {name!r} both map to {target}; map only one of them.")
        columns[target] = name
        report.imported.setdefault(f"{pattern.column} <- {pattern.names}", []).append(name)
    used = {line.partition(" <- ")[2] for line in report.imported}
    report.unused = [] if mapping.default else [p.names for p in mapping.patterns if p.names not in used]
    if not any(target.metric in (*TIER_NORMS, *GRADIENT_NORMS) for target in columns):
        names = shorten(sorted(run.metrics)) or "none"
        raise TrackerError(
            f"run {run.name}: the map finds no norm of an expert's gradient; the run's metrics are {names}. "
            'Add a line to [metrics] such as "e{i}/{tier}" = "expert_{i}_{tier}_norm", or "e{i}" = "expert_{i}_norm".'
        )
    return columns, report


def _roles(mapping: NameMap, experts: int) -> list[dict[str, Any]]:
    roles = mapping.roles or ("clean", *["perturbed"] * (experts - 1))
    peers = set(roles) == {PEER}
    fits = peers or (roles[0] == "clean" and not {"clean", PEER} & {*roles[1:]})
    if len(roles) != experts or not fits:
        raise ConfigError(
            f"roles = {list(roles)!r} does not fit {experts} experts; the first must be clean, and no other, "
            f"or all {PEER}."
        )
    return [{"expert": expert, "role": role} for expert, role in enumerate(roles)]


def _write(
    db_path: Path,
    steps: Sequence[int],
    columns: Mapping[Target, Mapping[int, float]],
    run: TrackedRun,
    facts: Mapping[str, Any],
    roles: Sequence[Mapping[str, Any]],
    *,
    overwrite: bool,
) -> None:
    with DynamicsLogger(db_path, len(roles), flush_seconds=1e9, resume="never", overwrite=overwrite) as logger:
        logger.log_run(facts)
        logger.log_table("experts", roles, replace=True)
        for number, step in enumerate(steps, start=1):
            values = {target: by_step[step] for target, by_step in columns.items() if step in by_step}
            others: dict[str, Any] = {t.metric: v for t, v in values.items() if t.expert is None}
            counts = {name: int(others.pop(name)) for name in COUNTS if math.isfinite(others.get(name, math.nan))}
            others["wall_time"] = run.wall_times.get(step)
            logger.log(step, {**_dynamics(values), **counts}, **others)
            if number % ROWS_AT_ONCE == 0:
                logger.flush()
        logger.flush()
    if logger.dropped:
        raise LoggerError(f"{db_path}: {logger.dropped} of {len(steps)} steps could not be written.")


def _dynamics(values: Mapping[Target, float]) -> dict[str, Any]:
    """Return one step as `log_gradient_dynamics` does, with means over layers where only layers were logged."""
    layers: dict[tuple[int, int], dict[str, Any]] = {}
    gradients: dict[str, dict[str, float]] = {}
    scores: dict[str, float] = {}
    for target, value in values.items():
        if target.layer is not None and target.expert is not None:
            row = {"layer": target.layer, "expert": target.expert, "source": "merged"}
            layers.setdefault((target.layer, target.expert), row)[target.metric] = value
    whole = {(target.expert, target.metric): value for target, value in values.items() if target.layer is None}
    for expert in sorted({target.expert for target in values if target.expert is not None}):
        means = _means([row for (_, number), row in layers.items() if number == expert], expert)
        metrics = means | {metric: value for (number, metric), value in whole.items() if number == expert}
        gradients[f"expert_{expert}"] = {name: value for name, value in metrics.items() if name not in SCORES}
        scores |= {f"expert_{expert}_{name}": metrics[name] for name in SCORES if name in metrics}
    return {"expert_gradients": gradients, "divergence_scores": scores, "layers": list(layers.values())}


def _means(rows: Sequence[Mapping[str, Any]], expert: int) -> dict[str, float]:
    """Return the means over an expert's layers, under the names of the wide table."""
    means = {}
    for name in (*MEANS, *(SCORES if expert else ())):
        if name == ("clean_norm" if expert else "perturbed_norm"):
            continue
        values = [row[LAYER_NAMES.get(name, name)] for row in rows if LAYER_NAMES.get(name, name) in row]
        if values:
            means[name] = 1 - fmean(values) if name == "direction" else fmean(values)
    return means
