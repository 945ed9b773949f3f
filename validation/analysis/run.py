"""A run as arrays: the columns of its experts over the logged steps, and its facts: config, seed, sham, finished.

Axis letters: T logged steps. NaN means missing; a zero norm is a real zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.options import options_of
from prismatic.contract.schema import MIXTURES, PEER, TIERS
from prismatic.contract.thresholds import SHAM_SCALE
from validation.analysis.bins import Plan, plan_of
from validation.analysis.statistics import Array

MAX_NUMBER = 1e15  # larger than any real option; files may come from anyone
LARGEST = 1e50  # of a measured number; 1 / LARGEST is the smallest beside zero, so that squares of both are finite
METRICS = (
    *(f"{tier}_norm" for tier in TIERS),
    *("norm", "routing_weight", "bottom_to_middle", "divergence", "relative_divergence", "direction"),
    *("half_product", "half_product_clean", "weight_distance"),
)

PAIR_METRICS = ("half_product", "weight_distance", "output_distance")
Pair = tuple[int, int]
"""Two experts, the smaller number first."""


class _SomeRows(Mapping[str, Array]):
    """Some rows of columns, cut out when a column is read."""

    def __init__(self, columns: Mapping[str, Array], rows: slice) -> None:
        self._columns, self._rows = columns, rows

    def __getitem__(self, metric: str) -> Array:
        return self._columns[metric][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


@dataclass(frozen=True, eq=False)
class Expert:
    """The columns of one expert over the logged steps of a run."""

    index: int
    role: str
    columns: Mapping[str, Array]
    one_of_many: bool = False
    """True for one of thousands of experts: what is computed from its columns is not kept."""
    _kept: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def __getitem__(self, metric: str) -> Array:
        return self.columns[metric]

    def log(self, metric: str) -> Array:
        """Return the natural log of a column."""
        return self._once(f"log {metric}", lambda: log(self.columns[metric]))

    @property
    def tiers(self) -> Array:
        """The norms of the three tiers, [3, T]."""
        return self._once("tiers", lambda: np.stack([self[f"{tier}_norm"] for tier in TIERS]))

    def _once(self, name: str, compute: Callable[[], Array]) -> Array:
        """Return what was computed before, or compute it."""
        if name in self._kept:
            return self._kept[name]
        value = compute()
        if not self.one_of_many:
            self._kept[name] = value
        return value

    @cached_property
    def tiers_usable(self) -> NDArray[np.bool_]:
        """A mask of the rows in which every tier norm is measured and above zero, so that its log exists."""
        return np.asarray((is_measured(self.tiers) & (self.tiers > 0)).all(axis=0))

    @cached_property
    def has_gradient(self) -> bool:
        """True if any tier norm of any row is a number other than zero."""
        return bool(((self.tiers < 0) | (self.tiers > 0)).any())


@dataclass(frozen=True, eq=False)
class Run:
    """A run: its logged steps, its experts, and the facts of its file."""

    id: str
    name: str
    steps: NDArray[np.int64]
    experts: Mapping[int, Expert]
    layers: Sequence[Mapping[int, Expert]] = ()
    """The experts of each layer, from merged gradients; empty for files with means over layers only."""
    pairs: Sequence[Mapping[Pair, Mapping[str, Array]]] = ()
    """The columns of each pair of experts in each layer; only of isolated gradients."""
    source: str = "merged"
    """merged: the gradients that the optimizer used; isolated: each expert's alone, on the same batch."""
    isolated: Run | None = None
    """The same run by isolated gradients, at the steps of the probe; None without a probe."""
    step_columns: Mapping[str, Array] = field(default_factory=dict)
    """Columns of the step, such as loss; only those in the file."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights in each tier of one expert, mean over layers; empty if unknown."""
    untiered: frozenset[int] = frozenset()
    """Layers that are declared too small to have all tiers."""
    tier_hashes: tuple[str, ...] = ()
    """Of the index sets of the tiers, in the order of the layers: equal for equal initial weights; empty if unknown."""
    perturbation_seeds: tuple[int, ...] = ()
    """Of the experts that a seeded draw changed, in their order; empty if unknown."""
    changed: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """By expert, the share of each tier that its perturbation changed; empty if unknown."""
    scales: Mapping[int, float] = field(default_factory=dict)
    """By expert, the scale of its perturbation; empty if unknown."""
    events: Mapping[str, int] = field(default_factory=dict)
    """Number of recorded events of each kind."""
    duplicates: int = 0
    wal: bool = False
    damage: tuple[str, ...] = ()
    """Sentences about tables of its file that are damaged or lost."""
    failure: str = ""
    """The error of this program on the contents of its file, which therefore has none."""

    def from_source(self, source: str) -> Run:
        """Return the run by its merged gradients, or by its isolated ones if the probe measured them."""
        if source == "merged" or self.isolated is None:
            return self
        # The loss of a step does not depend on the source of the gradients.
        at_probes = np.interp(self.isolated.steps, self.steps, self.step_column("loss")) if len(self.steps) else None
        return replace(self.isolated, step_columns={} if at_probes is None else {"loss": at_probes})

    @property
    def tiered_layers(self) -> list[Mapping[int, Expert]]:
        """The layers that have all tiers: by what the file declares, because zeros could be chosen."""
        return [layer for number, layer in enumerate(self.layers) if number not in self.untiered]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The options of the training; empty for files without a run table."""
        return options_of(self.facts)

    def of_role(self, role: str) -> list[Expert]:
        """Return the experts of a role: clean, perturbed, control or peer."""
        return [expert for expert in self.experts.values() if expert.role == role]

    @cached_property
    def peers(self) -> bool:
        """True if no expert has a part of its own, so that nothing is claimed about a perturbation."""
        return bool(self.experts) and all(expert.role == PEER for expert in self.experts.values())

    @property
    def compared(self) -> list[int]:
        """The experts that are compared with expert 0: the perturbed ones, or all other peers."""
        return [e.index for e in (self.of_role(PEER)[1:] if self.peers else self.of_role("perturbed"))]

    @property
    def planned_steps(self) -> int:
        """The planned number of steps; the number so far, if larger or if no plan is known."""
        planned = self.number("planned_steps")
        so_far = int(self.steps[-1]) + 1 if len(self.steps) else 0
        return max(int(planned), so_far) if planned else so_far

    def number(self, fact: str) -> float | None:
        """Return a fact as a number, also from text; None if it is absent or not a number."""
        return _number(self.facts.get(fact))

    def option(self, name: str) -> float | None:
        """Return an option as a number, also from text; None if it is absent or not a number."""
        return _number(self.config.get(name))

    @property
    def seed(self) -> int | None:
        """The seed of the training, an option or else the fact `seed`; None if unknown."""
        seed = self.config.get("seed", self.facts.get("seed"))
        if isinstance(seed, int) and not isinstance(seed, bool):
            return seed  # of any size: two seeds of 64 bits may be one number as floats
        number = _number(seed)
        return None if number is None else int(number)

    @property
    def is_sham(self) -> bool:
        """True if at most SHAM_SCALE was perturbed, which is next to nothing; never of peers."""
        if self.peers:
            return False
        scale = self.option("perturbation_scale")
        scales = [scale] if scale is not None else [self.scales.get(e.index) for e in self.of_role("perturbed")]
        return bool(scales) and all(scale is not None and 0 <= scale <= SHAM_SCALE for scale in scales)

    @property
    def is_positive_control(self) -> bool:
        """True if its effect was put in by hand."""
        return not self.peers and self.option("positive_control") not in (None, 1.0)

    @property
    def mixture(self) -> str | None:
        """The kind of its mixture of experts, a name from MIXTURES; None if unknown."""
        mixture = self.facts.get("mixture")
        if isinstance(mixture, str) and mixture in MIXTURES:
            return mixture
        return "parameters" if "merge" in self.config else None

    @property
    def merges_parameters(self) -> bool:
        """True if a gradient may be a routing share times one common gradient, also for unknown mixtures."""
        return self.mixture in (None, "parameters")

    @property
    def same_batch(self) -> bool:
        """True if every expert's gradient is of the same examples; routed and separate experts see their own."""
        return self.source == "isolated" or self.mixture not in ("top_k", "separate")

    @property
    def by_trainer(self) -> bool:
        """True for runs of `prismatic train`, whose options can be given to `--set`."""
        return self.config.get("router_type") == "prismatic"

    @property
    def reproducible(self) -> bool:
        """True for runs whose options, seed and text give the same training again: those of `prismatic train` alone."""
        return "corpus_sha256" in self.facts or (self.by_trainer and "run_hash" in self.facts)

    @property
    def planned_experts(self) -> int:
        """The number of experts by the options: controls come on top, but not where a dense model was upcycled."""
        controls = 0 if "upcycle_method" in self.config else self.option("control_experts") or 0
        return int((self.option("num_experts") or 0) + controls)

    @property
    def every(self) -> int | None:
        """Steps between two rows by the declared `log_freq`, of isolated gradients also by `probe_freq`; else None."""
        # The logger's own facts come first: options of a model may be those of another training.
        known = [self._frequency("log_freq")]
        if self.source == "isolated":
            # Rarer than logged rows, if unknown.
            known = [*known, self.probe_freq] if self.probe_freq is not None else []
        return _common_multiple(known)

    @property
    def pair_every(self) -> int | None:
        """Steps between two rows of pairs by the declared `pair_freq`; None if it is undeclared or 0."""
        pair_freq = self._frequency("pair_freq")
        return _common_multiple([self._frequency("log_freq"), pair_freq]) if pair_freq else None

    @property
    def probe_freq(self) -> float | None:
        """Declared steps between two probes, which also run to compare pairs; 0 is never, None if undeclared."""
        known = [every for name in ("probe_freq", "pair_freq") if (every := self._frequency(name)) is not None]
        return min((every for every in known if every >= 1), default=0.0) if known else None

    def _frequency(self, name: str) -> float | None:
        return self.number(name) or self.option(name)

    def plan(self, warmup: float) -> Plan:
        """Return the steps at which the run logs, and its bins of time. warmup: the least share that is skipped."""
        return self._plan(self.steps, self.every, warmup)

    def pair_plan(self, steps_T: NDArray[np.int64], warmup: float) -> Plan:
        """Return the same of the pairs of experts, which have rows at these steps."""
        return self._plan(steps_T, self.pair_every, warmup)

    def _plan(self, steps_T: NDArray[np.int64], every: int | None, warmup: float) -> Plan:
        warmup_steps = self.number("warmup_steps") or 0.0
        frequencies = (every,)
        return plan_of(
            steps_T, planned=self.planned_steps, frequencies=frequencies, share=warmup, warmup_steps=warmup_steps
        )

    @property
    def finished(self) -> bool:
        """True if no further row was planned, or nothing was: the next step of the grid is beyond the planned end."""
        return not len(self.steps) or int(self.steps[-1]) + self.plan(0.0).every >= self.planned_steps

    @property
    def has_means_only(self) -> bool:
        """True if the model has several layers of experts, and the file holds means over them and no layer."""
        layers = self.number("routers") or self.option("num_layers") or 1
        return layers > 1 and not self.layers and self.isolated is None

    def between(self, first: float, last: float) -> Run:
        """Return the run with the rows of these steps, and one more at each end where there is one; merged ones only.

        The columns are views of this run's.
        """
        ends = np.searchsorted(self.steps, [first, last], side="left")
        rows = slice(max(int(ends[0]) - 1, 0), int(ends[1]) + 2)

        def cut(place: Mapping[int, Expert]) -> dict[int, Expert]:
            return {e: replace(x, columns=_SomeRows(x.columns, rows)) for e, x in place.items()}

        columns = {name: column[rows] for name, column in self.step_columns.items()}
        layers = [cut(layer) for layer in self.layers]
        return replace(self, steps=self.steps[rows], experts=cut(self.experts), layers=layers, step_columns=columns)

    def without_rows(self) -> Run:
        """Return the facts, steps and roles of the run, without the columns of its experts."""
        experts = {index: Expert(index, expert.role, {}) for index, expert in self.experts.items()}
        isolated = self.isolated.without_rows() if self.isolated is not None else None
        return replace(self, experts=experts, layers=(), pairs=(), isolated=isolated, step_columns={})

    def step_column(self, name: str) -> Array:
        """Return a column of the step, [T]; NaN in every row if the file does not have it."""
        return self.step_columns.get(name, np.full(len(self.steps), np.nan))

    def after_warmup(self, share: float) -> NDArray[np.bool_]:
        """Return a mask of the rows after the warm-up: a share of the planned steps, or the learning rate's if longer.

        The planned length keeps old rows of a live run in or out as it grows.
        """
        if not len(self.steps):
            return np.zeros(0, dtype=bool)
        first = int(self.steps[0])
        warmup = max(share * (self.planned_steps - first), self.number("warmup_steps") or 0.0)
        return np.asarray(self.steps >= first + warmup)


def _common_multiple(frequencies: Sequence[float | None]) -> int | None:
    """Return the steps between two rows that have all these frequencies; None if none is a number of steps."""
    declared = [int(frequency) for frequency in frequencies if frequency is not None and frequency >= 1]
    return min(math.lcm(*declared), int(MAX_NUMBER)) if declared else None


def _number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= MAX_NUMBER else None


def columns_of(layer: Mapping[int, Expert], experts: Sequence[int], metric: str) -> Array:
    """Return a column of some experts of a layer, [E, T]."""
    return np.stack([layer[expert][metric] for expert in experts])


def align(steps_T: NDArray[np.int64], values_T: Array, onto_T: NDArray[np.int64]) -> Array:
    """Return values at other steps: those logged at exactly these steps, NaN elsewhere."""
    if not len(steps_T):
        return np.full(len(onto_T), np.nan)
    place = np.minimum(np.searchsorted(steps_T, onto_T), len(steps_T) - 1)
    return np.where(steps_T[place] == onto_T, values_T[place], np.nan)


def is_measured(values: Array) -> NDArray[np.bool_]:
    """Return True for each number that is finite, and whose square is finite too."""
    size = np.abs(values)
    return np.asarray((size < LARGEST) & ((size > 1 / LARGEST) | (size == 0)))


def log(values: Array) -> Array:
    """Return the natural log; NaN, not minus infinity, for zero, negative and missing values."""
    positive = np.isfinite(values) & (values > 0)
    return np.asarray(np.log(np.where(positive, values, np.nan)))
