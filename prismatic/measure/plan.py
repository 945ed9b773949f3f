"""The plan of a layer's measurement: the views of its experts and the parts that this process counts.

It stays the same from step to step unless a parameter is exchanged, so it is made once: small models would pay more for
it than for reading their gradients.
Axis letters: P tensors of an expert, E experts, R = P x E tensors of a layer, all experts' of the first one first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from prismatic.collectives import World, world
from prismatic.errors import ModelError
from prismatic.experts.protocol import modules_of, num_experts, tier_basis, views_of
from prismatic.experts.tiers import TierIndices
from prismatic.experts.views import View
from prismatic.measure.kernels import COLUMNS
from prismatic.measure.shards import Part, PartTiers, are_apart, entries_of, parts_of

Gradients = Sequence[Tensor | None]
"""A gradient, or None, of each tensor of a layer, [R]."""


class Tree:
    """The parameters and modules below some modules, to see whether one was exchanged without walking again."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        inside = dict.fromkeys(module for root in modules for module in root.modules())
        self._holders: list[dict[str, Any]] = [
            held for module in inside for held in (module._parameters, module._modules)
        ]
        self._held = self._values()

    def is_unchanged(self) -> bool:
        """Return whether every module has the parameters and modules that it had."""
        now = self._values()
        return len(now) == len(self._held) and all(map(is_, now, self._held))

    def _values(self) -> list[Any]:
        return [*chain.from_iterable(map(dict.values, self._holders))]


@dataclass(frozen=True, eq=False)
class Plan:
    """The tensors of a layer's experts, and the parts of them that this process counts."""

    modules: Sequence[nn.Module]
    """The modules that hold the experts."""
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
    tree: Tree
    _tiers: dict[int, Sequence[PartTiers]] = field(default_factory=dict)

    @classmethod
    def of(cls, router: Any) -> Plan:
        """Return the plan of a layer, made again only if its parameters or the processes are others than before."""
        return cls._of(router, world())

    @classmethod
    def _of(cls, router: Any, processes: World) -> Plan:
        modules, basis, known = modules_of(router), tier_basis(router), _KNOWN.get(router)
        if (
            known is not None
            and known.basis == basis
            and known.world is processes
            and all(map(is_, known.modules, modules))
            and known.tree.is_unchanged()
        ):
            return known
        views = [views_of(router, e) for e in range(num_experts(router))]
        parts = [parts_of(own, compared=basis != "own") for own in views]
        fused = any(view.expert is not None for view in views[0].values())
        fetching = basis != "own" and are_apart(views[0])
        plan = cls(modules, views, parts, basis, fused, fetching, processes, Tree(modules))
        _KNOWN[router] = plan
        return plan

    @cached_property
    def names(self) -> list[str]:
        """The names of the tensors of one expert."""
        return [*self.views[0]]

    @cached_property
    def experts(self) -> int:
        """The number of experts."""
        return len(self.views)

    @cached_property
    def views_R(self) -> Sequence[View]:
        """The tensors of all experts; ModelError if one has other tensors than the first, as after a replacement."""
        for expert, own in enumerate(self.views):
            if [*own] != self.names:
                odd = sorted({*own} ^ {*self.names}) or self.names
                raise ModelError(
                    f"expert {expert} has other tensors than expert 0, or the same in another order (see {odd[0]}). "
                    "Only experts of the same shapes can be compared: replace all of them alike."
                )
        return [view for of_name in zip(*(own.values() for own in self.views), strict=True) for view in of_name]

    @cached_property
    def parameters(self) -> Sequence[nn.Parameter]:
        """The parameter of each tensor, [R]; one that holds several tensors is there repeatedly."""
        return [view.parameter for view in self.views_R]

    @cached_property
    def sums(self) -> int:
        """The number of rows of sums that count: one for each gradient, or for each by the tiers of each expert."""
        return len(self.views_R) * (self.experts if self.basis == "current" else 1)

    @cached_property
    def numbers(self) -> int:
        """The number of numbers that the processes add up: these sums, and three for the routing of each expert."""
        return self.sums * COLUMNS + 3 * self.experts

    @cached_property
    def _is_whole(self) -> bool:
        """True if this process counts every tensor whole, and each is a parameter."""
        return all(part.is_whole and part.view.expert is None for own in self.parts for part in own)

    def entries(self, grads_R: Gradients) -> Gradients:
        """Return the entries of each gradient that this process counts, as they are stored."""
        if self._is_whole and not any(grad is not None and grad.is_sparse for grad in grads_R):
            return grads_R
        entries_EP = [
            entries_of(parts, dict(zip(self.names, grads_R[expert :: self.experts], strict=True)), stored=True)
            for expert, parts in enumerate(self.parts)
        ]
        return [entry for of_name in zip(*entries_EP, strict=True) for entry in of_name]

    def missing(self, grads_R: Gradients) -> list[int]:
        """Return, per expert, the number of trained parameters that have no gradient and are not held elsewhere."""
        if not any(grad is None for grad in grads_R):
            return [0] * self.experts
        return [
            sum(
                grad is None and part.view.parameter.requires_grad and part.held is not False
                for grad, part in zip(grads_R[expert :: self.experts], parts, strict=True)
            )
            for expert, parts in enumerate(self.parts)
        ]

    def tiers(self, expert: int, tiers: TierIndices) -> Sequence[PartTiers]:
        """Return the tiers of each part of an expert."""
        known = self._tiers.get(expert, ())
        if not known or known[0].tiers is not tiers:
            known = self._tiers[expert] = [PartTiers(part, tiers) for part in self.parts[expert]]
        return known


def plans_of(routers: Sequence[Any]) -> list[Plan]:
    """Return the plan of each layer."""
    processes = world()
    return [Plan._of(router, processes) for router in routers]


_KNOWN: WeakKeyDictionary[Any, Plan] = WeakKeyDictionary()
