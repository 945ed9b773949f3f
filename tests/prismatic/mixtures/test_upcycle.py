"""upcycle: a mixture out of a dense model, with transformers' own classes where there is one, or with ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import prismatic
from prismatic.errors import ConfigError, ModelError
from prismatic.experts.discovery import find_routers
from prismatic.experts.found import FoundExperts
from prismatic.experts.treatment import treatment_of
from prismatic.measure.isolated import isolated_dynamics
from prismatic.mixtures.canonical import canonical_names
from prismatic.mixtures.in_place import weights_of
from prismatic.mixtures.top_k import TopKMixture
from tests.support.mixtures import FEED, TEXT

DENSE: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
}
MIXTURE_OF = {"Llama": "Mixtral", "Mistral": "Mixtral", "Qwen2": "Qwen2Moe", "Qwen3": "Qwen3Moe"}
TOKENS = torch.randint(1, 60, (3, 12), generator=torch.Generator().manual_seed(1))


def dense_model(name: str = "Llama", **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**TEXT, **FEED, **DENSE.get(name, {}), **options)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


class Plain(nn.Module):
    """A dense model of no library."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inward = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Dropout(0.0), nn.Linear(24, 8)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + block(norm(x))
        return self.out(x)


def experts_of(layer: FoundExperts) -> list[dict[str, Tensor]]:
    """Return the weights of each expert by canonical name."""
    weights = [weights_of(layer, e) for e in range(len(layer))]
    names = canonical_names(weights[0])
    return [{names[name]: weight for name, weight in each.items()} for each in weights]


@pytest.mark.parametrize("name", DENSE)
def test_copies_give_the_outputs_of_the_dense_model(name, tmp_path):
    dense = dense_model(name)
    state = torch.get_rng_state()
    mixture = prismatic.upcycle(dense, num_experts=4, top_k=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(mixture).__name__ == f"{MIXTURE_OF[name]}ForCausalLM"
    with torch.no_grad():
        expected = dense(TOKENS).logits
        torch.testing.assert_close(mixture(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
        mixture.save_pretrained(tmp_path)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(again(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
        options = {"max_new_tokens": 3, "do_sample": False}
        assert torch.equal(mixture.generate(TOKENS, **options), dense.generate(TOKENS, **options))
    mixture.train()
    mixture.config.output_router_logits = True
    found = mixture(TOKENS, labels=TOKENS, output_router_logits=True)
    assert found.aux_loss > 0
    found.loss.backward()
    layer = find_routers(mixture)[0]
    assert len(layer) == 4
    assert mixture.model.layers[0].mlp.gate.weight.grad.abs().sum() > 0


def test_the_shared_expert_that_qwen2_has_not_stays_zero():
    mixture = prismatic.upcycle(dense_model("Qwen2"), num_experts=4).train()
    optimizer = torch.optim.AdamW(mixture.parameters(), lr=0.1)
    for _ in range(2):
        mixture(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    assert not any(weight.any() for name, weight in mixture.named_parameters() if ".shared_expert" in name)


def test_the_dense_model_stays_as_it_is():
    for dense in (dense_model(), Plain()):
        before = copy.deepcopy(dense.state_dict())
        prismatic.upcycle(dense, method="drop")
        assert all(torch.equal(weight, before[name]) for name, weight in dense.state_dict().items())


def test_a_plain_model_gets_mixtures_in_the_place_of_its_mlps():
    dense, x = Plain(), torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(2))
    mixture = prismatic.upcycle(dense, num_experts=3, top_k=2)
    assert [type(block) for block in mixture.blocks] == [TopKMixture, TopKMixture]
    torch.testing.assert_close(mixture(x), dense(x))
    assert all(1 <= block.balance.item() <= 3 for block in mixture.blocks)
    layers = find_routers(mixture)
    assert [len(layer) for layer in layers] == [3, 3]
    found = isolated_dynamics(mixture, lambda x: mixture(x).square().mean(), x)
    assert all(expert.norm > 0 for layer in found.layers for expert in layer)


def test_where_names_the_modules():
    mixture = prismatic.upcycle(Plain(), num_experts=3, where="blocks.1")
    assert [type(block) for block in mixture.blocks] == [nn.Sequential, TopKMixture]
    inside = prismatic.upcycle(dense_model(), num_experts=3, where="model.layers.*.mlp")
    assert type(inside).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(inside(TOKENS).logits, dense_model()(TOKENS).logits, rtol=1e-4, atol=1e-5)


def test_a_block_in_two_places_stays_one_block():
    dense = Plain()
    dense.blocks[1] = dense.blocks[0]
    mixture = prismatic.upcycle(dense, num_experts=3)
    assert mixture.blocks[0] is mixture.blocks[1]
    assert len(find_routers(mixture)) == 1


@pytest.mark.parametrize("dense", [dense_model, Plain], ids=["Llama", "plain"])
def test_drop_reinitialises_the_same_units_of_all_matrices_with_the_moments_of_the_removed(dense):
    copied, dropped = (prismatic.upcycle(dense(), method=method, num_experts=6) for method in ("copy", "drop"))
    units = []
    for old, new in zip(find_routers(copied), find_routers(dropped), strict=True):
        for e, (before, after) in enumerate(zip(experts_of(old), experts_of(new), strict=True)):
            names = [name for name in before if before[name].dim() == 2]
            axis = {name: int(before[name].shape[0] < before[name].shape[1]) for name in names}
            changed = {
                n: (before[n] != after[n]).movedim(axis[n], 0).any(1).nonzero().flatten().tolist() for n in names
            }
            if e == 0:
                assert not any(changed.values())
                continue
            (own,) = {tuple(found) for found in changed.values()}
            assert len(own) == before[names[0]].shape[axis[names[0]]] // 2
            units.append(own)
            for name in names:
                gone, fresh = (each[name].movedim(axis[name], 0)[list(own)] for each in (before, after))
                assert fresh.std().item() == pytest.approx(gone.std().item(), rel=0.2)
                assert abs((fresh.mean() - gone.mean()).item()) < gone.std().item() * 5 / gone.numel() ** 0.5
    assert len(set(units)) == len(units)


def test_noise_is_relative_to_each_tensor():
    copied, noisy = (
        prismatic.upcycle(dense_model(), method=method, noise=0.2, num_experts=4, control_experts=1)
        for method in ("copy", "noise")
    )
    before, after = experts_of(find_routers(copied)[0]), experts_of(find_routers(noisy)[0])
    for name in ("gate", "up", "down"):
        assert torch.equal(before[0][name], after[0][name])
        change = (after[1][name] - before[1][name]).std() / before[1][name].std()
        assert change.item() == pytest.approx(0.2, rel=0.1)
        assert torch.equal(before[3][name], after[3][name])  # the control is the same in a run and its twin
        assert ((after[3][name] - after[0][name]).abs() <= 0.001 * after[0][name].abs() * 1.001).all()
        assert not torch.equal(after[3][name], after[0][name])


def test_the_router_depends_on_seed_and_layer_alone():
    def gates(**options: Any) -> list[Tensor]:
        mixture = prismatic.upcycle(dense_model(), num_experts=4, **options)
        return [layer.mlp.gate.weight for layer in mixture.model.layers]

    copied, dropped, other = gates(), gates(method="drop"), gates(seed=1)
    assert all(map(torch.equal, copied, dropped))
    assert not torch.equal(copied[0], copied[1])
    assert not torch.equal(copied[0], other[0])


def test_the_same_seed_gives_the_same_mixture_in_a_hugging_face_and_in_a_plain_layer():
    options = {"num_experts": 5, "control_experts": 2, "seed": 4}
    for method in ("noise", "drop"):
        one = prismatic.upcycle(dense_model(), method=method, **options)
        two = prismatic.upcycle(dense_model(), method=method, where="model.layers.*.mlp", **options)
        for fused, listed in zip(find_routers(one), find_routers(two), strict=True):
            for own, other in zip(experts_of(fused), experts_of(listed), strict=True):
                assert all(torch.equal(weight, other[name]) for name, weight in own.items())


def test_what_was_done_is_known():
    roles = ("clean", "perturbed", "perturbed", "control")
    scales = {"copy": (0.0, 0.0, 0.0, 0.001), "noise": (0.0, None, None, 0.001), "drop": (0.0, None, None, 0.001)}
    for method, expected in scales.items():
        mixture = prismatic.upcycle(dense_model(), method=method, num_experts=4, control_experts=1, seed=2)
        for layer in find_routers(mixture):
            known = treatment_of(layer)
            assert (known.roles, known.scales, known.seeds) == (roles, expected, (None, 2, 2, 2))
            assert known.options["upcycle_method"] == method
            middle = {"copy": 0.0, "noise": 1.0, "drop": 0.5}[method]
            assert [round(each["middle"], 1) for each in known.changed] == [0.0, middle, middle, 0.0]
            assert layer.roles == roles
    assert (known.options["upcycle_noise"], known.options["upcycle_drop"]) == (0.0, 0.5)
    assert (known.options["num_experts"], known.options["control_experts"]) == (3, 1)


def test_without_a_clean_expert_all_are_treated_and_are_peers():
    mixture = prismatic.upcycle(dense_model(), method="drop", num_experts=3, keep_clean=False)
    (first, _) = find_routers(mixture)
    assert first.has_peers
    assert treatment_of(first).changed[0]["middle"] == pytest.approx(0.5, abs=0.05)


def test_copies_can_be_perturbed_and_other_experts_cannot():
    mixture = prismatic.perturb(prismatic.upcycle(dense_model(), num_experts=4), scale=0.5, control_experts=1)
    known = treatment_of(find_routers(mixture)[0])
    assert known.began_as_copies
    assert (known.options["upcycle_method"], known.options["perturbation_scale"]) == ("copy", 0.5)
    with pytest.raises(ModelError, match="were treated before"):
        prismatic.perturb(prismatic.upcycle(dense_model(), method="noise"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "clone"}, "method = 'clone' is not allowed; it is one of copy, noise, drop"),
        ({"num_experts": 1}, "num_experts = 1"),
        ({"top_k": 9}, "top_k = 9 .* at most num_experts = 8"),
        ({"drop": 0.0}, "drop = 0.0"),
        ({"noise": 0.0}, "noise = 0.0"),
        ({"router_std": float("inf")}, "router_std = inf"),
        ({"control_experts": 7}, "leaves none of 8 experts"),
        ({"control_experts": 1, "keep_clean": False}, "need a clean expert"),
        ({"seed": 1.5}, "seed = 1.5"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        prismatic.upcycle(Plain(), **options)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 4)), {}, "has no MLP"),
        (Plain, {"where": "nothing.*"}, "has no module nothing"),
        (Plain, {"where": "norms.*"}, "has no matrix"),
        (lambda: dense_model(attention_bias=True), {}, "attention_bias = True, which MixtralForCausalLM"),
        (lambda: prismatic.upcycle(Plain()), {}, "is a mixture of experts already"),
        (lambda: nn.ModuleDict({"a": nn.Bilinear(4, 4, 4)}), {"where": "a", "method": "drop"}, "no matrix"),
        (lambda: nn.ModuleDict({"a": nn.Linear(4, 4)}), {"where": "a", "method": "drop"}, "no intermediate units"),
    ],
)
def test_models_that_cannot_be_upcycled_are_refused(model, options, message):
    built = model()
    with pytest.raises(ModelError, match=message):
        prismatic.upcycle(built, **options)
