"""Training one model by several processes (torchrun): process groups, DDP, FSDP2, routing over the whole batch."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from prismatic.errors import ConfigError, PrismaticError
from prismatic.layer.router import Prismatic

Parallel = Literal["ddp", "fsdp2"]


@contextmanager
def process_group(parallel: Parallel | None, device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, yield the device of this one, and leave them at the end.

    Raises ConfigError for a missing device, and if `parallel` and the processes that were started do not match.
    """
    _require_torchrun(parallel)
    if parallel is None:
        yield _device(device)
        return
    local = _device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device)
    if local.type not in ("cpu", "cuda") or (device not in ("cpu", "cuda")):
        raise ConfigError(f"device = {device!r} cannot be shared by processes; use `device: cpu` or `device: cuda`.")
    if local.type == "cuda":
        torch.cuda.set_device(local)
    joins = not dist.is_initialized()
    if joins:
        if local.type == "cuda":
            dist.init_process_group("nccl", device_id=local)
        else:
            dist.init_process_group("gloo")
    try:
        yield local
    except PrismaticError:  # all processes raise it, and none is inside a collective
        if joins:
            dist.destroy_process_group()
        raise
    if joins:
        # Objects that use the group must go before it, and no process may leave while another communicates:
        # otherwise gloo sometimes aborts.
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def _require_torchrun(parallel: Parallel | None) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if not (number := os.environ.get(name, "0")).isdecimal():
            raise ConfigError(
                f"the environment has {name} = {number!r}, which is not a number. Unset it, or start with torchrun."
            )
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else os.environ.get("WORLD_SIZE")
    if parallel is None and int(count or 1) > 1:
        raise ConfigError(f"{count} processes were started to train one model; choose --parallel ddp or fsdp2.")
    if parallel is not None and count is None:
        raise ConfigError(
            f"--parallel {parallel} needs processes to share the work; start them with "
            "`torchrun --nproc-per-node=2 -m prismatic train ...`."
        )


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device = {name!r} cannot be used here ({error}); `device: cpu` always works.") from error


def parallelize(model: nn.Module, parallel: Parallel | None, device: torch.device) -> nn.Module:
    """Return the module to call in place of the model, so that all processes train it. FSDP2 shards each router."""
    if parallel is None:
        return model
    if parallel == "ddp":
        wrapper: Any = nn.parallel.DistributedDataParallel
        # Buffers need no sync: tiers are equal everywhere, shares belong to a process. torch 2.13 renamed it.
        known = inspect.signature(wrapper).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        ddp: nn.Module = wrapper(model, device_ids=[device] if device.type == "cuda" else None, **{sync: False})
        return ddp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for router in [module for module in model.modules() if isinstance(module, Prismatic)]:
        fully_shard(router, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def share_routing(model: nn.Module) -> None:
    """Route over the batches of all processes as over one batch: merging shares, load balancing, expert dropout.

    With a merge per sequence and neither of the others, nothing changes. From here on every forward pass of the model
    is a collective.
    """
    for module in model.modules():
        if isinstance(module, Prismatic):
            module.routes_together = True
