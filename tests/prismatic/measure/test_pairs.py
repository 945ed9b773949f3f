"""Pairs of experts in the isolated probe, compared to the obvious way: every gradient, weight and output by itself."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prismatic import DynamicsLogger, DynamicsLoggerCallback
from prismatic.errors import ConfigError
from prismatic.measure import outputs as outputs_module
from prismatic.measure import pairs as pairs_module
from prismatic.measure.isolated import isolated_dynamics
from prismatic.measure.pairs import SAMPLE, pairs_of, sample_of
from prismatic.train.corpus import Corpus
from tests.support.byte_models import gradients_alone, model_and_batch
from tests.support.run_file import events, facts, rows


class Mixture(nn.Module):
    """A custom layer whose experts are alike, apart from what a test changes."""

    mixture = "outputs"
    routing_weights = None

    def __init__(self, experts, make=lambda: nn.Linear(6, 6), result=lambda y: y):
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(make() for _ in range(experts))
        self.forced = None
        self.result = result

    def forward(self, x):
        chosen = self.experts if self.forced is None else [self.experts[self.forced]]
        return self.result(sum(expert(x) for expert in chosen) / len(chosen))


def inputs(sequences=4):
    return torch.randn(sequences, 5, 6, generator=torch.Generator().manual_seed(1))


def probed(layer, batch=None):
    """Return the pairs of one custom layer, by their experts, with the square of the output as loss."""
    found = isolated_dynamics(layer, lambda x: layer(x).square().mean(), inputs() if batch is None else batch)
    return {(pair.expert, pair.other): pair for pair in found.pairs[0]}


def apart(one, other):
    """Return 1 - cosine, mean over tokens, in float64."""
    return (1 - torch.cosine_similarity(one.double(), other.double(), dim=-1)).mean().item()


def slow_products(model, batch, layer, experts):
    halves = [[gradients_alone(model, e, half, layer) for half in (batch[0::2], batch[1::2])] for e in range(experts)]
    return {
        (e, f): (halves[e][0] @ halves[f][1] + halves[e][1] @ halves[f][0]).item() / 2
        for e, f in combinations(range(experts), 2)
    }


def slow_weight_distance(router, e, f):
    one, other = (torch.cat([w.flatten() for w in router.experts[n].parameters()]).double() for n in (e, f))
    return ((one - other).norm() / ((one @ one + other @ other) / 2).sqrt()).item()


@torch.no_grad()
def slow_output_distances(model, batch, layer, experts):
    """Run the layers before with their clean experts, then the layer with each expert, on the even sequences."""
    x = model.token(batch[0::2, :-1]) + model.position(torch.arange(batch.shape[1] - 1))
    for before in model.decoder.locals[:layer]:
        x = before.router.experts[0](x)
    outputs = [expert(x) for expert in model.decoder.locals[layer].router.experts]
    return {(e, f): apart(outputs[e], outputs[f]) for e, f in combinations(range(experts), 2)}


@pytest.mark.parametrize("experts", [2, 3, SAMPLE])
def test_all_pairs_of_few_experts_are_compared(experts):
    assert pairs_of(experts) == list(combinations(range(experts), 2))


@pytest.mark.parametrize("experts", [SAMPLE + 1, 100, 2 * SAMPLE, 384])
def test_of_many_experts_some_that_are_evenly_spread_are_compared(experts):
    sample = sample_of(experts)
    assert len(sample) == SAMPLE
    assert sample[0] == 0
    gaps = {b - a for a, b in pairwise([*sample, experts])}
    assert max(gaps) - min(gaps) <= 1
    assert min(gaps) >= 1
    assert pairs_of(experts) == list(combinations(sample, 2))


@pytest.mark.parametrize("merge", ["batch", "example"])
def test_each_pair_is_compared_in_each_layer(merge):
    model, batch = model_and_batch(merge=merge, control_experts=1)
    found = isolated_dynamics(model, model.loss, batch).pairs
    for layer, pairs in enumerate(found):
        products = slow_products(model, batch, layer, 4)
        outputs = slow_output_distances(model, batch, layer, 4)
        assert [(pair.expert, pair.other) for pair in pairs] == list(products)
        router = model.decoder.locals[layer].router
        for pair, place in zip(pairs, products, strict=True):
            assert pair.half_product == pytest.approx(products[place], rel=1e-5)
            assert pair.weight_distance == pytest.approx(slow_weight_distance(router, *place), rel=1e-5)
            assert pair.output_distance == pytest.approx(outputs[place], rel=1e-4)


def test_the_rows_of_a_training_are_those_of_its_weights_at_each_probe(tmp_path):
    model, _ = model_and_batch(control_experts=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    callback = DynamicsLoggerCallback(tmp_path / "a.db", log_freq=1, probe_freq=2)
    callback.on_train_begin(model)
    expected = {}
    for step in range(5):
        batch = Corpus.load().batch(step, batch_size=4, length=17, seed=0)
        optimizer.zero_grad()
        model.loss(batch).backward()
        callback.on_before_optimizer_step(model, step, probe=(model.loss, batch))
        for layer, local in enumerate(model.decoder.locals) if step % 2 == 0 else ():
            products = slow_products(model, batch, layer, 4)
            outputs = slow_output_distances(model, batch, layer, 4)
            for pair in products:
                distance = slow_weight_distance(local.router, *pair)
                expected[step, layer, *pair] = (products[pair], distance, outputs[pair])
        optimizer.step()
    callback.on_train_end()
    found = {tuple(row.values())[:4]: tuple(row.values())[4:] for row in rows(tmp_path / "a.db", "SELECT * FROM pairs")}
    assert found.keys() == expected.keys()
    assert {step for step, *_ in found} == {0, 2, 4}
    for place, values in found.items():
        assert values == pytest.approx(expected[place], rel=2e-4)
    assert events(tmp_path / "a.db") == []


def test_equal_experts_are_at_no_distance_and_have_one_product():
    model, batch = model_and_batch(perturbation_scale=0.0)
    found = isolated_dynamics(model, model.loss, batch)
    for pairs, experts in zip(found.pairs, found.layers, strict=True):
        assert {(pair.weight_distance, pair.output_distance) for pair in pairs} == {(0.0, 0.0)}
        assert [pair.half_product for pair in pairs] == pytest.approx([experts[0].half_product] * 3, rel=1e-6)


def test_the_weight_distance_is_symmetric_and_known_for_orthogonal_weights():
    layer = Mixture(2, make=lambda: nn.Linear(6, 6, bias=False))
    with torch.no_grad():
        layer.experts[0].weight.copy_(torch.diag(torch.full((6,), 3.0)))
        layer.experts[1].weight.copy_(torch.diag(torch.full((6,), 3.0)).roll(1, 0) / 100)
    assert probed(layer)[0, 1].weight_distance == pytest.approx(2**0.5, rel=1e-6)
    layer.experts = layer.experts[::-1]
    assert probed(layer)[0, 1].weight_distance == pytest.approx(2**0.5, rel=1e-6)
    nn.init.zeros_(layer.experts[0].weight)
    nn.init.zeros_(layer.experts[1].weight)
    assert probed(layer)[0, 1].weight_distance is None


def test_many_experts_have_the_products_of_their_sample_and_of_the_clean_expert(monkeypatch):
    monkeypatch.setattr(pairs_module, "SAMPLE", 16)
    layer, batch = Mixture(40), inputs()
    found = isolated_dynamics(layer, lambda x: layer(x).square().mean(), batch)
    halves = []
    for expert in layer.experts:
        losses = [expert(half).square().mean() for half in (batch[0::2], batch[1::2])]
        grads = [torch.autograd.grad(loss, [*expert.parameters()]) for loss in losses]
        halves.append([torch.cat([g.flatten() for g in grad]).double() for grad in grads])

    def product(e, f):
        return pytest.approx((halves[e][0] @ halves[f][1] + halves[e][1] @ halves[f][0]).item() / 2, rel=1e-5, abs=1e-9)

    assert [(pair.expert, pair.other) for pair in found.pairs[0]] == pairs_of(40)
    assert len(found.pairs[0]) == 16 * 15 / 2
    assert all(pair.half_product == product(pair.expert, pair.other) for pair in found.pairs[0])
    for expert, dynamics in enumerate(found.layers[0]):
        assert dynamics.half_product == product(expert, expert)
        assert dynamics.half_product_clean == (product(0, expert) if expert else None)
    outputs = [expert(batch[0::2]) for expert in layer.experts]
    for pair in found.pairs[0]:
        assert pair.output_distance == pytest.approx(apart(outputs[pair.expert], outputs[pair.other]), rel=1e-4)


def test_a_run_says_which_experts_it_compares(tmp_path):
    for experts in (128, 3):
        path = tmp_path / f"{experts}.db"
        callback = DynamicsLoggerCallback(path, probe_freq=1)
        callback.on_train_begin(Mixture(experts))
        callback.on_train_end()
        found = rows(path, "SELECT message FROM events WHERE code = 'pairs_left_out'")
        if experts == 3:
            assert not found
            assert "compared_experts" not in facts(path)
        else:
            assert found[0]["message"] == "the probe compares 64 of 128 experts with each other: 0, 2, 4, 6, ... 126"
            assert facts(path)["compared_experts"] == [*range(0, 128, 2)]


@pytest.mark.parametrize(
    ("every", "probed", "compared"),
    [
        ({"probe_freq": 2}, [0, 2, 4, 6], [0, 2, 4, 6]),
        ({"probe_freq": 2, "pair_freq": 4}, [0, 2, 4, 6], [0, 4, 6]),  # 6 is the last step
        ({"probe_freq": 4, "pair_freq": 2}, [0, 2, 4, 6], [0, 2, 4, 6]),
        ({"pair_freq": 3}, [0, 3, 6], [0, 3, 6]),
        ({"probe_freq": 3, "pair_freq": 0}, [0, 3, 6], []),
        ({"pair_freq": 0}, [], []),
    ],
    ids=str,
)
def test_pairs_have_a_frequency_of_their_own(tmp_path, every, probed, compared):
    layer, batch = Mixture(3), inputs()

    def loss(x):
        return layer(x).square().mean()

    callback = DynamicsLoggerCallback(tmp_path / "a.db", log_freq=1, last_step=6, **every)
    callback.on_train_begin(layer)
    for step in range(7):
        loss(batch).backward()
        callback.on_before_optimizer_step(layer, step, probe=(loss, batch))
    callback.on_train_end()
    query = "SELECT DISTINCT step FROM {} ORDER BY step"
    assert [r["step"] for r in rows(tmp_path / "a.db", query.format("pairs"))] == compared
    isolated = rows(tmp_path / "a.db", query.format("layers WHERE source = 'isolated'"))
    assert [row["step"] for row in isolated] == probed
    products = rows(tmp_path / "a.db", "SELECT half_product FROM layers WHERE source = 'isolated'")
    assert all(row["half_product"] is not None for row in products)


def test_the_same_is_measured_of_each_expert_whether_pairs_are_compared_or_not():
    layer, batch = Mixture(3), inputs()
    both = [
        isolated_dynamics(layer, lambda x: layer(x).square().mean(), batch, compared=compared)
        for compared in (True, False)
    ]
    assert both[0].layers == both[1].layers
    assert (len(both[0].pairs[0]), both[1].pairs) == (3, [])


@pytest.mark.parametrize("pair_freq", [3, 5, -1, 2.5])
def test_a_frequency_that_leaves_uneven_gaps_between_probes_is_refused(tmp_path, pair_freq):
    with pytest.raises(ConfigError, match="pair_freq"):
        DynamicsLoggerCallback(tmp_path / "a.db", probe_freq=10 if pair_freq != 5 else 12, pair_freq=pair_freq)
    assert not (tmp_path / "a.db").exists()


def test_of_long_outputs_some_tokens_evenly_spread_are_compared(monkeypatch):
    layer, batch = Mixture(3), inputs(6)
    monkeypatch.setattr(outputs_module, "MOST_KEPT", 3 * 6 * 6)  # of 15 tokens, every third
    found = probed(layer, batch)
    tokens = batch[0::2].flatten(end_dim=1)[::3]
    outputs = [expert(tokens) for expert in layer.experts]
    for (e, f), pair in found.items():
        assert pair.output_distance == pytest.approx(apart(outputs[e], outputs[f]), rel=1e-4)


def test_outputs_are_compared_some_tokens_at_a_time(monkeypatch):
    layer = Mixture(3)
    whole = probed(layer)
    monkeypatch.setattr(outputs_module, "MOST_AT_ONCE", 3 * 6 * 2)
    for pair, found in probed(layer).items():
        assert found.output_distance == pytest.approx(whole[pair].output_distance, rel=1e-6)


def test_a_batch_of_one_has_no_products_but_distances():
    pair = probed(Mixture(3), inputs(1))[1, 2]
    assert pair.half_product is None
    assert pair.weight_distance > 0
    assert pair.output_distance > 0


def test_a_frozen_expert_has_no_products_and_is_compared_otherwise():
    layer = Mixture(3)
    free = probed(layer)
    layer.experts[0].requires_grad_(False)
    found = probed(layer)
    assert [found[pair].half_product for pair in ((0, 1), (0, 2))] == [None, None]
    assert found[1, 2].half_product == free[1, 2].half_product
    for pair in found:
        assert found[pair].output_distance == pytest.approx(free[pair].output_distance)
        assert found[pair].weight_distance == free[pair].weight_distance


def test_a_layer_without_any_trained_weight_is_compared_by_weights_and_outputs():
    layer, head = Mixture(3), nn.Linear(6, 6)
    layer.requires_grad_(False)
    found = isolated_dynamics(nn.Sequential(layer, head), lambda x: head(layer(x)).square().mean(), inputs()).pairs[0]
    assert {pair.half_product for pair in found} == {None}
    assert all(pair.weight_distance > 0 for pair in found)


def test_a_partly_frozen_expert_is_compared_where_both_have_gradients():
    layer, batch = Mixture(3), inputs()
    layer.experts[1].bias.requires_grad_(False)
    grads = [
        [
            torch.autograd.grad(layer.experts[e](half).square().mean(), layer.experts[e].weight)[0].flatten()
            for e in (1, 2)
        ]
        for half in (batch[0::2], batch[1::2])
    ]
    crossed = (grads[0][0] @ grads[1][1] + grads[1][0] @ grads[0][1]).item() / 2
    assert probed(layer, batch)[1, 2].half_product == pytest.approx(crossed, rel=1e-5)


class InPlace(nn.Module):
    """A linear layer that overwrites its input."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        y = self.linear(x.clone())
        x.zero_()
        return y


@pytest.mark.parametrize(
    "layer",
    [
        Mixture(3),
        Mixture(3, make=InPlace),
        Mixture(3, result=lambda y: (y, None)),
        Mixture(3, result=lambda y: {"hidden": y, "loss": y.mean()}),
    ],
    ids=["plain", "in place", "tuple", "mapping"],
)
def test_outputs_are_compared_whatever_holds_them(layer):
    batch = inputs()

    def loss(x):
        y = layer(x.clone())
        return (y if torch.is_tensor(y) else y["hidden"] if isinstance(y, dict) else y[0]).square().mean()

    found = isolated_dynamics(layer, loss, batch).pairs[0]
    plain = Mixture(3)
    outputs = [expert(batch[0::2]) for expert in plain.experts]
    assert [pair.output_distance for pair in found] == pytest.approx(
        [apart(outputs[pair.expert], outputs[pair.other]) for pair in found], rel=1e-4
    )


@pytest.mark.parametrize("result", [lambda y: y.mean(), lambda y: [y.mean().item(), y.mean()]], ids=["scalar", "list"])
def test_outputs_without_tokens_are_not_compared(result):
    layer = Mixture(2, result=result)
    found = isolated_dynamics(layer, lambda x: y[1] if isinstance(y := layer(x), list) else y, inputs()).pairs[0]
    assert [pair.output_distance for pair in found] == [None]
    assert found[0].half_product is not None


def test_a_layer_that_is_called_twice_is_compared_in_its_first_call():
    layer, batch = Mixture(2), inputs()
    found = isolated_dynamics(layer, lambda x: layer(100 + layer(x)).square().mean(), batch).pairs[0]
    once = [expert(batch[0::2]) for expert in layer.experts]
    assert found[0].output_distance == pytest.approx(apart(*once), rel=1e-4)


def test_tokens_without_an_output_are_left_out():
    layer, batch = Mixture(2, make=lambda: nn.Linear(6, 6, bias=False)), inputs()
    padded = torch.cat([batch, torch.zeros_like(batch)], dim=1)
    assert probed(layer, padded)[0, 1].output_distance == pytest.approx(probed(layer, batch)[0, 1].output_distance)


def test_equal_experts_with_dropout_draw_the_same_random_numbers():
    layer = Mixture(3, make=lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)))
    for expert in layer.experts[1:]:
        expert.load_state_dict(layer.experts[0].state_dict())
    before = torch.get_rng_state()
    found = probed(layer)
    assert {pair.output_distance for pair in found.values()} == {0.0}
    assert torch.equal(before, torch.get_rng_state())
    layer.experts[1][0].bias.data += 1
    assert probed(layer)[0, 1].output_distance > 0.01


def test_experts_have_gradients_and_outputs_within_one_autocast():
    layer = Mixture(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = isolated_dynamics(layer, lambda x: layer(x).float().square().mean(), inputs())
        assert torch.is_autocast_cache_enabled()
    assert [expert.missing_gradients for expert in found.layers[0]] == [0, 0, 0]
    assert all(pair.half_product is not None and pair.output_distance > 0 for pair in found.pairs[0])


def test_a_layer_whose_activations_are_computed_again_is_compared_once():
    layer, batch = Mixture(3), inputs()
    plain = isolated_dynamics(layer, lambda x: layer(x).square().mean(), batch)
    again = isolated_dynamics(layer, lambda x: checkpoint(layer, x, use_reentrant=False).square().mean(), batch)
    assert again == plain


def test_no_hook_is_left_and_routing_goes_on_after_a_probe_that_failed():
    layer = Mixture(2, result=lambda y: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        probed(layer)
    assert layer.forced is None
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_rows_of_pairs_are_replaced_when_training_is_rewound(tmp_path):
    step = {"expert_gradients": {"expert_0": {"top_norm": 1.0}}}
    with DynamicsLogger(tmp_path / "a.db") as logger:
        for at in (0, 1, 2):
            logger.log(at, step | {"pairs": [{"layer": 0, "expert": 0, "other": 1, "half_product": float(at)}]})
        logger.log(1, step | {"pairs": [{"layer": 0, "expert": 0, "other": 1, "half_product": torch.tensor(7.0)}]})
    assert rows(tmp_path / "a.db", "SELECT step, half_product FROM pairs ORDER BY step") == [
        {"step": 0, "half_product": 0.0},
        {"step": 1, "half_product": 7.0},
    ]
