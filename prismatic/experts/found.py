"""FoundExperts: a layer of experts that a model has without knowing of us; its views, its routing, its forced expert.

It has what the rest of the package asks of a layer (see `protocol`), and belongs to no module: nothing of it is saved.
Axis letters: E experts, N tokens, K experts per token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prismatic.contract.schema import PEER
from prismatic.experts.tiers import TierIndices, gathered
from prismatic.experts.views import View, whole

SPARSITY = 0.1  # of layers that have no config


class Stored(NamedTuple):
    """The place where a model stores one tensor of all experts, or of one of them."""

    name: str
    owner: nn.Module
    attribute: str
    expert: int | None = None
    """The expert that the parameter belongs to; None if it holds the tensors of all of them."""
    piece: Callable[[Tensor], Tensor] = whole


class Routed(NamedTuple):
    """The decisions of a router for some tokens: the chosen experts and their weights, [N, K]; -1 is no expert."""

    index_NK: Tensor
    weight_NK: Tensor


class Call(ABC):
    """The way to a layer's routing: a hook that reads what the router decided, or makes it choose one expert."""

    @abstractmethod
    def install(self, layer: FoundExperts) -> list[RemovableHandle]:
        """Install the hooks; they call `layer.saw` and obey `layer.forced`."""

    @abstractmethod
    def run(self, layer: FoundExperts, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the output of the layer's forward for one call, with `layer.forced` and without its own hooks."""

    def switch(self, layer: FoundExperts, expert: int | None) -> None:  # noqa: B027
        """Prepare a layer whose expert is chosen before the call, and not by a hook; None prepares it for training."""


@dataclass(eq=False)
class FoundExperts:
    """A layer of experts of a model of others."""

    module: nn.Module
    """The module that is called with tokens and returns the mixture."""
    path: str
    """Its name in the model."""
    layout: str
    num_experts: int
    stored: Sequence[Stored]
    call: Call | None
    roles: Sequence[str] | None = None
    mixture: str = "top_k"
    """The kind of mixture, a name from `schema.MIXTURES`."""
    names: tuple[str, ...] | None = None
    """The names of the experts, if the model has some; they must be the same in all layers."""
    routing: RoutingTotals = field(init=False)
    _forced: int | None = None
    _watched: bool = False
    _handles: list[RemovableHandle] = field(default_factory=list)
    _tiers: list[TierIndices] = field(default_factory=list)
    _clean_tiers: TierIndices | None = None
    _shapes: dict[str, torch.Size] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.routing = RoutingTotals(self.num_experts)

    def __len__(self) -> int:
        return self.num_experts

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of the model, also a pickled one, is looked through again: it has none of this layer."""
        return type(None), ()

    def views(self, expert: int) -> dict[str, View]:
        """Return the tensors of one expert by name."""
        views = {}
        for name, owner, attribute, own, piece in self.stored:
            if own is None or own == expert:
                parameter = owner.get_parameter(attribute)
                if own is None:
                    view = View(name, parameter, expert, self.num_experts, piece, self._shapes.get(name))
                    self._shapes.setdefault(name, view.shape)
                else:
                    view = View(name, parameter)
                views[name] = view
        return views

    def expert_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that hold the experts, in a fixed order; one of several tensors is there repeatedly."""
        return [_parameter(stored.owner, stored.attribute) for stored in self.stored]

    def tiers_of(self, expert: int) -> TierIndices:
        """Return the tiers of an expert's weights when the layer was first measured: peers have tiers of their own.

        Of an expert that another process holds they are empty.
        """
        if not self._tiers:
            self._tiers.extend(self._ranked())
        return self._tiers[expert]

    def _ranked(self) -> Iterator[TierIndices]:
        for expert in range(self.num_experts):
            held = {name: view.of(view.parameter.detach()) for name, view in self.views(expert).items()}
            weights = {name: weight for name, weight in held.items() if weight is not None}
            yield TierIndices.of(weights, SPARSITY, saved=False)

    @property
    def clean_tiers(self) -> TierIndices:
        """The tiers of the first expert's weights when the layer was first measured, for experts with roles.

        Sharded weights are gathered, so every process must ask for them.
        """
        if self._clean_tiers is None:
            whole = {name: view.of(gathered(view.parameter.detach())) for name, view in self.views(0).items()}
            weights = {name: weight for name, weight in whole.items() if weight is not None}
            self._clean_tiers = TierIndices.of(weights, SPARSITY, saved=False)
        return self._clean_tiers

    @property
    def has_peers(self) -> bool:
        """True if nothing is said about the roles of the experts."""
        return self.roles is None or set(self.roles) == {PEER}

    @property
    def routing_weights(self) -> Tensor | None:
        """Each expert's share of the weights since the last step, [E]; None if no token was seen."""
        return self.routing.shares()

    # -- Routing ---------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Read what the router decides from now on."""
        self._watched = True
        self._install()

    def unwatch(self) -> None:
        """Remove all hooks."""
        self._watched = False
        self._remove()

    def _install(self) -> None:
        if self.call is not None and not self._handles:
            self._handles = self.call.install(self)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def saw(self, routed: Routed) -> None:
        """Add what the router decided for a batch of training."""
        if self._forced is None and self.module.training and torch.is_grad_enabled():
            self.routing.add(routed)

    @property
    def forced(self) -> int | None:
        """The expert that the layer runs alone, or None."""
        return self._forced

    @forced.setter
    def forced(self, expert: int | None) -> None:
        self._install()
        self._forced = expert
        if self.call is not None:
            self.call.switch(self, expert)
        if expert is None and not self._watched:
            self._remove()  # a probe of a model that nobody logs leaves no hook in it

    # -- As a module has it, for the comparison of outputs ---------------------------------------------------------

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the layer's module."""
        return self.module.parameters()

    def register_forward_pre_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Register a hook before a call of the layer."""
        return self.module.register_forward_pre_hook(hook, **options)

    def register_forward_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Register a hook after a call of the layer."""
        return self.module.register_forward_hook(hook, **options)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output for the forced expert, without the hooks of its module."""
        assert self.call is not None, "a layer without a known call cannot be forced"
        return self.call.run(self, args, kwargs)


def _parameter(owner: nn.Module, attribute: str) -> nn.Parameter:
    own = owner._parameters.get(attribute)
    return owner.get_parameter(attribute) if own is None else own


class RoutingTotals:
    """Sums of what a router decided since the last step: weight and tokens of each expert, over all micro-batches."""

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self._sums_2E: Tensor | None = None

    def add(self, routed: Routed) -> None:
        """Add the decisions for some tokens."""
        index = routed.index_NK.detach().reshape(-1)
        weight = routed.weight_NK.detach().reshape(-1)
        known = (index >= 0) & (index < self.experts)
        index, weight = index.clamp(0, self.experts - 1).long(), torch.where(known, weight, 0).double()
        sums = torch.zeros(2, self.experts, dtype=torch.float64, device=index.device)
        sums[0].index_add_(0, index, weight)
        sums[1].index_add_(0, index, known.double())
        self._sums_2E = sums if self._sums_2E is None else self._sums_2E.to(sums.device) + sums

    def take(self) -> Tensor | None:
        """Return the sums [2, E], weights and tokens, and begin anew; None if no token was seen."""
        sums, self._sums_2E = self._sums_2E, None
        return sums

    def peek(self) -> Tensor | None:
        """Return the sums without beginning anew."""
        return self._sums_2E

    def shares(self) -> Tensor | None:
        """Return each expert's share of the weights, [E]."""
        if self._sums_2E is None:
            return None
        weights = self._sums_2E[0]
        return weights / weights.sum()
