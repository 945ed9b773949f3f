"""The conversion of a tracked run to a run file: choose the reader, map the columns, take means over layers, write."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from prismatic.contract.schema import TIERS
from prismatic.errors import ConfigError, LoggerError, TrackerError
from prismatic.runfile.logger import DynamicsLogger
from prismatic.trackers import table, tensorboard, trackio, wandb
from prismatic.trackers.mapping import SCORES, NameMap, Target
from prismatic.trackers.tracked import STEP_NAMES, TrackedRun

READERS: dict[str, Callable[[Path], list[TrackedRun]]] = {
    "tensorboard": tensorboard.read,
    "trackio": trackio.read,
    "wandb": wandb.read,
    "table": table.read,
}
NAMES_SHOWN = 8  # in a list of metric names
ROWS_AT_ONCE = 1000  # rows between two flushes, so that they do not pile up in memory
COUNTS = ("nonfinite", "missing_gradients")
LAYER_NAMES = {"direction": "gradient_cosine", "clean_norm": "norm", "perturbed_norm": "norm"}
MEANS = (*(f"{tier}_norm" for tier in TIERS), "routing_weight", "bottom_to_middle", "clean_norm", "perturbed_norm")


def read_tracked(source: Path, tracker: str | None = None) -> list[TrackedRun]:
    """Return the runs in a tracker's files. Raises TrackerError, and ImportError if its library is not installed."""
    if not source.exists():
        raise TrackerError(f"{source}: no such file or folder.")
    return READERS[tracker or _recognize(source)](source)


def _recognize(source: Path) -> str:
    """Return the tracker by the name of a file, or by the names of the files in a folder."""
    if source.is_dir():
        for tracker, names in (("tensorboard", tensorboard.EVENTS), ("wandb", "*.wandb")):
            if next(source.rglob(names), None) is not None:
                return tracker
        raise TrackerError(f"{source}: this folder has no event file of TensorBoard and no .wandb file.")
    suffix = source.suffix.lower()
    if "tfevents" in source.name:
        return "tensorboard"
    trackers = {".wandb": "wandb", ".db": "trackio", **dict.fromkeys(table.READERS, "table")}
    if suffix in trackers:
        return trackers[suffix]
    raise TrackerError(
        f"{source}: expected a folder of TensorBoard or W&B, an event file, a .wandb, a .db of trackio, or a table: "
        f"{', '.join(table.READERS)}. Name the format of other files with --format."
    )


@dataclass
class Report:
    """The result of importing one run: imported, unmapped and unused names, skipped steps."""

    run: str
    tracker: str
    steps: tuple[int, ...] = ()
    experts: int = 0
    imported: dict[str, list[str]] = field(default_factory=dict)
    """For each line of the map, the names that it matched."""
    unmapped: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    """Lines of the map that matched no name."""
    skipped: int = 0
    """The number of steps without any metric of an expert."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [f"{self.tracker} run {self.run}: {len(self.steps):,} steps with {self.experts} experts"]
        lines += [f"  {line}: {_shorten(names)}" for line, names in self.imported.items()]
        lines += [f"  matches nothing: {line}" for line in self.unused]
        lines += [f"  not mapped: {_shorten(self.unmapped)}"] if self.unmapped else []
        lines += [f"  skipped: {self.skipped:,} steps without any metric of an expert"] if self.skipped else []
        for note, times in Counter(self.notes).items():
            lines.append(f"  note: {note}" + (f" ({times} times)" if times > 1 else ""))
        return lines


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


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
        **mapping.options_of(run.config),
        **mapping.facts,
    }
    if db_path is not None:
        by_target = {target: run.metrics[name] for target, name in columns.items()}
        _write(db_path, steps, by_target, run, facts, roles, overwrite=overwrite)
    return report


def _with_mapped_steps(run: TrackedRun, mapping: NameMap) -> TrackedRun:
    """Return the run with the steps that the map names, or with those of our own mirror."""
    if mapping.step is not None and mapping.step not in run.metrics:
        names = _shorten(sorted(run.metrics))
        raise ConfigError(f"step = {mapping.step!r}: run {run.name} has no such metric; it has {names}.")
    name = mapping.step or (STEP_NAMES[0] if STEP_NAMES[0] in run.metrics else None)
    return run.with_steps_of(name) if name else run


def _columns(run: TrackedRun, mapping: NameMap) -> tuple[dict[Target, str], Report]:
    """Return the tracker's name for each of our columns, and the report on names."""
    report, columns = Report(run.name, run.tracker, notes=run.notes), dict[Target, str]()
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
    if not any(target.metric == f"{tier}_norm" for target in columns for tier in TIERS):
        names = _shorten(sorted(run.metrics)) or "none"
        raise TrackerError(
            f"run {run.name}: the map finds no norm of an expert's tier; the run's metrics are {names}. "
            'Add a line to [metrics] such as "moe/e{i}/{tier}" = "expert_{i}_{tier}_norm".'
        )
    return columns, report


def _roles(mapping: NameMap, experts: int) -> list[dict[str, Any]]:
    roles = mapping.roles or ("clean", *["perturbed"] * (experts - 1))
    if len(roles) != experts or roles[0] != "clean" or "clean" in roles[1:]:
        raise ConfigError(
            f"roles = {list(roles)!r} does not fit {experts} experts; the first must be clean, and no other."
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
