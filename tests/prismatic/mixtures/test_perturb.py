"""perturb: the documented perturbation on the experts of any mixture, in place, the same however they are stored."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prismatic
from prismatic import DynamicsLoggerCallback
from prismatic.errors import ConfigError, ModelError
from prismatic.experts.discovery import find_routers
from prismatic.experts.tiers import TierIndices
from prismatic.experts.treatment import treatment_of
from prismatic.integrations.model_facts import framework_seed
from prismatic.measure.gradients import measure
from prismatic.mixtures.canonical import canonical_names
from prismatic.mixtures.in_place import weights_of
from tests.support.experts_by_hand import cut_by_hand
from tests.support.mixtures import MIXTURES
from tests.support.run_file import facts, rows

TRANSPOSED = {"gpt-oss": ("gate", "up", "down"), "Llama 4": ("gate", "up", "down"), "DBRX": ("down",)}
STORED_ODDLY = ("Mixtral", "gpt-oss", "Llama 4", "DBRX", "JetMoE", "Switch")


class Layer(nn.Module):
    """A layer of the protocol, with its experts in a ModuleList."""

    def __init__(self, experts: list[nn.Module]):
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.routing_weights = None


def as_modules(model: nn.Module, transposed: tuple[str, ...]) -> nn.Module:
    """Return the same experts as linear layers in ModuleLists, with names of their own."""
    layers = []
    for layer in find_routers(model):
        experts = []
        for e in range(len(layer)):
            block = nn.Module()
            weights = weights_of(layer, e)
            for name, canonical in canonical_names(weights).items():
                part, _, kind = canonical.partition(".")
                linear = getattr(block, part, None) or nn.Linear(1, 1, bias=False)
                weight = weights[name].clone()
                weight = weight.T.contiguous() if part in transposed and weight.dim() == 2 else weight
                linear.register_parameter(kind or "weight", nn.Parameter(weight))
                setattr(block, part, linear)
            experts.append(block)
        layers.append(Layer(experts))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", STORED_ODDLY)
def test_the_noise_does_not_depend_on_how_experts_are_stored(name):
    model = MIXTURES[name].build()
    turned = TRANSPOSED.get(name, ())
    modules = as_modules(model, turned)
    for each in (model, modules):
        prismatic.perturb(each, scale=0.7, seed=3, control_experts=1)
    for fused, listed in zip(find_routers(model), find_routers(modules), strict=True):
        for e in range(len(fused)):
            others = weights_of(listed, e)
            known = {canonical: name for name, canonical in canonical_names(others).items()}
            for tensor, canonical in canonical_names(weights := weights_of(fused, e)).items():
                other = others[known[canonical]]
                turn = canonical in turned and other.dim() == 2
                assert torch.equal(weights[tensor], other.T if turn else other)
    assert treatment_of(fused).changed == treatment_of(listed).changed


@pytest.mark.parametrize("mode", ["noise", "attractive", "repulsive"])
def test_the_selected_weights_change_by_up_to_the_scale_and_no_others(mode):
    model = MIXTURES["Mixtral"].build()
    before = [[weights_of_copy(layer, e) for e in range(4)] for layer in find_routers(model)]
    assert prismatic.perturb(model, scale=0.5, sparsity=0.2, mode=mode, control_experts=1) is model
    for layer, olds in zip(find_routers(model), before, strict=True):
        for (e, old), limit in zip(enumerate(olds), (0.0, 0.5, 0.5, 0.001), strict=True):
            for name, weight in weights_of(layer, e).items():
                change = (weight - old[name]).abs()
                assert (change <= limit * old[name].abs() * (1 + 1e-5)).all()
                tiers = TierIndices.of(old, 0.2)[name]
                allowed = torch.zeros(weight.numel(), dtype=torch.bool)
                allowed[torch.cat([tiers.top, tiers.bottom])] = True
                assert not change.flatten()[~allowed].any()
                assert (change.flatten()[allowed] > 0).float().mean() == pytest.approx(0.0 if e == 0 else 1.0, abs=0.02)


def weights_of_copy(layer, expert: int) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in weights_of(layer, expert).items()}


def test_the_seed_decides_and_layers_and_experts_differ():
    def changes(seed: int) -> list[Tensor]:
        model = MIXTURES["Mixtral"].build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0).view(-1)[::2] = 2.0  # equal everywhere, so that only the noise can differ
        prismatic.perturb(model, seed=seed)
        return [weights_of(layer, e)["up_proj"].clone() for layer in find_routers(model) for e in (1, 2)]

    once, again, other = changes(1), changes(1), changes(2)
    assert all(map(torch.equal, once, again))
    assert not any(map(torch.equal, once, other))
    assert not any(torch.equal(once[0], each) for each in once[1:])


def test_attach_knows_the_roles_and_records_what_was_done(tmp_path):
    mixture = MIXTURES["Mixtral"]
    model = mixture.build()
    names, modules = list(model.state_dict()), [name for name, _ in model.named_modules()]
    prismatic.perturb(model, scale=0.5, seed=7, control_experts=2)
    assert (list(model.state_dict()), [name for name, _ in model.named_modules()]) == (names, modules)
    assert framework_seed(model, 9) == {"data_seed": 9}
    for number, each in enumerate((model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        path = tmp_path / f"{number}.db"
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        callback = DynamicsLoggerCallback(path, log_freq=1)
        callback.attach(each, optimizer, learning_rate=0.1)
        mixture.loss(each).backward()
        optimizer.step()
        callback.detach()
        experts = rows(path, "SELECT * FROM experts")
        assert [row["role"] for row in experts] == ["clean", "perturbed", "control", "control"]
        assert [row["scale"] for row in experts] == [0.0, 0.5, 0.001, 0.001]
        assert [row["seed"] for row in experts] == [None, 7, 7, 7]
        assert [row["changed_middle"] for row in experts] == [0, 0, 0, 0]
        assert [round(row["changed_bottom"], 1) for row in experts] == [0, 1, 1, 1]
        found = facts(path)
        assert found["config.perturbation_scale"] == 0.5
        assert (found["config.seed"], found["config.control_experts"], found["option.learning_rate"]) == (7, 2, 0.1)
        (row,) = rows(path)
        assert row["expert_1_direction"] is not None


def test_roles_that_contradict_the_record_are_refused(tmp_path):
    model = prismatic.perturb(MIXTURES["Mixtral"].build())
    callback = DynamicsLoggerCallback(tmp_path / "dynamics.db")
    with pytest.raises(ModelError, match=r"contradict .* Leave roles out"):
        callback.attach(model, torch.optim.SGD(model.parameters()), roles=["clean", "control", "control", "control"])


def test_tiers_are_of_the_weights_before_the_perturbation_of_each_expert():
    """Experts that began with weights of their own have tiers of their own, and are still compared with expert 0."""
    mixture = MIXTURES["Mixtral"]
    model = mixture.build()
    tiers = [[TierIndices.of(weights_of_copy(layer, e), 0.1) for e in range(4)] for layer in find_routers(model)]
    prismatic.perturb(model)
    mixture.loss(model).backward()
    layers = find_routers(model)
    for layer, measured, own in zip(layers, measure(layers), tiers, strict=True):
        clean = torch.cat([grad.flatten() for _, grad in cut_by_hand(layer, 0)]).double()
        for e, found in enumerate(measured):
            grads = [grad.flatten().double() for _, grad in cut_by_hand(layer, e)]
            bottoms = [grad[own[e][name].bottom] for grad, name in zip(grads, weights_of(layer, e), strict=True)]
            assert found.bottom_norm == pytest.approx(torch.cat(bottoms).norm().item(), rel=1e-6)
            assert found.norm == pytest.approx(torch.cat(grads).norm().item(), rel=1e-6)
            cosine = F.cosine_similarity(torch.cat(grads), clean, dim=0).item()
            assert found.gradient_cosine == pytest.approx(cosine, abs=1e-6)
            assert not found.peer


def copies_of_one() -> nn.Module:
    """Return a mixture whose experts are copies, as upcycling makes them."""
    model = MIXTURES["Mixtral"].build()
    with torch.no_grad():
        for layer in find_routers(model):
            for parameter in layer.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter))
    return model


def test_copies_share_their_tiers():
    model = copies_of_one()
    prismatic.perturb(model, scale=2.0)
    for layer in find_routers(model):
        treatment = treatment_of(layer)
        assert treatment.began_as_copies
        assert not any(torch.equal(weights_of(layer, 0)["up_proj"], weights_of(layer, e)["up_proj"]) for e in (1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale = -1.0"),
        ({"scale": float("nan")}, "scale = nan"),
        ({"sparsity": 1.0}, "sparsity = 1.0"),
        ({"mode": "loud"}, "mode = 'loud' is not allowed; it is one of noise, attractive, repulsive"),
        ({"strategy": "all"}, "strategy = 'all'"),
        ({"control_experts": 3}, "leaves none of 4 experts .* Use at most 2"),
        ({"control_experts": -1}, "control_experts = -1"),
        ({"seed": -1}, "seed = -1"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_before_anything_changes(options, message):
    model = copies_of_one()
    with pytest.raises(ConfigError, match=message):
        prismatic.perturb(model, **options)
    assert all(
        torch.equal(weights_of(layer, 0)["up_proj"], weights_of(layer, 3)["up_proj"]) for layer in find_routers(model)
    )


def of_integers() -> nn.Module:
    block = nn.Module()
    block.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int8), requires_grad=False)
    return block


def shared() -> nn.Module:
    block = nn.Linear(8, 8)
    return Layer([block, block])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(4, 4), "no layer of experts that is known, so nothing can be perturbed"),
        (lambda: prismatic.perturb(copies_of_one()), "were treated before .* Build the model again"),
        (shared, "experts 0 and 1 of Layer share the weights weight"),
        (lambda: Layer([nn.Linear(8, 8, device="meta") for _ in range(2)]), r"without values \(meta\)"),
        (lambda: Layer([of_integers(), of_integers()]), "is torch.int8"),
        (lambda: prismatic.Prismatic(nn.Linear(4, 4), 4), "perturbs its experts by its own config"),
    ],
    ids=["dense", "twice", "shared", "meta", "quantised", "Prismatic"],
)
def test_models_that_cannot_be_perturbed_are_refused(model, message):
    built = model()
    with pytest.raises(ModelError, match=message):
        prismatic.perturb(built)


@pytest.mark.long
@pytest.mark.parametrize("name", MIXTURES)
def test_every_layout_is_perturbed_in_place(name):
    model = MIXTURES[name].build()
    before = copy.deepcopy(model)
    prismatic.perturb(model, scale=1.0)
    experts = {
        id(view.parameter)
        for layer in find_routers(model)
        for e in range(1, len(layer))
        for view in layer.views(e).values()
    }
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old) == (id(new) not in experts), name
    for layer, old in zip(find_routers(model), find_routers(before), strict=True):
        assert all(torch.equal(weight, weights_of(old, 0)[name]) for name, weight in weights_of(layer, 0).items())
        assert all(
            not torch.equal(weight, weights_of(old, 1)[name])
            for name, weight in weights_of(layer, 1).items()
            if weight.dim() > 1
        )
