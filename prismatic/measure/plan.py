"""The plan of a layer's measurement: the views of its experts and the parts that this process counts.

It stays the same from step to step unless a parameter is exchanged, so it is made once: small models would pay more for
it than for reading their gradients.
Axis letter: E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from prismatic.collectives import World, world
from prismatic.experts.protocol import num_experts, parameters_of, tier_basis, views_of
from prismatic.experts.tiers import TierIndices
from prismatic.experts.views import View
from prismatic.measure.shards import Part, PartTiers, are_apart, parts_of


@dataclass(frozen=True, eq=False)
class Plan:
    """The tensors of a layer's experts, and the parts of them that this process counts."""

    parameters: Sequence[nn.Parameter]
    views: Sequence[Mapping[str, View]]
    """The tensors of each expert by name, [E]."""
    parts: Sequence[Sequence[Part]]
    """The part of each of them, [E]."""
    basis: str
    """See `tier_basis`."""
    fused: bool
    """True if a parameter holds the tensors of all experts."""
    fetching: bool
    """True if entries of an expert may have to come from another process."""
    world: World
    _tiers: dict[int, Sequence[PartTiers]] = field(default_factory=dict)

    @classmethod
    def of(cls, router: Any) -> Plan:
        """Return the plan of a layer, made again only if its parameters or the processes are others than before."""
        parameters, basis, processes = parameters_of(router), tier_basis(router), world()
        known = _KNOWN.get(router)
        if (
            known is not None
            and known.basis == basis
            and known.world is processes
            and len(known.parameters) == len(parameters)
            and all(map(is_, known.parameters, parameters))
        ):
            return known
        views = [views_of(router, e) for e in range(num_experts(router))]
        parts = [parts_of(own, compared=basis != "own") for own in views]
        fused = any(view.expert is not None for view in views[0].values())
        fetching = basis != "own" and are_apart(views[0])
        plan = cls(parameters, views, parts, basis, fused, fetching, processes)
        _KNOWN[router] = plan
        return plan

    @property
    def names(self) -> list[str]:
        """The names of the tensors of one expert."""
        return [*self.views[0]]

    def tiers(self, expert: int, tiers: TierIndices) -> Sequence[PartTiers]:
        """Return the tiers of each part of an expert."""
        known = self._tiers.get(expert, ())
        if not known or known[0].tiers is not tiers:
            known = self._tiers[expert] = [PartTiers(part, tiers) for part in self.parts[expert]]
        return known


_KNOWN: WeakKeyDictionary[Any, Plan] = WeakKeyDictionary()
