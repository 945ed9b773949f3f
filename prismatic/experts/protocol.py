"""The protocol of a layer of experts (RoutedExperts): the attributes it must have, its roles, its kind of mixture.

The kind of mixture decides the words of the verdict and what it may conclude: if parameters are merged once per batch,
all gradients are parallel; if a router sends tokens, they are not. The gradients are still measured to find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from prismatic.contract.schema import MIXTURES, PEER, ROLES
from prismatic.errors import ModelError
from prismatic.experts.found import FoundExperts
from prismatic.experts.tiers import TierIndices
from prismatic.experts.treatment import base_tiers, treatment_of
from prismatic.experts.views import View

SPARSITY = 0.1  # of layers that have no config


class _ByAttributes(type(Protocol)):  # type: ignore[misc]
    """Lets isinstance ask an object for its attributes. Since Python 3.12 it would not see the modules of a module."""

    def __instancecheck__(cls, instance: object) -> bool:
        return hasattr(instance, "experts") and hasattr(instance, "routing_weights")


@runtime_checkable
class RoutedExperts(Protocol, metaclass=_ByAttributes):
    """The attributes that a layer needs to be measured. A Prismatic layer has them; so may any mixture of experts.

    experts: an nn.ModuleList of blocks of the same shapes; the others are compared to the first.
    routing_weights: Tensor [E], each expert's share of the last batch; None if nothing is routed.

    Optional attributes: `tiers` is a `TierIndices` that is saved with the model; without it, tiers are made from the
    first expert's weights when the layer is first seen, and a resumed run would make others. `mixture` and `roles` name
    the kind of mixture and the role of each expert. `forced` is the number of the expert that the layer must run alone
    for the isolated probe, or None.
    """

    @property
    def experts(self) -> nn.ModuleList: ...

    @property
    def routing_weights(self) -> Tensor | None: ...


_DERIVED_TIERS: WeakKeyDictionary[nn.Module, TierIndices] = WeakKeyDictionary()
_GIVEN_ROLES: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()
"""Roles that a callback was given for layers of the protocol that do not tell them."""


def num_experts(router: Any) -> int:
    """Return the number of experts of a layer."""
    return len(router) if isinstance(router, FoundExperts) else len(router.experts)


def name_of(router: Any) -> str:
    """Return the name of a layer for messages: its place in the model, or else its class."""
    return router.path if isinstance(router, FoundExperts) and router.path else type(router).__name__


def views_of(router: Any, expert: int) -> dict[str, View]:
    """Return the tensors of one expert of a layer, by name."""
    if isinstance(router, FoundExperts):
        return router.views(expert)
    return {name: View(name, parameter) for name, parameter in router.experts[expert].named_parameters()}


def parameters_of(router: Any) -> list[nn.Parameter]:
    """Return the parameters of a layer's experts, in a fixed order: faster than by their views."""
    if isinstance(router, FoundExperts):
        return router.expert_parameters()
    found: list[nn.Parameter] = []
    pending: list[nn.Module] = [router.experts]
    while pending:
        module = pending.pop()
        found += [parameter for parameter in module._parameters.values() if parameter is not None]
        pending += [child for child in module._modules.values() if child is not None]
    return found


def modules_of(router: Any) -> list[nn.Module]:
    """Return the modules that hold the experts of a layer; all of their parameters lie in these or below."""
    if isinstance(router, FoundExperts):
        return [*dict.fromkeys(stored.owner for stored in router.stored)]
    return [router.experts]


def has_peers(router: Any) -> bool:
    """Return whether nothing is said about the roles of a layer's experts, so that none is compared to the first."""
    return isinstance(router, FoundExperts) and router.has_peers


def can_force(router: Any) -> bool:
    """Return whether a layer can run one expert alone."""
    return router.call is not None if isinstance(router, FoundExperts) else hasattr(router, "forced")


def tiers_of(router: Any, expert: int = 0) -> TierIndices:
    """Return the tiers of an expert: those before it was perturbed, the layer's own, or those when it was first seen.

    Only peers, and experts that were perturbed without being copies, have tiers that differ from those of the first.
    """
    treatment = treatment_of(router)
    if treatment is not None and treatment.tiers:
        return base_tiers(treatment, expert, next(iter(views_of(router, expert).values())).parameter.device)
    if isinstance(router, FoundExperts):
        return router.tiers_of(expert) if router.has_peers else router.clean_tiers
    own = getattr(router, "tiers", None)
    if isinstance(own, TierIndices):
        return own
    if router not in _DERIVED_TIERS:
        _DERIVED_TIERS[router] = TierIndices.of(dict(router.experts[0].named_parameters()), SPARSITY, saved=False)
    return _DERIVED_TIERS[router]


def tier_basis(router: Any) -> str:
    """Return the weights that tiers are of: "base" (initial ones of the first expert), "current" (present ones of each
    expert), "own" (initial ones of each expert, for peers) or "each" (the same for experts with roles).
    """
    if has_peers(router):
        return "own"
    treatment = treatment_of(router)
    if treatment is not None and not treatment.began_as_copies:
        return "each"
    return getattr(getattr(router, "config", None), "tier_basis", "base")


def mixture_of(routers: Sequence[Any]) -> str | None:
    """Return the kind of mixture, a name from `schema.MIXTURES`; None if the layers name none or several.

    Raises ModelError for an unknown name.
    """
    names = [getattr(router, "mixture", None) for router in routers]
    for router, name in zip(routers, names, strict=True):
        if name is not None and name not in MIXTURES:
            known = ", ".join(MIXTURES)
            raise ModelError(f"{type(router).__name__}.mixture = {name!r} is not known; it is {known}, or absent.")
    return names[0] if names and len(set(names)) == 1 else None


def told_roles(router: Any) -> Sequence[str] | None:
    """Return the roles that a layer tells: as recorded when it was perturbed, or its `roles`; None if it tells none."""
    treatment = treatment_of(router)
    if treatment is not None:
        return treatment.roles
    return None if isinstance(router, FoundExperts) else getattr(router, "roles", None)


def give_roles(router: Any, roles: Sequence[str] | None) -> None:
    """Give a layer that does not tell them the roles of its experts; None takes back those given before.

    Raises ModelError if the layer tells other roles.
    """
    told = told_roles(router)
    if told is not None and roles is not None and list(told) != list(roles):
        raise ModelError(
            f"roles = {list(roles)} contradict the experts of {name_of(router)}, whose roles are known as "
            f"{list(told)}. Leave roles out, or give those."
        )
    if isinstance(router, FoundExperts):
        router.roles = roles if told is None else told
    elif roles is None:
        _GIVEN_ROLES.pop(router, None)
    else:
        _GIVEN_ROLES[router] = tuple(roles)


def roles_of(router: Any) -> list[str]:
    """Return the role of each expert, in order: as recorded when it was perturbed, the layer's `roles`, those that a
    callback was given, or else one clean expert and perturbed ones; peers, if others made the layer.

    Raises ModelError unless there is one known role per expert, and only the first is "clean".
    """
    told = told_roles(router)
    given = told if told is not None else router.roles if isinstance(router, FoundExperts) else _GIVEN_ROLES.get(router)
    experts = num_experts(router)
    if given is None:
        return [PEER] * experts if isinstance(router, FoundExperts) else ["clean"] + ["perturbed"] * (experts - 1)
    roles = list(given)
    if has_peers(router) and len(roles) == experts:
        return roles
    if len(roles) != experts or roles[0] != "clean" or "clean" in roles[1:] or not set(roles) <= set(ROLES):
        source = f"{name_of(router)}.roles" if told is not None else f"for {name_of(router)}, roles"
        raise ModelError(
            f"{source} = {roles!r} does not fit {experts} experts. Give each expert one of "
            f"{', '.join(ROLES)}; the first expert must be clean, and no other."
        )
    return roles
