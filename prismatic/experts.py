"""What a mixture of experts says of itself: what it is, and what each of its experts is.

The verdict's words follow it, and what it may conclude: where parameters are merged once per batch all gradients are
parallel, where a router sends tokens they are not. Whether they are is measured all the same, never taken from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prismatic.errors import ModelError
from prismatic.schema import MIXTURES, ROLES


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
