"""The program that torchrun starts twice for test_parallel.py: all trainings and loops of two processes in one start.

    torchrun --nproc-per-node=2 --module tests.support.two_processes FOLDER

Each part writes its run file into FOLDER, and each process its report into FOLDER/seen-{rank}.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from prismatic import DynamicsLogger, DynamicsLoggerCallback, Prismatic, RouterConfig
from prismatic.cli import main
from prismatic.errors import LoggerError, ModelError
from prismatic.measure.gradients import log_gradient_dynamics
from prismatic.runfile.rank_zero import rank_zero_logger
from prismatic.train.corpus import Corpus

ROOT = Path(__file__).parents[2]
SHAPE = {"hidden_size": 16, "num_heads": 2, "sequence_length": 16, "num_experts": 2}
# The gradient of a key's bias is rounding error only; with this high sparsity no tier consists of it alone.
TINY = SHAPE | {"batch_size": 4, "log_freq": 1, "sparsity": 0.5}
CASES = {
    "batch": {"steps": 3, "load_balancing": 0.1, "expert_dropout": 0.3, "control_experts": 1},
    "example": {"steps": 3, "merge": "example", "max_grad_norm": 0.5, "tier_basis": "current"},
    # A sequence for each process: the halves of the probe's batch lie in different processes.
    "single": {"steps": 1, "merge": "example", "batch_size": 2},
}
FREQUENCIES = {"probe_freq": 2, "weight_freq": 2, "histogram_freq": 2}
RESUMED = {"steps": 8, "expert_dropout": 0.3, "warmup_steps": 4}
MICRO_BATCHES, STEPS = 2, 3


class Mixture(nn.Module):
    """A custom layer without tiers, whose bias is too small to give each process a part."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(7, 1) for _ in range(3))
        self.routing_weights = torch.full((3,), 1 / 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([expert(x).exp() for expert in self.experts]).mean(0)


class Network(nn.Module):
    """A Prismatic layer and a custom layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.router = Prismatic(nn.Linear(7, 7), 7, RouterConfig(num_experts=3, sparsity=0.3))
        self.mixture = Mixture()

    def forward(self, x: Tensor) -> Tensor:
        return self.mixture(torch.tanh(self.router(x)).mean(1))


def loss_of(model: nn.Module, batch: int) -> Tensor:
    """Return the loss of one micro-batch of one process, by its number."""
    x = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(batch))
    return (model(x) - 1).square().mean()


def own_loop(path: Path, model: nn.Module, batches: list[list[int]], last_only: Callable = lambda last: nullcontext()):
    """Run a plain loop with `attach`; `last_only` surrounds each micro-batch of a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    callback = DynamicsLoggerCallback(path, log_freq=1, weight_freq=2, histogram_freq=2)
    callback.attach(model, optimizer)
    for step in batches:
        optimizer.zero_grad()
        for number in step:
            with last_only(number == step[-1]):
                (loss_of(model, number) / len(step)).backward()
        optimizer.step()
    callback.detach()


def loop_under_ddp(path: Path, mine: list[list[int]]) -> None:
    ddp = DistributedDataParallel(Network())
    own_loop(path, ddp, mine, lambda last: nullcontext() if last else ddp.no_sync())


def loop_under_fsdp2(path: Path, mine: list[list[int]]) -> None:
    model, mesh = Network(), init_device_mesh("cpu", (2,))
    fully_shard(model.router, mesh=mesh)
    fully_shard(model, mesh=mesh)

    @contextlib.contextmanager
    def last_only(last: bool) -> Iterator[None]:
        model.set_requires_gradient_sync(last)
        yield

    own_loop(path, model, mine, last_only)


def loop_by_hand(path: Path, mine: list[list[int]]) -> None:
    model = DistributedDataParallel(Network())
    with rank_zero_logger(path) as logger:
        for step, numbers in enumerate(mine):
            model.zero_grad()
            loss_of(model, numbers[0]).backward()
            logger.log_dynamics(step, log_gradient_dynamics(model, step))


def a_logger_that_fails(path: Path, mine: list[list[int]]) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    log, DynamicsLogger.log = DynamicsLogger.log, full
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop_under_ddp(path, mine)
    DynamicsLogger.log = log


def a_process_that_cannot_measure(path: Path, mine: list[list[int]]) -> None:
    """Let the second process fail in its second step; both continue."""
    model = DistributedDataParallel(Network())
    callback = DynamicsLoggerCallback(path, log_freq=1)
    callback.on_train_begin(model)
    for step, numbers in enumerate(mine):
        model.zero_grad()
        loss_of(model, numbers[0]).backward()
        broken = dist.get_rank() == 1 and step == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gradient = (lambda weight: 1 / 0) if broken else (lambda weight: weight.grad)
            callback.on_before_optimizer_step(model, step, gradient=gradient)
    callback.on_train_end()


def refusals(path: Path) -> list[str]:
    """Return the kinds of errors that both processes must raise if one of them fails."""
    raised = []
    taken = path.with_name("no folder")
    taken.touch()
    different = nn.Sequential(Network()) if dist.get_rank() else nn.Sequential(Mixture())
    for attempt in (
        lambda: rank_zero_logger(taken / "dynamics.db"),
        lambda: DynamicsLoggerCallback(path).on_train_begin(different),
    ):
        try:
            attempt()
        except (LoggerError, ModelError) as error:
            raised.append(type(error).__name__)
    return raised


def the_documented_loop(folder: Path) -> None:
    text = (ROOT / "docs" / "distributed.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    with contextlib.chdir(folder):
        exec(compile(code, "docs/distributed.md", "exec"), {})


def train(folder: Path, name: str, mode: str, options: dict[str, object], *more: str) -> tuple[int, str]:
    """Run the command and return its exit code and what this process printed."""
    config = folder / "tiny.yml"
    sets = [f"{key}={value}" for key, value in options.items()]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        where = ["--config", str(config), "--runs", str(folder / name), "--parallel", mode]
        code = main(["train", *where, "--set", *sets, *more])
    return code, printed.getvalue()


def crash(folder: Path, name: str, mode: str) -> str:
    """Train until both processes crash at step 6; the last checkpoint is of step 4."""
    healthy = Corpus.batch

    def batch(corpus: Corpus, step: int, **options: object) -> Tensor:
        if step == 6:
            raise ZeroDivisionError("a crash")
        return healthy(corpus, step, **options)

    Corpus.batch = batch
    try:
        train(folder, name, mode, RESUMED, "--checkpoint-freq", "4")
    except ZeroDivisionError as error:
        return str(error)
    finally:
        Corpus.batch = healthy
    return "it did not crash"


def everything(folder: Path) -> dict[str, object]:
    rank = dist.get_rank()
    mine = [[MICRO_BATCHES * (2 * step + rank) + micro for micro in range(MICRO_BATCHES)] for step in range(STEPS)]
    seen: dict[str, object] = {}
    for mode in ("ddp", "fsdp2"):
        for case, options in CASES.items():
            seen[f"{mode} {case}"] = train(folder, f"{mode}-{case}", mode, options | FREQUENCIES)
    seen["again"] = train(folder, "ddp-batch", "ddp", CASES["batch"] | FREQUENCIES)
    seen["uneven"] = train(folder, "uneven", "ddp", {"batch_size": 3})
    seen["crash"] = crash(folder, "two-then-one", "fsdp2")
    for mode in ("ddp", "fsdp2"):
        more = ("--resume", "must", "--checkpoint-freq", "4")
        seen[f"resumed {mode}"] = train(folder, f"one-then-two-{mode}", mode, RESUMED, *more)
    loop_under_ddp(folder / "loop-ddp.db", mine)
    loop_under_fsdp2(folder / "loop-fsdp2.db", mine)
    loop_by_hand(folder / "loop-by-hand.db", mine)
    a_logger_that_fails(folder / "failing.db", mine)
    a_process_that_cannot_measure(folder / "unmeasured.db", mine)
    the_documented_loop(folder)
    seen["refused"] = refusals(folder / "refused.db")
    return seen


if __name__ == "__main__":
    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    target = Path(sys.argv[1])
    report = everything(target)
    (target / f"seen-{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()
