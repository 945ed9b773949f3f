"""attach finds the optimizer that trains the experts: alone, in a list, or in a wrapper."""

from __future__ import annotations

from pathlib import Path

import accelerate
import pytest
import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from prismatic import DynamicsLoggerCallback, Prismatic
from prismatic.errors import ConfigError
from prismatic.integrations.optimizers import optimizers_in
from tests.support.run_file import events, rows, steps


def network() -> nn.Module:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 8))
    return nn.Sequential(nn.Linear(8, 8), Prismatic(block, 8), nn.Linear(8, 1))


def loss_of(model: nn.Module, step: int = 0) -> Tensor:
    return model(torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(step))).square().mean()


def expert_norm(model: nn.Module) -> float:
    return torch.cat([p.grad.flatten() for p in model[1].experts[1].parameters()]).norm().item()


def logged_norms(path: Path) -> list[float]:
    return [row["norm"] for row in rows(path, "SELECT norm FROM layers WHERE expert = 1 ORDER BY step")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def attached(path: Path, model: nn.Module, optimizer: object) -> DynamicsLoggerCallback:
    callback = DynamicsLoggerCallback(path, log_freq=1)
    callback.attach(model, optimizer)
    return callback


def train(path: Path, model: nn.Module, given: object, *optimizers: object) -> list[float]:
    """Train for three steps of all optimizers, and return the norms that a loop by hand sees."""
    callback, norms = attached(path, model, given), []
    for step in range(3):
        loss_of(model, step).backward()
        norms.append(expert_norm(model))
        for each in optimizers:
            each.step()
        model.zero_grad()
    callback.detach()
    return norms


class Averaged:
    """A wrapper that is no Optimizer, as those of schedulefree: it moves the weights and then steps its base."""

    def __init__(self, base: torch.optim.Optimizer):
        self.base = base

    def step(self) -> None:
        with torch.no_grad():
            for group in self.base.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.999)
        self.base.step()


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is commonly written: two calls in a step, or one with a closure."""

    def __init__(self, parameters, rho: float = 0.05):
        super().__init__(parameters, {"rho": rho})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1)

    @torch.no_grad()
    def first_step(self) -> None:
        norm = torch.stack([p.grad.norm() for p in self._parameters()]).norm()
        for p in self._parameters():
            self.state[p]["old"] = p.clone()
            p.add_(p.grad * 0.05 / norm)
            p.grad = None

    @torch.no_grad()
    def second_step(self) -> None:
        for p in self._parameters():
            p.copy_(self.state[p]["old"])
        self.base_optimizer.step()

    def step(self, closure) -> Tensor:
        self.first_step()
        with torch.enable_grad():
            loss = closure()
        self.second_step()
        return loss

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]


def test_of_several_optimizers_the_one_that_trains_the_experts_is_logged(path: Path):
    model = network()
    first, second = (torch.optim.SGD(model[i].parameters(), lr=0.1 * (i + 1)) for i in (0, 1))
    norms = train(path, model, [first, second], first, second)
    assert logged_norms(path) == pytest.approx(norms, rel=1e-6)
    assert [row["learning_rate"] for row in rows(path)] == [0.2] * 3
    assert events(path) == []


def test_optimizers_that_share_the_experts_make_one_row_a_step(path: Path):
    model = network()
    matrices = torch.optim.SGD([p for p in model.parameters() if p.dim() == 2], lr=0.1)
    others = torch.optim.AdamW([p for p in model.parameters() if p.dim() != 2])
    norms = train(path, model, {"muon": matrices, "adam": others}, matrices, others)
    assert logged_norms(path) == pytest.approx(norms, rel=1e-6)
    assert (steps(path), events(path)) == ([0, 1, 2], [])


def test_a_wrapper_of_an_optimizer_is_looked_into(path: Path):
    model = network()
    wrapper = Averaged(torch.optim.AdamW(model.parameters()))
    norms = train(path, model, wrapper, wrapper)
    assert logged_norms(path) == pytest.approx(norms, rel=1e-6)
    assert steps(path) == [0, 1, 2]


@pytest.mark.parametrize("calls", ["two calls", "closure"])
def test_sharpness_aware_minimisation_is_logged_with_the_gradient_that_it_steps_by(path: Path, calls: str):
    model = network()
    optimizer = Sam(model.parameters())
    callback, norms = attached(path, model, optimizer), []
    for step in range(3):

        def again(step: int = step) -> Tensor:
            loss = loss_of(model, step)
            loss.backward()
            norms.append(expert_norm(model))
            return loss

        loss_of(model, step).backward()
        if calls == "closure":
            optimizer.step(again)
        else:
            optimizer.first_step()
            again()
            optimizer.second_step()
        model.zero_grad()
    callback.detach()
    assert logged_norms(path) == pytest.approx(norms, rel=1e-6)
    assert [row["loss"] is not None for row in rows(path)] == [calls == "closure"] * 3


def test_an_optimizer_without_the_experts_is_refused_and_leaves_no_lock(path: Path):
    model = network()
    with pytest.raises(ConfigError, match="no parameter of any expert is in SGD"):
        attached(path, model, torch.optim.SGD(model[0].parameters()))
    attached(path, model, torch.optim.SGD(model.parameters())).detach()


@pytest.mark.parametrize("given", ["AdamW", None, [], nn.Linear(2, 2)], ids=str)
def test_what_is_no_optimizer_is_refused(path: Path, given: object):
    with pytest.raises(ConfigError, match="is not an optimizer and holds none"):
        attached(path, network(), given)


def test_accelerates_wrapper_counts_for_the_optimizer_in_it():
    accelerate.Accelerator(cpu=True)  # whose state the wrapper asks for
    inner = torch.optim.SGD(network().parameters(), lr=0.1)
    assert optimizers_in([accelerate.optimizer.AcceleratedOptimizer(inner)]) == [inner]


def test_an_optimizer_that_finds_its_own_learning_rate_is_logged_without_one(path: Path):
    model = network()
    optimizer = Adafactor(model.parameters(), scale_parameter=True, relative_step=True, warmup_init=True, lr=None)
    norms = train(path, model, optimizer, optimizer)
    assert logged_norms(path) == pytest.approx(norms, rel=1e-6)
    assert [row["learning_rate"] for row in rows(path)] == [None] * 3
    assert events(path) == []


@pytest.mark.parametrize("several", [False, True], ids=["one optimizer", "one for each parameter"])
def test_an_optimizer_that_steps_inside_backward_is_an_event_and_no_row(path: Path, several: bool):
    model = network()
    each = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    whole = torch.optim.SGD(model.parameters(), lr=0.1)
    last = model[0].weight

    def step_now(parameter: Tensor) -> None:
        if several:
            each[parameter].step()
            parameter.grad = None
        elif parameter is last:
            whole.step()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step_now)
    callback = attached(path, model, each if several else whole)
    with pytest.warns(RuntimeWarning, match="steps inside backward"):
        loss_of(model).backward()
    loss_of(model, 1).backward()
    callback.detach()
    assert (steps(path), events(path)) == ([], [("step_in_backward", None)])


def test_a_failure_before_a_step_is_an_event_too(path: Path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = attached(path, model, optimizer)
    optimizer.param_groups[0]["lr"] = "fast"
    loss_of(model).backward()
    with pytest.warns(RuntimeWarning, match="were not logged"), pytest.raises(TypeError):
        optimizer.step()
    callback.detach()
    assert events(path) == [("measurement_failed", None)]
