"""The check of a model before training: it refuses sharding inside a layer (FSDP) and experts of different shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from prismatic.collectives import world
from prismatic.errors import ModelError
from prismatic.experts.protocol import mixture_of, roles_of


def check_model(model: nn.Module, routers: Sequence[Any]) -> None:
    """Raise ModelError, in all processes, if a model would train wrongly or cannot be measured in one of them."""
    world().all_or_raise(lambda: _refuse(model, routers))
    # Each process measures a part of every layer, so all of them must hold the same layers.
    shapes = [[(name, tuple(p.shape)) for name, p in router.experts.named_parameters()] for router in routers]
    odd = [rank for rank, other in enumerate(world().gather(shapes)) if other != shapes]
    if odd:
        raise ModelError(
            f"process {odd[0]} holds other routers than process {world().rank}. Only one model that is replicated "
            "(DDP) or sharded (FSDP2) can be measured, not a pipeline or a model per process."
        )


def _refuse(model: nn.Module, routers: Sequence[Any]) -> None:
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ModelError(
            "FullyShardedDataParallel flattens a module's weights into one tensor, in which no expert can be found; "
            "use torch.distributed.fsdp.fully_shard (FSDP2)."
        )
    for router in routers:
        _refuse_sharding_inside(router)
        _refuse_different_shapes(router)
        roles_of(router)
    mixture_of(routers)


def _refuse_sharding_inside(router: nn.Module) -> None:
    """Refuse FSDP2 on a part of a router, which would silently train expert 0 alone."""
    sharded = [type(module).__name__ for module in router.modules() if module is not router and _is_fsdp_module(module)]
    if sharded:
        raise ModelError(
            f"fully_shard was applied to {sharded[0]} inside a router, which would train expert 0 alone; "
            "apply it to the router or to a module around it."
        )


def _refuse_different_shapes(router: Any) -> None:
    """Refuse experts that cannot be compared weight by weight."""
    shapes = [{name: tuple(p.shape) for name, p in expert.named_parameters()} for expert in router.experts]
    for expert, own in enumerate(shapes):
        if own != shapes[0]:
            odd = sorted(set(own.items()) ^ set(shapes[0].items()))[0]
            raise ModelError(
                f"expert {expert} has other weights than expert 0 ({odd[0]} of shape {odd[1]} in one of them only); "
                "only experts of the same shapes can be compared."
            )


def _is_fsdp_module(module: nn.Module) -> bool:
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)
