"""Experts that were never trained: their gradient was zero whenever it was logged, as if the router never chose them.

Such an expert still differs from the others as much as it did at random, so it is no evidence about what training does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validation.analysis.run import Expert, Run

Place = tuple[int, int]
"""A layer, by its place in the run, and an expert."""


@dataclass(frozen=True)
class Untrained:
    """The experts of a run that never received a gradient, of merged gradients."""

    layers: tuple[tuple[int, ...], ...]
    """The experts of each layer; of a file without layers, of their mean."""
    places: frozenset[Place]

    @property
    def experts(self) -> tuple[int, ...]:
        """All experts of the run."""
        return tuple(sorted({expert for own in self.layers for expert in own}))

    @property
    def everywhere(self) -> tuple[int, ...]:
        """The experts that never received a gradient in any layer."""
        trained = {e for at, own in enumerate(self.layers) for e in own if (at, e) not in self.places}
        return tuple(expert for expert in self.experts if expert not in trained)

    @property
    def by_layer(self) -> bool:
        """True if some expert was trained in some layers and not in others, so that each layer's are counted."""
        return any(expert not in self.everywhere for _, expert in self.places)

    @property
    def count(self) -> int:
        """The number of experts that were never trained."""
        return len(self.places) if self.by_layer else len(self.everywhere)

    @property
    def of(self) -> int:
        """The number of experts that `count` is a part of."""
        return sum(map(len, self.layers)) if self.by_layer else len(self.experts)

    def trained(self, experts: Sequence[int], layers: int) -> NDArray[np.bool_]:
        """Return True for each of these experts in each layer where it was trained, [E, L].

        A file whose merged gradients are means over layers tells it for all layers at once.
        """
        if layers != len(self.layers):
            return np.repeat([[expert not in self.everywhere] for expert in experts], layers, axis=1)
        return np.array([[(at, expert) not in self.places for at in range(layers)] for expert in experts])

    @property
    def leaves_a_pair(self) -> bool:
        """True if two experts of some layer were trained."""
        return any(sum((at, expert) not in self.places for expert in own) > 1 for at, own in enumerate(self.layers))


ALL_TRAINED = Untrained((), frozenset())


def untrained_of(run: Run) -> Untrained:
    """Return the experts of a run whose merged gradients were zero in every logged row."""
    layers = run.layers or [run.experts]
    found = ((at, number) for at, layer in enumerate(layers) for number, x in layer.items() if _never_trained(x))
    return Untrained(tuple(tuple(sorted(layer)) for layer in layers), frozenset(found))


def _never_trained(expert: Expert) -> bool:
    """Return True if some norm of the expert was logged, and all were zero."""
    norm_T = expert["norm"]
    if (np.abs(norm_T) > 0).any():  # infinity counts, NaN does not
        return False
    tiers = expert.tiers
    return bool((norm_T == 0).any() or (tiers == 0).any()) and not (np.abs(tiers) > 0).any()


def phrase_of_untrained(each: Sequence[Untrained]) -> str:
    """Return how many experts were never trained in these runs, such as "2 of 4 experts"; empty if all were."""
    counts = {(one.count, one.of, len(one.layers) if one.by_layer else 0) for one in each}
    most, of, layers = max(counts, default=(0, 0, 0))
    if not most:
        return ""
    told = f"{most} of {of} experts"
    return f"up to {told}" if len(counts) > 1 else f"{told} in {layers} layers" if layers else told
