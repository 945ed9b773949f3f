"""The program that torchrun starts twice for test_expert_parallelism.py: experts that two processes share or hold.

    torchrun --nproc-per-node=2 --module tests.support.two_processes_experts FOLDER

Each case writes a run file into FOLDER, and each process what was refused into FOLDER/refused-{rank}.json.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.distributed import DistributedConfig
from transformers.distributed.expert_parallel import apply_expert_parallelism

import prismatic
from prismatic import DynamicsLoggerCallback
from prismatic.errors import ModelError
from tests.support.mixtures import MIXTURES, Mixture

STEPS = 2
Parallel = Callable[[nn.Module, Path], nn.Module]


def three_experts(name: str, option: str) -> Mixture:
    """Return a mixture whose experts two processes cannot divide."""
    mixture = MIXTURES[name]
    return replace(mixture, options={**mixture.options, option: 3}, experts=3)


def by_transformers(model: nn.Module, folder: Path) -> nn.Module:
    """Return the model as transformers loads it with its own plan: each process holds half of the experts."""
    if dist.get_rank() == 0:
        model.save_pretrained(folder / "saved")
    dist.barrier()
    plan = DistributedConfig(fsdp_size=2, ep_size=2)
    return type(model).from_pretrained(folder / "saved", distributed_config=plan).train()


def of_one_batch(model: nn.Module, folder: Path) -> nn.Module:
    """Hand out the experts by transformers' own function, among processes that share each batch."""
    mesh = init_device_mesh("cpu", (2,))
    plan: dict[str, str] = {}
    for name, module in model.named_modules():
        if name.endswith("mlp.experts"):
            plan |= {f"{name}.{own}": "grouped_gemm" for own, _ in module.named_parameters()}
            plan[name] = "ep_dispatch_experts"
    return apply_expert_parallelism(model, mesh, mesh, plan, "all_reduce")


def sharded(model: nn.Module, folder: Path) -> nn.Module:
    """Shard each block and the whole model by FSDP2."""
    mesh = init_device_mesh("cpu", (2,))
    for module in [m for m in model.modules() if type(m).__name__.endswith(("DecoderLayer", "DbrxBlock"))]:
        fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sharded_inside(model: nn.Module, folder: Path) -> nn.Module:
    """Shard the modules that hold the experts, and the whole model, by FSDP2."""
    mesh = init_device_mesh("cpu", (2,))
    for module in [m for m in model.modules() if type(m).__name__.endswith("Experts")]:
        fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def replicated(model: nn.Module, folder: Path) -> nn.Module:
    return DistributedDataParallel(model)


@dataclass(frozen=True)
class Case:
    """A mixture, how two processes train it, and the roles of its experts."""

    mixture: Mixture
    parallel: Parallel
    shared_batch: bool = False
    roles: tuple[str, ...] | None = None
    sequences: int = 4
    perturbed: bool = False


ROLES = ("clean", "perturbed", "perturbed", "control")
CASES = {
    "expert parallelism": Case(MIXTURES["Mixtral"], by_transformers),
    "expert parallelism with roles": Case(MIXTURES["Mixtral"], by_transformers, roles=ROLES),
    "expert parallelism of one batch": Case(MIXTURES["Mixtral"], of_one_batch, shared_batch=True, sequences=5),
    "fsdp2": Case(MIXTURES["Mixtral"], sharded),
    "fsdp2 with roles": Case(MIXTURES["Mixtral"], sharded, roles=ROLES),
    "fsdp2 of three experts": Case(three_experts("Mixtral", "num_local_experts"), sharded),
    "fsdp2 of interleaved experts": Case(MIXTURES["gpt-oss"], sharded),
    "fsdp2 of experts in rows": Case(MIXTURES["DBRX"], sharded),
    "fsdp2 of the experts": Case(MIXTURES["Mixtral"], sharded_inside),
    "ddp": Case(MIXTURES["Mixtral"], replicated),
    "ddp of interleaved experts": Case(MIXTURES["gpt-oss"], replicated),
    "ddp with roles": Case(MIXTURES["Mixtral"], replicated, roles=ROLES),
    "perturbed, expert parallelism": Case(
        MIXTURES["Mixtral"], of_one_batch, shared_batch=True, sequences=5, perturbed=True
    ),
    "perturbed, fsdp2": Case(MIXTURES["Mixtral"], sharded, perturbed=True),
    "perturbed, fsdp2 of interleaved experts": Case(MIXTURES["gpt-oss"], sharded, perturbed=True),
    "perturbed, ddp": Case(MIXTURES["Mixtral"], replicated, perturbed=True),
}


def loop(path: Path, case: Case, model: nn.Module, rows: slice = slice(None)) -> None:
    """Train with everything logged in every step; `rows` are the sequences of each batch that this process has."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, foreach=False)
    every = dict.fromkeys(("log_freq", "probe_freq", "weight_freq", "histogram_freq"), 1)
    callback = DynamicsLoggerCallback(path, **every)
    callback.on_train_begin(model, roles=case.roles)
    for step in range(STEPS):
        tokens = torch.randint(1, 60, (case.sequences, 12), generator=torch.Generator().manual_seed(step))[rows]
        batch = {"input_ids": tokens, "labels": tokens}
        optimizer.zero_grad()
        model(**batch).loss.backward()
        callback.on_before_optimizer_step(model, step, probe=(lambda each: inner(**each).loss, batch))
        optimizer.step()
    callback.on_train_end()


def build(case: Case) -> nn.Module:
    """Return the model with weights that are large enough for gradients of ordinary size."""
    model = case.mixture.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return prismatic.perturb(model, control_experts=1) if case.perturbed else model


class Local(nn.Module):
    """Experts as expert parallelism by hand stores them: each process holds its own under the same names."""

    def __init__(self, first: int):
        super().__init__()
        torch.manual_seed(first)
        self.w = nn.Parameter(torch.randn(2, 8, 8))

    def forward(self, x: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return torch.einsum("nd,ndf->nf", x, self.w[top_k_index[:, 0]])


def refusal(folder: Path, model: nn.Module) -> str:
    """Return the message that refuses the model."""
    try:
        DynamicsLoggerCallback(folder / "refused.db").on_train_begin(model)
    except ModelError as error:
        return str(error)
    return "not refused"


def perturbing(model: nn.Module) -> str:
    """Return the message that refuses to perturb the model."""
    try:
        prismatic.perturb(model)
    except ModelError as error:
        return str(error)
    return "not refused"


def everything(folder: Path) -> dict[str, Any]:
    rank = dist.get_rank()
    for name, case in CASES.items():
        model = case.parallel(build(case), folder)
        loop(folder / f"{name}.db", case, model, slice(None) if case.shared_batch else slice(2 * rank, 2 * rank + 2))
    thirds = Case(MIXTURES["DBRX"], sharded)
    config = {**thirds.mixture.options, "ffn_config": {**thirds.mixture.options["ffn_config"], "moe_num_experts": 3}}
    return {
        "local": refusal(folder, nn.Sequential(Local(first=rank))),
        "same": refusal(folder, nn.Sequential(Local(first=0))),
        "perturbing": perturbing(sharded(MIXTURES["Mixtral"].build(), folder)),
        "parts": refusal(folder, sharded(replace(thirds.mixture, options=config).build(), folder)),
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the libraries that load and save the model
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dist.init_process_group("gloo")
    target = Path(sys.argv[1])
    report = everything(target)
    (target / f"refused-{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()
