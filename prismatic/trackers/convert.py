"""A run of another tracker and a mapping in, a run file and a report out. DynamicsLogger writes it, as it does all."""

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
from prismatic.trackers.tracked import STEP_NAMES, Tracked

READERS: dict[str, Callable[[Path], list[Tracked]]] = {
    "tensorboard": tensorboard.read,
    "trackio": trackio.read,
    "wandb": wandb.read,
    "table": table.read,
}
SHOWN, ROWS_AT_ONCE = 8, 1000
OF_COUNT = ("nonfinite", "missing_gradients")
LAYER_NAMES = {"direction": "gradient_cosine", "clean_norm": "norm", "perturbed_norm": "norm"}
MEANS = (*(f"{tier}_norm" for tier in TIERS), "routing_weight", "bottom_to_middle", "clean_norm", "perturbed_norm")


def read_tracked(source: Path, tracker: str | None = None) -> list[Tracked]:
    """The runs in the files of a tracker. Raises TrackerError, and ImportError where its library is not installed."""
    if not source.exists():
        raise TrackerError(f"{source}: there is no such file or folder.")
    return READERS[tracker or _tracker_of(source)](source)


def _tracker_of(source: Path) -> str:
    """Told by names: of the file, or of the files in the folder."""
    if source.is_dir():
        for tracker, names in (("tensorboard", tensorboard.EVENTS), ("wandb", "*.wandb")):
            if next(source.rglob(names), None) is not None:
                return tracker
        raise TrackerError(f"{source}: no event file of TensorBoard and no .wandb file is in this folder.")
    suffix = source.suffix.lower()
    if "tfevents" in source.name:
        return "tensorboard"
    kinds = {".wandb": "wandb", ".db": "trackio", **dict.fromkeys(table.READERS, "table")}
    if suffix in kinds:
        return kinds[suffix]
    raise TrackerError(
        f"{source}: expected a folder of TensorBoard or W&B, an event file, a .wandb, a .db of trackio, or a table: "
        f"{', '.join(table.READERS)}. --format says which it is."
    )


@dataclass
class Report:
    """What became of a run's metrics."""

    run: str
    tracker: str
    steps: tuple[int, ...] = ()
    experts: int = 0
    taken: dict[str, list[str]] = field(default_factory=dict)
    """By line of the map, the names that it took."""
    unmapped: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    """Lines of the map that took nothing."""
    left_out: int = 0
    """Steps at which nothing of an expert was logged."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"{self.tracker} run {self.run}: {len(self.steps):,} steps with {self.experts} experts"]
        told += [f"  {line}: {_some(names)}" for line, names in self.taken.items()]
        told += [f"  matches nothing: {line}" for line in self.unused]
        told += [f"  not mapped: {_some(self.unmapped)}"] if self.unmapped else []
        told += [f"  left out: {self.left_out:,} steps without anything of an expert"] if self.left_out else []
        for note, times in Counter(self.notes).items():
            told.append(f"  note: {note}" + (f" ({times} times)" if times > 1 else ""))
        return told


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def convert(run: Tracked, mapping: NameMap, db_path: Path | None, *, overwrite: bool = False) -> Report:
    """Write a run file; db_path None only tells what would be in it.

    Raises TrackerError where the run has no gradient norm of an expert under this mapping, ConfigError where two of its
    names are the same column or roles do not fit, LoggerError for a file that cannot be written or is there already.
    """
    run = _counted(run, mapping)
    columns, report = _columns(run, mapping)
    steps = sorted({step for target in columns if target.expert is not None for step in run.metrics[columns[target]]})
    every = {step for name in columns.values() for step in run.metrics[name]}
    report.steps, report.left_out = tuple(steps), len(every) - len(steps)
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


def _counted(run: Tracked, mapping: NameMap) -> Tracked:
    """The run by the steps that the map asks for, or by those of our own mirror."""
    if mapping.step is not None and mapping.step not in run.metrics:
        names = _some(sorted(run.metrics))
        raise ConfigError(f"step = {mapping.step!r}: run {run.name} has no such metric; it has {names}.")
    name = mapping.step or (STEP_NAMES[0] if STEP_NAMES[0] in run.metrics else None)
    return run.by_step_of(name) if name else run


def _columns(run: Tracked, mapping: NameMap) -> tuple[dict[Target, str], Report]:
    """By our column, their name."""
    report, columns = Report(run.name, run.tracker, notes=run.notes), dict[Target, str]()
    for name in sorted(run.metrics):
        found = mapping.target_of(name)
        if found is None:
            report.unmapped.append(name)
            continue
        pattern, target = found
        if target in columns:
            raise ConfigError(f"{columns[target]!r} and {name!r} are both {target}; let the map take one of them.")
        columns[target] = name
        report.taken.setdefault(f"{pattern.ours} <- {pattern.theirs}", []).append(name)
    used = {line.partition(" <- ")[2] for line in report.taken}
    report.unused = [] if mapping.default else [p.theirs for p in mapping.patterns if p.theirs not in used]
    if not any(target.metric == f"{tier}_norm" for target in columns for tier in TIERS):
        names = _some(sorted(run.metrics)) or "none"
        raise TrackerError(
            f"run {run.name}: no metric is the norm of an expert's tier under this map; its metrics are {names}. "
            'A line of [metrics] such as "moe/e{i}/{tier}" = "expert_{i}_{tier}_norm" says which are.'
        )
    return columns, report


def _roles(mapping: NameMap, experts: int) -> list[dict[str, Any]]:
    roles = mapping.roles or ("clean", *["perturbed"] * (experts - 1))
    if len(roles) != experts or roles[0] != "clean" or "clean" in roles[1:]:
        raise ConfigError(f"roles = {list(roles)!r} does not fit {experts} experts; the first, and only it, is clean.")
    return [{"expert": expert, "role": role} for expert, role in enumerate(roles)]


def _write(
    db_path: Path,
    steps: Sequence[int],
    columns: Mapping[Target, Mapping[int, float]],
    run: Tracked,
    facts: Mapping[str, Any],
    roles: Sequence[Mapping[str, Any]],
    *,
    overwrite: bool,
) -> None:
    with DynamicsLogger(db_path, len(roles), flush_seconds=1e9, resume="never", overwrite=overwrite) as logger:
        logger.log_run(facts)
        logger.log_table("experts", roles, replace=True)
        for number, step in enumerate(steps, start=1):
            values = {target: kept[step] for target, kept in columns.items() if step in kept}
            others: dict[str, Any] = {t.metric: v for t, v in values.items() if t.expert is None}
            counts = {name: int(others.pop(name)) for name in OF_COUNT if math.isfinite(others.get(name, math.nan))}
            others["wall_time"] = run.wall_times.get(step)
            logger.log(step, {**_dynamics(values), **counts}, **others)
            if number % ROWS_AT_ONCE == 0:
                logger.flush()
        logger.flush()
    if logger.dropped:
        raise LoggerError(f"{db_path}: {logger.dropped} of {len(steps)} steps could not be written.")


def _dynamics(values: Mapping[Target, float]) -> dict[str, Any]:
    """One step as `log_gradient_dynamics` returns it; means over layers where only layers were logged."""
    layers: dict[tuple[int, int], dict[str, Any]] = {}
    gradients: dict[str, dict[str, float]] = {}
    scores: dict[str, float] = {}
    for target, value in values.items():
        if target.layer is not None and target.expert is not None:
            row = {"layer": target.layer, "expert": target.expert, "source": "merged"}
            layers.setdefault((target.layer, target.expert), row)[target.metric] = value
    own = {(target.expert, target.metric): value for target, value in values.items() if target.layer is None}
    for expert in sorted({target.expert for target in values if target.expert is not None}):
        known = {metric: value for (number, metric), value in own.items() if number == expert}
        known = {**_means([row for (_, number), row in layers.items() if number == expert], expert), **known}
        gradients[f"expert_{expert}"] = {name: value for name, value in known.items() if name not in SCORES}
        scores |= {f"expert_{expert}_{name}": known[name] for name in SCORES if name in known}
    return {"expert_gradients": gradients, "divergence_scores": scores, "layers": list(layers.values())}


def _means(rows: Sequence[Mapping[str, Any]], expert: int) -> dict[str, float]:
    """Over an expert's layers, under the names of the wide table."""
    found = {}
    for name in (*MEANS, *(SCORES if expert else ())):
        if name == ("clean_norm" if expert else "perturbed_norm"):
            continue
        kept = [row[LAYER_NAMES.get(name, name)] for row in rows if LAYER_NAMES.get(name, name) in row]
        if kept:
            found[name] = 1 - fmean(kept) if name == "direction" else fmean(kept)
    return found
