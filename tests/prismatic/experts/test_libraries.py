"""Mixtures of other libraries than transformers are found by structure, and measured as their own code runs them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mixture_of_experts
import pytest
import soft_moe_pytorch
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from prismatic import DynamicsLoggerCallback, register_experts
from prismatic.errors import ModelError
from prismatic.experts.discovery import describe, find_routers, nothing_found
from prismatic.experts.found import FoundExperts
from prismatic.experts.layouts import OWN
from prismatic.experts.layouts.ensemble import ensemble
from prismatic.experts.protocol import can_force, mixture_of
from prismatic.measure.gradients import measure
from prismatic.measure.isolated import isolated_dynamics
from tests.prismatic.experts.test_mixtures import slow_norms
from tests.support.mixtures import MIXTURES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of beartype, about the annotations of the library
    import st_moe_pytorch

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it

Matrices = list[tuple[Tensor, Tensor]]


def pair(parameter: Tensor, expert: int | None = None) -> tuple[Tensor, Tensor]:
    """Return a weight and its gradient, of one expert if the tensor holds all of them."""
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return (parameter.detach(), grad) if expert is None else (parameter.detach()[expert], grad[expert])


class Block(nn.Module):
    """A mixture between two linear layers, as a part of a model."""

    def __init__(self, moe: nn.Module):
        super().__init__()
        self.before, self.moe, self.after = nn.Linear(8, 16), moe, nn.Linear(16, 1)

    def forward(self, x_BND: Tensor) -> Tensor:
        output = self.moe(torch.tanh(self.before(x_BND)))
        return self.after(output if isinstance(output, Tensor) else output[0])


def lora() -> nn.Module:
    """Return a small Llama with four adapters, of which the last one added is active."""
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    options = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.2)
    model = get_peft_model(transformers.LlamaForCausalLM(config), options, adapter_name="first")
    for name in ("second", "third", "fourth"):
        model.add_adapter(name, options)
    return model.train()


class Ensemble(nn.Module):
    """Four networks, stacked by `torch.func.stack_module_state` and run under `vmap`."""

    def __init__(self):
        super().__init__()
        networks = [nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 1)) for _ in range(4)]
        parameters, _ = torch.func.stack_module_state(networks)
        self.stacked = nn.ParameterDict({name.replace(".", "_"): value for name, value in parameters.items()})
        self.base = [networks[0].to("meta")]  # in a list, so that it is no part of the model

    def forward(self, x_BND: Tensor) -> Tensor:
        named = {name.replace("_", "."): value for name, value in self.stacked.items()}
        return torch.vmap(lambda own: torch.func.functional_call(self.base[0], own, (x_BND,)))(named).mean(0)


@dataclass(frozen=True)
class Library:
    """The way to build a model, to cut an expert of a layer out by hand, and what is known of its layers."""

    build: Callable[[], nn.Module]
    cut: Callable[[Any, int], Matrices]
    layers: int = 1
    mixture: str = "top_k"
    routed: bool = True
    forced: bool = True

    def made(self) -> nn.Module:
        """Return the model in training, with random weights: constant ones, such as a norm's, would have no tiers."""
        torch.manual_seed(0)
        model = self.build().train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape))
        return model

    def loss(self, model: nn.Module, x_BND: Tensor) -> Tensor:
        """Return the loss of a batch."""
        if "Peft" in type(model).__name__:
            tokens = (x_BND[..., 0].abs() * 20).long().clamp(max=60)
            return model(input_ids=tokens, labels=tokens).loss
        return (model(x_BND) - 1).square().mean()


def blocks(home: Callable[[Any], nn.ModuleList]) -> Callable[[Any, int], Matrices]:
    return lambda module, expert: [pair(p) for p in home(module)[expert].parameters()]


LIBRARIES = {
    "st-moe-pytorch": Library(
        lambda: Block(st_moe_pytorch.MoE(dim=16, num_experts=4, is_distributed=False)),
        blocks(lambda module: module.experts.experts),
    ),
    "soft-moe-pytorch": Library(
        lambda: Block(soft_moe_pytorch.SoftMoE(dim=16, num_slots=2, num_experts=4)),
        blocks(lambda module: module.experts.experts),
        mixture="outputs",
        routed=False,
    ),
    "mixture-of-experts": Library(
        lambda: Block(mixture_of_experts.MoE(dim=16, num_experts=4)),
        lambda module, expert: [pair(module.experts.w1, expert), pair(module.experts.w2, expert)],
    ),
    "peft": Library(
        lora,
        lambda module, expert: [
            pair(home[("first", "second", "third", "fourth")[expert]].weight) for home in (module.lora_A, module.lora_B)
        ],
        layers=4,
        mixture="separate",
        routed=False,
    ),
    "stack_module_state": Library(
        Ensemble,
        lambda module, expert: [pair(p, expert) for p in module.values()],
        mixture="separate",
        routed=False,
        forced=False,
    ),
}


def batch(seed: int = 1) -> Tensor:
    return torch.randn(4, 12, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=LIBRARIES)
def trained(request: pytest.FixtureRequest) -> tuple[Library, nn.Module, list[FoundExperts]]:
    """A model after the backward passes of two micro-batches; each adapter has seen one."""
    library = LIBRARIES[request.param]
    model = library.made()
    layers = find_routers(model)
    for layer in layers:
        layer.watch()
    for step in range(2):
        if request.param == "peft":
            model.set_adapter(("second", "fourth")[step])
        library.loss(model, batch(step)).backward()
    return library, model, layers


def test_every_layer_is_found(trained):
    library, model, layers = trained
    assert [len(layer) for layer in layers] == [4] * library.layers
    assert mixture_of(layers) == library.mixture
    assert "of 4 experts" in describe(model, layers)


def test_tier_norms_are_those_of_experts_cut_out_by_hand(trained):
    library, _, layers = trained
    for layer, measured in zip(layers, measure(layers), strict=True):
        for expert, found in enumerate(measured):
            slow = slow_norms(library.cut(layer.module, expert))
            for tier, norm in slow.items():
                assert getattr(found, f"{tier}_norm") == pytest.approx(norm, rel=1e-6, abs=1e-30)


def test_routing_is_logged_where_there_is_a_router(trained):
    library, _, layers = trained
    for measured in measure(layers):
        for shares in ([e.routing_weight for e in measured], [e.token_share for e in measured]):
            assert sum(shares) == pytest.approx(1) if library.routed else shares == [None] * 4


@pytest.mark.parametrize("name", ["st-moe-pytorch", "mixture-of-experts"])
def test_shares_are_those_of_the_tokens_that_the_gate_sends(name: str):
    library = LIBRARIES[name]
    model = library.made()
    (layer,) = find_routers(model)
    layer.watch()
    sent, weight = [0] * 4, [0.0] * 4

    def count(_: nn.Module, args: Any, output: Any) -> None:
        for dispatch_EC, combine_EC in zip(
            output[0].flatten(0, 1).tolist(), output[1].flatten(0, 1).tolist(), strict=True
        ):
            for expert in range(4):
                sent[expert] += sum(place > 0 for place in dispatch_EC[expert])
                weight[expert] += sum(combine_EC[expert])

    model.moe.gate.register_forward_hook(count)
    library.loss(model, batch())
    (measured,) = measure([layer])
    assert [e.token_share for e in measured] == pytest.approx([count / sum(sent) for count in sent])
    assert [e.routing_weight for e in measured] == pytest.approx([share / sum(weight) for share in weight], rel=1e-6)


def test_the_probe_measures_every_expert_alone_and_changes_nothing(trained):
    library, model, layers = trained
    if not library.forced:
        assert not any(map(can_force, layers))
        return
    before = {
        name: (p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()
    }
    found = isolated_dynamics(model, lambda each: library.loss(model, each), batch())
    for name, p in model.named_parameters():
        trained_before, grad = before[name]
        assert p.requires_grad == trained_before, name
        assert p.grad is None if grad is None else torch.equal(p.grad, grad)
    for experts in found.layers:
        assert all(expert.norm > 0 and expert.half_product is not None for expert in experts)


@pytest.mark.parametrize("name", [name for name, library in LIBRARIES.items() if library.forced])
def test_the_direction_of_identical_copies_is_zero_on_the_same_input(name: str):
    library = LIBRARIES[name]
    model = library.made()
    with torch.no_grad():
        for layer in find_routers(model):
            for expert in range(1, len(layer)):
                for first, own in zip(layer.views(0).values(), layer.views(expert).values(), strict=True):
                    own.of(own.parameter).copy_(first.of(first.parameter))
    found = isolated_dynamics(model, lambda each: library.loss(model, each), batch())
    for experts, pairs in zip(found.layers, found.pairs, strict=True):
        for pair in pairs:
            own = experts[pair.expert].half_product * experts[pair.other].half_product
            assert abs(1 - abs(pair.half_product) / math.sqrt(abs(own))) < 1e-4
            assert pair.output_distance < 1e-6
            assert pair.weight_distance == 0


def test_a_forced_adapter_is_the_only_one_that_runs():
    model = lora().eval()
    layer = find_routers(model)[0]
    tokens = torch.arange(1, 13)[None]
    model.set_adapter("third")
    expected = model(input_ids=tokens).logits
    model.set_adapter("first")
    for each in find_routers(model):
        each.forced = 2
    assert torch.equal(model(input_ids=tokens).logits, expected)
    for each in find_routers(model):
        each.forced = None
    assert layer.module.active_adapters == ["first"]


def test_adapters_that_are_not_in_every_layer_are_refused(tmp_path):
    model = lora()
    model.add_adapter("fifth", LoraConfig(r=4, target_modules=["q_proj"]))
    with pytest.raises(
        ModelError, match=r"has the experts first, second, third, fourth, and .* the same target modules"
    ):
        DynamicsLoggerCallback(tmp_path / "x.db").on_train_begin(model)


def test_an_ensemble_that_a_module_holds_in_another_way_can_be_registered():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 4, 4))

    register_experts(Stack, ensemble)
    try:
        (layer,) = find_routers(nn.Sequential(Stack()))
    finally:
        del OWN[Stack]
    assert (len(layer), [*layer.views(0)]) == (3, ["w"])


# -- Models without experts --------------------------------------------------------------------------------------------

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
ORDINARY = {
    "Llama": SMALL,
    "Mistral": SMALL,
    "Qwen2": SMALL,
    "Gemma2": {**SMALL, "head_dim": 8},
    "Bert": SMALL,
    "Roberta": SMALL,
    "GPT2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "GPTNeoX": SMALL,
    "OPT": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "T5": T5,
    "ViT": {**SMALL, "image_size": 32, "patch_size": 8},
    "Mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "Wav2Vec2": {**SMALL, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "CLIP": {},
}


@pytest.mark.parametrize("name", ORDINARY)
def test_a_model_without_experts_is_said_to_have_none(name: str):
    config = getattr(transformers, f"{name}Config")(**ORDINARY[name])
    with torch.device("meta"):
        model = getattr(transformers, f"{name}Model")(config)
    assert find_routers(model) == []
    assert nothing_found(model).startswith(f"{name}Model has no layer of experts")


def test_one_adapter_is_no_layer_of_experts():
    model = transformers.BertModel(transformers.BertConfig(**SMALL))
    assert find_routers(get_peft_model(model, LoraConfig(r=4, target_modules=["query"]))) == []


def test_a_mixture_with_one_adapter_is_the_mixture():
    mixture = MIXTURES["Mixtral"]
    model = get_peft_model(mixture.build(), LoraConfig(r=4, target_modules=["q_proj"]))
    assert [layer.layout for layer in find_routers(model)] == ["stacked"] * mixture.layers
