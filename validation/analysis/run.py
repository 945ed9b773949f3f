"""A run as arrays: its experts' columns over the logged steps, and what the file says of it.

Axis letters: T logged steps. NaN means missing everywhere; a zero norm is a real zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.schema import MIXTURES, TIERS
from prismatic.contract.thresholds import SHAM_SCALE
from validation.analysis.statistics import Array

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

    def from_source(self, source: str) -> Run:
        """Return the run by its merged gradients, or by its isolated ones if the probe measured them."""
        if source == "merged" or self.isolated is None:
            return self
        # The loss of a step does not depend on the source of the gradients.
        at_probes = np.interp(self.isolated.steps, self.steps, self.step_column("loss")) if len(self.steps) else None
        return replace(self.isolated, step_columns={} if at_probes is None else {"loss": at_probes})

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
