"""The check of a model before training: experts that are sharded inside, or differ in shape or by process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.errors import ModelError
from prismatic.experts.found import FoundExperts
from prismatic.experts.protocol import can_force, mixture_of, name_of, num_experts, roles_of, views_of
from prismatic.experts.tiers import is_sharded
from prismatic.experts.views import View, held_experts


def check_model(model: nn.Module, routers: Sequence[Any]) -> None:
    """Raise ModelError, in all processes, if a model would train wrongly or cannot be measured in one of them."""
    world().all_or_raise(lambda: _refuse(model, routers))
    # Each process measures a part of every layer, so all of them must hold the same layers.
    shapes = [
        [(e, name, tuple(view.shape)) for e in range(num_experts(router)) for name, view in views_of(router, e).items()]
        for router in routers
    ]
    odd = [rank for rank, other in enumerate(world().gather(shapes)) if other != shapes]
    if odd:
        raise ModelError(
            f"process {odd[0]} holds other routers than process {world().rank}. Only one model that is replicated "
            "(DDP) or sharded (FSDP2) can be measured, not a pipeline or a model per process."
        )
    _refuse_different_experts(routers)


def check_probe(routers: Sequence[Any]) -> None:
    """Raise ModelError if no layer can run one expert alone, so that the isolated probe would measure nothing."""
    if routers and not any(map(can_force, routers)):
        raise ModelError(f"{left_out_of_probe(routers)}; or leave probe_freq and pair_freq at 0.")


def left_out_of_probe(routers: Sequence[Any]) -> str | None:
    """Return which layers the isolated probe leaves out and what they need; None if it runs in all of them."""
    unable = [router for router in routers if not can_force(router)]
    if not unable:
        return None
    names = ", ".join(sorted({name_of(router) for router in unable})[:3])
    if all(isinstance(router, FoundExperts) for router in unable):
        remedy = "Describe how the layer is called by prismatic.register_experts, with a Call"
    else:
        remedy = "Give the layer `forced`: None, or the number of the expert that its forward then runs alone"
    return (
        f"the isolated probe leaves out {len(unable)} of {len(routers)} layers of experts ({names}), which cannot run "
        f"one expert alone. {remedy}"
    )


def _refuse_different_experts(routers: Sequence[Any]) -> None:
    """Refuse processes that hold different experts under the same names, as expert parallelism by hand does.

    Their sums would mix two experts into one.
    """
    if world().size == 1:
        return
    sums = [[_checksum(views_of(router, e)) for e in range(num_experts(router))] for router in routers]
    for rank, other in enumerate(world().gather(sums)):
        if other != sums:
            layer, expert = next(
                (n, e) for n, own in enumerate(sums) for e, each in enumerate(own) if other[n][e] != each
            )
            raise ModelError(
                f"process {rank} holds other weights than process {world().rank} as expert {expert} of layer {layer}: "
                "each has experts of its own, whose sums would be mixed. Store them as DTensors with Shard(0), so that "
                "their numbers are global; or wrap the model (DDP) before you attach, if the weights should be equal."
            )


def _checksum(views: Mapping[str, View]) -> int:
    """Return a sum of the weights that are whole in this process; 0 for sharded ones, whose numbers are global."""
    own = [view.of(view.parameter.detach()) for view in views.values() if not is_sharded(view.parameter)]
    return sum(_bits(weight) for weight in own if weight is not None)


def _bits(weight: Tensor) -> int:
    """Return the sum of the weights' bits as integers, which does not depend on the order of summation, nor on NaN."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return int(weight.contiguous().view(whole).sum(dtype=torch.int64))


def _refuse(model: nn.Module, routers: Sequence[Any]) -> None:
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ModelError(
            "FullyShardedDataParallel flattens a module's weights into one tensor, in which no expert can be found; "
            "use torch.distributed.fsdp.fully_shard (FSDP2)."
        )
    for router in routers:
        if isinstance(router, FoundExperts):
            _refuse_parts_of_experts(router)
        else:
            _refuse_sharding_inside(router)
        _refuse_different_shapes(router)
        _refuse_complex_weights(router)
        roles_of(router)
    mixture_of(routers)
    _refuse_different_names([router for router in routers if isinstance(router, FoundExperts)])


def _refuse_different_names(layers: Sequence[FoundExperts]) -> None:
    """Refuse layers in which the same number means another expert, as of adapters that are not in every layer."""
    named = [layer for layer in layers if layer.names is not None]
    for layer in named:
        if layer.names != named[0].names:
            raise ModelError(
                f"{layer.path} has the experts {', '.join(layer.names or ())}, and {named[0].path} has "
                f"{', '.join(named[0].names or ())}. Give every adapter the same target modules, in the same order."
            )


def _refuse_sharding_inside(router: nn.Module) -> None:
    """Refuse FSDP2 on a part of a router, which would silently train expert 0 alone."""
    sharded = [type(module).__name__ for module in router.modules() if module is not router and _is_fsdp_module(module)]
    if sharded:
        raise ModelError(
            f"fully_shard was applied to {sharded[0]} inside a router, which would train expert 0 alone; "
            "apply it to the router or to a module around it."
        )


def _refuse_parts_of_experts(router: FoundExperts) -> None:
    """Refuse sharding of a tensor of all experts that leaves a process with a part of one."""
    for view in router.views(0).values():
        if view.expert is not None and is_sharded(view.parameter):
            try:
                held_experts(view.parameter, view.experts)
            except ValueError as error:
                raise ModelError(
                    f"{router.path}.{view.name} is sharded inside its experts: {error}. Shard it along its first "
                    "dimension, with a number of processes that divides the number of experts."
                ) from None


def _refuse_different_shapes(router: Any) -> None:
    """Refuse experts that cannot be compared weight by weight."""
    shapes = [
        {name: tuple(view.shape) for name, view in views_of(router, e).items()} for e in range(num_experts(router))
    ]
    if not shapes[0]:
        raise ModelError(
            f"the experts of {type(router).__name__} have no parameters, so they have no gradients to log; "
            "attach the model whose experts are trained."
        )
    for expert, own in enumerate(shapes):
        if own != shapes[0]:
            odd = sorted(set(own.items()) ^ set(shapes[0].items()))[0]
            raise ModelError(
                f"expert {expert} has other weights than expert 0 ({odd[0]} of shape {odd[1]} in one of them only); "
                "only experts of the same shapes can be compared."
            )


def _refuse_complex_weights(router: Any) -> None:
    """Refuse experts with complex weights: no kernel reads the imaginary half of their gradients."""
    for name, view in views_of(router, 0).items():
        if view.parameter.is_complex():
            raise ModelError(
                f"{name} of the experts of {type(router).__name__} holds complex numbers, for which norms and tiers "
                "are not defined. Store the real and the imaginary part as a last dimension of 2, see "
                "torch.view_as_complex."
            )


def _is_fsdp_module(module: nn.Module) -> bool:
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)
