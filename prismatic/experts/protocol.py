"""A mixture of experts: what a layer must have to be measured, and what it says of itself.

The verdict's words follow it, and what it may conclude: where parameters are merged once per batch all gradients are
parallel, where a router sends tokens they are not. Whether they are is measured all the same, never taken from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from prismatic.contract.schema import MIXTURES, ROLES
from prismatic.errors import ModelError
from prismatic.experts.tiers import TierIndices

SPARSITY = 0.1  # of routers that do not say themselves


@runtime_checkable
class RoutedExperts(Protocol):
    """What a layer must have to be measured: a Prismatic router is one, and so is any mixture of experts that has

    experts: an nn.ModuleList of blocks of the same shapes, the first of which the others are compared to;
    routing_weights: Tensor [E], each expert's share of the last batch; None where nothing is routed.

    Where the layer also has `tiers` (a `TierIndices`, saved with the model) they are used; otherwise they are made from
    the first expert's weights when the layer is first seen, and a resumed run would make others. `mixture` and `roles`
    say what it is and what its experts are; `forced`, which the layer then must obey, lets the
    isolated probe run one expert alone: its number, or None.
    """

    @property
    def experts(self) -> nn.ModuleList: ...

    @property
    def routing_weights(self) -> Tensor | None: ...


_TIERS_OF_OTHERS: WeakKeyDictionary[nn.Module, TierIndices] = WeakKeyDictionary()


def find_routers(model: nn.Module) -> list[Any]:
    """Every layer of the model that is routed over experts, wherever it is, in the order the model holds them."""
    # Asked for one attribute first: a protocol is slow to ask, and most modules have none of it.
    candidates = (module for module in model.modules() if hasattr(module, "experts"))
    return [module for module in candidates if isinstance(module, RoutedExperts) and len(module.experts) > 1]


def tiers_of(router: Any) -> TierIndices:
    """The router's own tiers, or those of the weights its first expert had when it was first seen."""
    own = getattr(router, "tiers", None)
    if isinstance(own, TierIndices):
        return own
    if router not in _TIERS_OF_OTHERS:
        _TIERS_OF_OTHERS[router] = TierIndices.of(dict(router.experts[0].named_parameters()), SPARSITY)
    return _TIERS_OF_OTHERS[router]


def tier_basis(router: RoutedExperts) -> str:
    """Whose weights the tiers are of: the first expert's at the start (base), or each expert's own of now."""
    return getattr(getattr(router, "config", None), "tier_basis", "base")


def mixture_of(routers: Sequence[Any]) -> str | None:
    """What these layers are, a name from `schema.MIXTURES`; None where they do not say, or are different things.

    Raises ModelError for a name that is not known.
    """
    told = [getattr(router, "mixture", None) for router in routers]
    for router, name in zip(routers, told, strict=True):
        if name is not None and name not in MIXTURES:
            known = ", ".join(MIXTURES)
            raise ModelError(f"{type(router).__name__}.mixture = {name!r} is not known; it is {known}, or absent.")
    return told[0] if told and len(set(told)) == 1 else None


def roles_of(router: Any) -> list[str]:
    """The role of each expert, in order: what the layer says in `roles`, else one clean expert and perturbed ones.

    Raises ModelError for roles that are not one per expert, are not known, or do not begin with the only clean one.
    """
    told = getattr(router, "roles", None)
    experts = len(router.experts)
    if told is None:
        return ["clean"] + ["perturbed"] * (experts - 1)
    roles = list(told)
    if len(roles) != experts or roles[0] != "clean" or "clean" in roles[1:] or not set(roles) <= set(ROLES):
        raise ModelError(
            f"{type(router).__name__}.roles = {roles!r} does not fit {experts} experts; expected one of "
            f"{', '.join(ROLES)} for each, the first and only the first clean: the others are compared to it."
        )
    return roles
