"""A run as arrays: its experts' columns over the logged steps, and what the file says of it.

Axis letters: T logged steps. NaN means missing everywhere; a zero norm is a real zero.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prismatic.contract.schema import MIXTURES, STEP_COLUMNS, TIERS
from prismatic.contract.thresholds import SHAM_SCALE
from validation.analysis.statistics import Array
from validation.files.run_file import RunFile
from validation.files.tidy import by_expert

MAX_NUMBER = 1e15  # facts come from files that anyone may have written; no honest option is larger
OPTION = re.compile(r"config\.([a-z][a-z0-9_]{0,60})")
METRICS = (
    *(f"{tier}_norm" for tier in TIERS),
    *("norm", "routing_weight", "bottom_to_middle", "divergence", "relative_divergence", "direction"),
    "noise_direction",
)


@dataclass(frozen=True, eq=False)
class Expert:
    """One expert's columns over the run's logged steps."""

    index: int
    role: str
    columns: Mapping[str, Array]
    _logs: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def __getitem__(self, metric: str) -> Array:
        return self.columns[metric]

    def log(self, metric: str) -> Array:
        """Natural log of a column, taken once."""
        if metric not in self._logs:
            self._logs[metric] = log(self.columns[metric])
        return self._logs[metric]

    @property
    def tiers_usable(self) -> NDArray[np.bool_]:
        """Rows in which every tier norm is a finite number above zero, so that logs can be taken."""
        norms = np.stack([self[f"{tier}_norm"] for tier in TIERS])
        return np.asarray(np.isfinite(norms).all(axis=0) & (norms > 0).all(axis=0))


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its logged steps, its experts, and what the file says about how it was made."""

    id: str
    name: str
    steps: NDArray[np.int64]
    experts: Mapping[int, Expert]
    layers: Sequence[Mapping[int, Expert]] = ()
    """The same per layer, from the merged gradients; empty for files that have only the means over layers."""
    source: str = "merged"
    """merged: the gradients that the optimizer used; isolated: each expert's alone, on the same batch."""
    isolated: Run | None = None
    """The same run as the isolated probe saw it, at the steps at which it looked; None without a probe."""
    step_columns: Mapping[str, Array] = field(default_factory=dict)
    """Columns that belong to the step and not to an expert, such as loss; only those that the file has."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights in each tier of one expert, mean over layers; empty where the file does not say."""
    changed: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Per expert, the share of each tier that its perturbation really changed; empty where the file does not say."""
    scales: Mapping[int, float] = field(default_factory=dict)
    """Per expert, by how much it was perturbed; empty where the file does not say."""
    events: Mapping[str, int] = field(default_factory=dict)
    """How often each kind of event was recorded while the run was trained."""
    duplicates: int = 0
    wal: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The options it was trained with; empty for files without a run table."""
        names = {key: OPTION.fullmatch(key) for key in self.facts}
        return {match[1]: self.facts[key] for key, match in names.items() if match}

    def of_role(self, role: str) -> list[Expert]:
        """The experts of a role: clean, perturbed or control."""
        return [expert for expert in self.experts.values() if expert.role == role]

    @property
    def planned_steps(self) -> int:
        """How long the run is meant to be; as long as it is, where the file does not say."""
        planned = self.number("planned_steps")
        seen = int(self.steps[-1]) + 1 if len(self.steps) else 0
        return max(int(planned), seen) if planned else seen

    def number(self, fact: str) -> float | None:
        """A fact that should be a number, also as text; None where it is absent or is none."""
        value = self.facts.get(fact)
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            return None
        return number if abs(number) <= MAX_NUMBER else None

    @property
    def seed(self) -> int | None:
        """The seed it was trained with; None where the file does not say."""
        seed = self.number("config.seed")
        return None if seed is None else int(seed)

    @property
    def is_sham(self) -> bool:
        """Whether nothing, or next to nothing, was perturbed in this run."""
        scale = self.number("config.perturbation_scale")
        scales = [scale] if scale is not None else [self.scales.get(e.index) for e in self.of_role("perturbed")]
        return bool(scales) and all(scale is not None and 0 <= scale <= SHAM_SCALE for scale in scales)

    @property
    def is_positive_control(self) -> bool:
        """Whether its effect was put in by hand."""
        return self.number("config.positive_control") not in (None, 1.0)

    @property
    def mixture(self) -> str | None:
        """What its mixture of experts is, a name from MIXTURES; None where the file does not say."""
        told = self.facts.get("mixture")
        if isinstance(told, str) and told in MIXTURES:
            return told
        return "parameters" if "config.merge" in self.facts else None

    @property
    def merges_parameters(self) -> bool:
        """Whether a gradient can be a routing share times one common gradient; what does not say so may be."""
        return self.mixture in (None, "parameters")

    @property
    def by_trainer(self) -> bool:
        """Whether this project's own trainer made it, so that its options can be named as `--set` takes them."""
        return self.config.get("router_type") == "prismatic"

    @property
    def finished(self) -> bool:
        """Whether the run reached its planned end, as far as the file says."""
        return not len(self.steps) or int(self.steps[-1]) + 1 >= self.planned_steps

    def until(self, step: int) -> Run:
        """The run as it was when this step was the newest; what it says of itself stays, such as its planned length."""
        rows = self.steps <= step
        if rows.all():
            return self

        def cut(experts: Mapping[int, Expert]) -> dict[int, Expert]:
            return {
                number: replace(one, columns={name: values[rows] for name, values in one.columns.items()})
                for number, one in experts.items()
            }

        return replace(
            self,
            steps=self.steps[rows],
            experts=cut(self.experts),
            layers=[cut(layer) for layer in self.layers],
            isolated=self.isolated.until(step) if self.isolated is not None else None,
            step_columns={name: values[rows] for name, values in self.step_columns.items()},
        )

    def step_column(self, name: str) -> Array:
        """A column of the step; NaN in every row where the file does not have it."""
        return self.step_columns.get(name, np.full(len(self.steps), np.nan))

    def after_warmup(self, share: float) -> NDArray[np.bool_]:
        """Rows after the warm-up: the larger of a share of the *planned* steps and the learning rate's own warm-up.

        The planned length and not the current one, or a live run would change its mind about old rows.
        """
        if not len(self.steps):
            return np.zeros(0, dtype=bool)
        first = int(self.steps[0])
        warmup = max(share * (self.planned_steps - first), self.number("warmup_steps") or 0.0)
        return np.asarray(self.steps >= first + warmup)


def load_runs(files: Sequence[RunFile]) -> list[Run]:
    """The runs of these files as arrays, in their order."""
    return [_load_run(file) for file in files]


def _load_run(file: RunFile) -> Run:
    steps = file.wide["step"].to_numpy().astype(np.int64)
    experts = {
        number: Expert(number, role, _columns(rows, len(steps), lambda values: values))
        for number, role, rows in by_expert(file)
    }
    shared = [column.name for column in STEP_COLUMNS[1:] if column.name in file.wide.column_names]
    run = Run(
        id=file.id,
        name=file.name,
        steps=steps,
        experts=experts,
        step_columns={name: _floats(file.wide[name]) for name in shared},
        facts=file.facts,
        weights=_tier_weights(file),
        changed=_changed(file),
        scales={
            row["expert"]: row["scale"] for row in file.experts.to_pylist() if None not in (row["expert"], row["scale"])
        },
        events=Counter(code for code in file.events["code"].to_pylist() if code),
        duplicates=file.duplicates,
        wal=file.wal,
    )
    if not len(file.layers):
        return run
    roles = {number: expert.role for number, expert in experts.items()}
    merged, probed = (_of_source(file.layers, source) for source in ("merged", "isolated"))
    run = replace(run, layers=_layers(merged, roles, steps))
    return replace(run, isolated=_isolated(run, probed, roles)) if len(probed) else run


def _of_source(layers: pa.Table, source: str) -> pa.Table:
    """The rows of `layers` that were measured one way, by layer, expert and step, with the direction."""
    own = layers.filter(pc.equal(layers["source"], source))
    own = own.append_column("direction", pc.subtract(1.0, own["gradient_cosine"]))
    return own.sort_by([("layer", "ascending"), ("expert", "ascending"), ("step", "ascending")])


def _isolated(run: Run, table: pa.Table, roles: Mapping[int, str]) -> Run:
    """The run at the steps of the probe, with the means over layers of what it measured."""
    steps = np.unique(table["step"].to_numpy().astype(np.int64))
    layers = _layers(table, roles, steps)
    # Alone, every expert has the whole layer.
    layers = [
        {e: Expert(e, one.role, {**one.columns, "routing_weight": np.ones(len(steps))}) for e, one in layer.items()}
        for layer in layers
    ]
    experts = {
        e: Expert(e, one.role, {m: np.mean([layer[e][m] for layer in layers if e in layer], axis=0) for m in METRICS})
        for e, one in layers[0].items()
    }
    return replace(run, steps=steps, experts=experts, layers=layers, source="isolated", step_columns={})


def _layers(table: pa.Table, roles: Mapping[int, str], steps: NDArray[np.int64]) -> list[dict[int, Expert]]:
    """A tidy table of layers as the experts of each layer."""
    return [_experts(own, roles, steps) for _, own in _parted(table, "layer")]


def _experts(table: pa.Table, roles: Mapping[int, str], steps: NDArray[np.int64]) -> dict[int, Expert]:
    """A tidy table as one Expert per expert, each column with a value (or NaN) for every step of the run."""
    experts = {}
    for expert, own in _parted(table, "expert"):
        own_steps = own["step"].to_numpy().astype(np.int64)
        columns = _columns(own, len(steps), partial(align, own_steps, onto_T=steps))
        experts[expert] = Expert(expert, roles.get(expert, "perturbed"), columns)
    return experts


def _columns(table: pa.Table, rows: int, aligned: Callable[[Array], Array]) -> dict[str, Array]:
    """Every metric as floats; NaN in every row where the table does not have it."""
    found = {name: aligned(_floats(table[name])) for name in METRICS if name in table.column_names}
    return dict.fromkeys(METRICS, np.full(rows, np.nan)) | found


def _parted(table: pa.Table, by: str) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each value of a column, by which they are ordered: looking for each in all rows takes far longer."""
    whole, start = table.combine_chunks(), 0
    keys = pc.run_end_encode(whole[by].combine_chunks()) if len(whole) else None
    for key, end in zip(keys.values.to_pylist(), keys.run_ends.to_pylist(), strict=True) if keys else ():
        if key is not None:
            yield key, whole.slice(start, end - start)
        start = end


def _floats(column: pa.ChunkedArray) -> Array:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _tier_weights(file: RunFile) -> dict[str, float]:
    """Mean number of weights per tier over the layers, from the file's `tiers` table."""
    sizes: dict[str, list[float]] = {}
    for row in file.tiers.to_pylist():
        if row["tier"] in TIERS and row["weights"]:
            sizes.setdefault(row["tier"], []).append(float(row["weights"]))
    return {tier: float(np.mean(values)) for tier, values in sizes.items()} if len(sizes) == len(TIERS) else {}


def _changed(file: RunFile) -> dict[int, dict[str, float]]:
    return {
        int(row["expert"]): {tier: row[f"changed_{tier}"] for tier in TIERS}
        for row in file.experts.to_pylist()
        if row["expert"] is not None and all(row[f"changed_{tier}"] is not None for tier in TIERS)
    }


def align(steps_T: NDArray[np.int64], values_T: Array, onto_T: NDArray[np.int64]) -> Array:
    """Values at other steps: those logged at exactly these steps, NaN elsewhere."""
    if not len(steps_T):
        return np.full(len(onto_T), np.nan)
    place = np.minimum(np.searchsorted(steps_T, onto_T), len(steps_T) - 1)
    return np.where(steps_T[place] == onto_T, values_T[place], np.nan)


def log(values: Array) -> Array:
    """Natural log; NaN, not minus infinity, where there is nothing to take a log of."""
    positive = np.isfinite(values) & (values > 0)
    return np.asarray(np.log(np.where(positive, values, np.nan)))
