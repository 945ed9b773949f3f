"""Custom layers of experts: their mixture and roles, and that they are measured without being Prismatic layers."""

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prismatic import DynamicsLoggerCallback, RoutedExperts
from prismatic.contract.schema import PACKED_ABOVE, PACKED_TABLES
from prismatic.errors import ConfigError, ModelError
from prismatic.experts.discovery import find_routers
from prismatic.experts.protocol import mixture_of, roles_of
from prismatic.measure.gradients import measure
from prismatic.measure.isolated import isolated_dynamics
from tests.support.run_file import events, rows


class Small(nn.Module):
    """Experts whose outputs are mixed in equal parts."""

    def __init__(self, experts: int = 2, **attributes):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(20, 20) for _ in range(experts))
        self.routing_weights = torch.full((experts,), 1 / experts)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        if getattr(self, "forced", None) is not None:
            return self.experts[self.forced](x)
        return sum(expert(x) for expert in self.experts) / len(self.experts)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mixture": "soft"}, "mixture = 'soft' is not known; it is parameters, outputs, top_k, separate, or absent"),
        ({"roles": ["clean"]}, "does not fit 2 experts"),
        ({"roles": ["perturbed", "clean"]}, "the first expert must be clean, and no other"),
        ({"roles": ["clean", "treated"]}, "Give each expert one of clean, perturbed, control"),
    ],
)
def test_the_attributes_of_a_layer_are_checked_before_training(tmp_path: Path, attributes, message):
    layer = Small(**attributes)
    with pytest.raises(ModelError, match=re.escape(message)):
        DynamicsLoggerCallback(tmp_path / "x.db").attach(layer, torch.optim.SGD(layer.parameters(), lr=0.1))


ROLES = ["clean", "perturbed", "control"]


def logged(path: Path, layer: nn.Module, *, made: dict[str, Any], attached: dict[str, Any]) -> list[str]:
    """Return the roles in the run file of one logged step."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(path, **made)
    callback.attach(layer, optimizer, **attached)
    layer(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    callback.detach()
    return [row["role"] for row in rows(path, "SELECT role FROM experts ORDER BY expert")]


@pytest.mark.parametrize(
    "given", [{"made": {"roles": ROLES}, "attached": {}}, {"made": {}, "attached": {"roles": ROLES}}]
)
def test_roles_that_are_given_are_those_of_a_layer_that_does_not_tell_them(tmp_path: Path, given):
    layer = Small(experts=3)
    assert logged(tmp_path / "x.db", layer, **given) == ROLES
    assert roles_of(layer) == ROLES  # also of what is measured later by hand
    assert logged(tmp_path / "later.db", layer, made={}, attached={}) == ["clean", "perturbed", "perturbed"]


@pytest.mark.parametrize("made", [{}, {"roles": tuple(ROLES)}])
def test_a_layer_that_tells_its_roles_keeps_them(tmp_path: Path, made):
    assert logged(tmp_path / "x.db", Small(experts=3, roles=ROLES), made=made, attached={}) == ROLES


@pytest.mark.parametrize(
    ("attributes", "roles", "message"),
    [
        ({}, ROLES[:2], "for Small, roles = ['clean', 'perturbed'] does not fit 3 experts. Give each expert one of"),
        ({}, ["peer"] * 3, "does not fit 3 experts"),
        (
            {"roles": ROLES},
            ["clean", "control", "control"],
            "contradict the experts of Small, whose roles are known as",
        ),
    ],
)
def test_roles_that_do_not_fit_a_layer_are_refused_at_attach(tmp_path: Path, attributes, roles, message):
    for number, (made, attached) in enumerate([({"roles": roles}, {}), ({}, {"roles": roles})]):
        with pytest.raises(ModelError, match=re.escape(message)):
            logged(tmp_path / f"{number}.db", Small(experts=3, **attributes), made=made, attached=attached)


def test_a_module_keeps_the_protocol_by_what_it_has_and_not_by_what_its_class_says(monkeypatch):
    # Since Python 3.12 isinstance looks attributes up like this, which finds no module of a module.
    monkeypatch.setattr(typing, "hasattr", has_statically, raising=False)
    assert not has_statically(Small(), "experts")
    assert isinstance(Small(), RoutedExperts)
    assert not isinstance(nn.Linear(2, 2), RoutedExperts)
    assert find_routers(nn.Sequential(layer := Small())) == [layer]


def has_statically(instance: object, name: str) -> bool:
    return inspect.getattr_static(instance, name, None) is not None


def test_layers_of_different_kinds_have_no_common_mixture():
    assert mixture_of([Small(mixture="outputs"), Small(mixture="outputs")]) == "outputs"
    assert mixture_of([Small(mixture="outputs"), Small(mixture="top_k")]) is None
    assert mixture_of([Small(mixture="outputs"), Small()]) is None
    assert mixture_of([]) is None
    assert roles_of(Small()) == ["clean", "perturbed"]


def test_the_isolated_probe_measures_a_layer_that_obeys_forced():
    layer, batch = Small(forced=None), torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    (experts,) = isolated_dynamics(layer, lambda x: layer(x).square().mean(), batch).layers
    for expert, dynamics in enumerate(experts):
        alone = torch.autograd.grad(layer.experts[expert](batch).square().mean(), [*layer.experts[expert].parameters()])
        assert dynamics.norm == pytest.approx(torch.cat([g.flatten() for g in alone]).norm().item(), rel=1e-5)
    assert layer.forced is None
    assert isolated_dynamics(Small(), lambda x: layer(x).square().mean(), batch)[:2] == ([], [])


PROBED = {"log_freq": 1, "probe_freq": 1}


def probe_of(model: nn.Module) -> dict[str, Any]:
    return {"probe": lambda: (lambda x: model(x).square().mean(), torch.ones(2, 20))}


def test_a_probe_that_can_run_in_no_layer_is_refused_at_attach(tmp_path: Path):
    layer = Small()
    message = "leaves out 1 of 1 layers of experts (Small), which cannot run one expert alone. Give the layer `forced`"
    with pytest.raises(ModelError, match=re.escape(message)):
        logged(tmp_path / "x.db", layer, made=PROBED, attached=probe_of(layer))


def test_a_planned_probe_that_is_not_given_is_refused_at_attach(tmp_path: Path):
    with pytest.raises(ConfigError, match="attach got no `probe`"):
        logged(tmp_path / "x.db", Small(forced=None), made=PROBED, attached={})


@pytest.mark.parametrize("experts", [2, PACKED_ABOVE + 1])
def test_a_layer_that_the_probe_leaves_out_is_a_warning_and_an_event(tmp_path: Path, experts: int):
    model = nn.Sequential(Small(experts=experts), Small(experts=experts, forced=None))
    with pytest.warns(RuntimeWarning, match="leaves out 1 of 2 layers"):
        logged(tmp_path / "x.db", model, made=PROBED, attached=probe_of(model))
    assert events(tmp_path / "x.db") == [("probe_left_out", None)]
    layers, pairs = PACKED_TABLES if experts <= PACKED_ABOVE else PACKED_TABLES.values()
    for probed in (f"{layers} WHERE source = 'isolated'", pairs):
        assert rows(tmp_path / "x.db", f"SELECT DISTINCT layer FROM {probed}") == [{"layer": 1}]


def test_a_probe_that_is_due_without_a_loss_is_one_warning_and_one_event(tmp_path: Path):
    layer = Small(forced=None)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", **PROBED)
    callback.on_train_begin(layer)
    layer(torch.ones(1, 20)).sum().backward()
    with pytest.warns(RuntimeWarning, match="has no loss and no batch"):
        callback.on_before_optimizer_step(layer, 0)
    callback.on_before_optimizer_step(layer, 1)
    callback.on_train_end()
    assert events(tmp_path / "x.db") == [("no_probe", 0)]


def test_a_probe_that_is_given_and_never_due_is_a_warning_and_an_event(tmp_path: Path):
    layer = Small(forced=None)
    with pytest.warns(RuntimeWarning, match="probe_freq and pair_freq are 0"):
        logged(tmp_path / "x.db", layer, made={}, attached=probe_of(layer))
    assert events(tmp_path / "x.db") == [("probe_never_due", None)]


def test_layers_with_and_without_shares_are_measured_together():
    routed, alone = Small(), Small(routing_weights=None)
    (routed(torch.ones(1, 20)) + alone(torch.ones(1, 20))).sum().backward()
    layers = measure([routed, alone])
    assert [[expert.routing_weight for expert in experts] for experts in layers] == [[0.5, 0.5], [None, None]]
