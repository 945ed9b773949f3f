"""How processes train one model: started by torchrun, the model spread over them, one of them writing."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from prismatic.collectives import world
from prismatic.errors import ConfigError, PrismaticError
from prismatic.layer.router import Prismatic
from prismatic.runfile.logger import DynamicsLogger, UnwrittenLogger

Parallel = Literal["ddp", "fsdp2"]


def shared_logger(logger: DynamicsLogger | Path | str, *, mirror: object = None, **options: Any) -> DynamicsLogger:
    """A DynamicsLogger in the first process, and in the others one that takes the same calls and writes nothing.

    logger: the path of the run file; where there is a logger already, it is taken. Every process must call it.
    Raises LoggerError in all of them where the file cannot be written, ConfigError for a mirror that is no tracker.
    """
    processes = world()
    kind = UnwrittenLogger if processes.rank else DynamicsLogger

    def opened() -> DynamicsLogger:
        if not isinstance(logger, DynamicsLogger):
            return kind(logger, mirror=mirror, **options)
        if mirror is not None:
            logger.mirror_to(mirror)
        return logger

    return processes.all_or_raise(opened)


@contextmanager
def started(parallel: Parallel | None, device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started and leave them at the end; gives the device of this one.

    Raises ConfigError for a device that is not there, for processes that nobody started or that are not asked for.
    """
    _require_torchrun(parallel)
    if parallel is None:
        yield _device(device)
        return
    own = _device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device)
    if own.type not in ("cpu", "cuda") or (device not in ("cpu", "cuda")):
        raise ConfigError(f"device = {device!r} cannot be shared by processes; use `device: cpu` or `device: cuda`.")
    if own.type == "cuda":
        torch.cuda.set_device(own)
    joins = not dist.is_initialized()
    if joins:
        if own.type == "cuda":
            dist.init_process_group("nccl", device_id=own)
        else:
            dist.init_process_group("gloo")
    try:
        yield own
    except PrismaticError:  # all of them raise it, and none is in the middle of anything
        if joins:
            dist.destroy_process_group()
        raise
    if joins:
        # What hangs on the group must be gone before it is, and no process may leave while another still talks:
        # gloo aborts otherwise, now and then.
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def _require_torchrun(parallel: Parallel | None) -> None:
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else os.environ.get("WORLD_SIZE")
    if parallel is None and int(count or 1) > 1:
        raise ConfigError(f"{count} processes were started to train one model; say how: --parallel ddp or fsdp2.")
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


def wrapped(model: nn.Module, parallel: Parallel | None, device: torch.device) -> nn.Module:
    """What to call in place of the model so that all processes train it; the experts' routers are the units."""
    if parallel is None:
        return model
    if parallel == "ddp":
        wrapper: Any = nn.parallel.DistributedDataParallel
        # The buffers are tiers and shares: the same everywhere, or of the process itself. torch 2.13 renamed it.
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
    """Route over the batches of all processes as over one: what a batch decides, it decides as a whole.

    That is the mean by which `merge: batch` merges, the loads that are balanced, and which experts are dropped; with a
    merge per sequence and neither of the others, nothing. From here on every forward pass of the model is a collective.
    """
    for module in model.modules():
        if isinstance(module, Prismatic):
            module.routes_together = True
