"""The arrays of large layers hold the numbers that the rows of small ones do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prismatic.collectives import ALONE
from prismatic.contract.schema import PACKED_ABOVE
from prismatic.experts.views import View
from prismatic.measure import dynamics, metrics
from prismatic.measure.metrics import ExpertArrays, ExpertDynamics, aggregate, routing_metrics
from prismatic.measure.plan import Plan, Tree

NORMS = st.sampled_from([0.0, 0.25, 1.0, 3.5, 1e-6])
SHARES = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5]))
EXPERTS = st.builds(
    ExpertDynamics,
    top_norm=NORMS,
    bottom_norm=NORMS,
    middle_norm=NORMS,
    norm=NORMS,
    routing_weight=SHARES,
    gradient_cosine=st.one_of(st.none(), st.sampled_from([0.5, -1.0])),
    bottom_to_middle=st.one_of(st.none(), st.sampled_from([0.5, -1.0])),
    nonfinite=st.integers(0, 3),
    missing_gradients=st.integers(0, 3),
    token_share=st.sampled_from([0.0, 0.25, 0.5]),
)


def close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(EXPERTS, min_size=2, max_size=5), min_size=1, max_size=3), st.booleans())
def test_arrays_give_the_same_means_scores_and_rows(layers: list[list[ExpertDynamics]], peers: bool):
    if peers:
        layers = [[ExpertDynamics(**{**vars(e), "peer": True}) for e in own] for own in layers]
    rows, arrays = aggregate(layers), metrics._aggregate_large(layers, None)
    for name in ("expert_gradients", "divergence_scores", "nonfinite", "missing_gradients"):
        assert close(arrays[name], rows[name]), name
    assert all(close(*pair) for pair in zip(rows["layers"], arrays["layers"], strict=True))
    assert close(routing_metrics(rows["layers"]), routing_metrics(arrays["layers"]))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["base", "current", "own", "each"]), st.booleans())
def test_arrays_give_the_dynamics_that_are_computed_one_by_one(data: st.DataObject, basis: str, fused: bool):
    experts, tensors = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 3))
    weight = nn.Parameter(torch.zeros(1))
    views = [{name: View(name, weight) for name in "abc"[:tensors]} for _ in range(experts)]
    plan = Plan([], views, [], basis, fused, False, ALONE, Tree([]))
    sums = st.sampled_from([0.0, 1e-300, 0.5, 2.0, 7.0, 1e300, math.inf, math.nan])
    rows = data.draw(st.lists(st.tuples(*[sums] * 4), min_size=plan.sums, max_size=plan.sums))
    routing = data.draw(st.lists(st.sampled_from([0.0, 0.25, math.nan]), min_size=experts, max_size=experts))
    counted = data.draw(st.lists(st.sampled_from([0.0, 3.0]), min_size=2 * experts, max_size=2 * experts))
    numbers = np.array([x for row in rows for x in (*row, 2.0)] + routing + counted)
    missing = [*range(experts)]
    arrays = ExpertArrays(dynamics._arrays(plan, numbers, missing), peer=basis == "own")
    for one, other in zip(dynamics.dynamics_of(plan, numbers, missing), arrays, strict=True):
        assert close(vars(one), vars(other))


def test_a_gradient_that_is_not_a_number_is_not_averaged_away():
    layers = [[ExpertDynamics(n, 1.0, 1.0, n, 0.5, None, None, 0, 0)] * 40 for n in (1.0, math.nan)]
    found = aggregate(layers)["expert_gradients"]["expert_3"]
    assert np.isnan(found["top_norm"])
    assert found["bottom_norm"] == 1.0


@pytest.mark.parametrize("experts", [PACKED_ABOVE, PACKED_ABOVE + 1])
def test_roles_come_with_arrays_only(experts: int):
    layers = [[ExpertDynamics(1.0, 1.0, 1.0, 2.0, None, None, None, 0, 0)] * experts]
    found = aggregate(layers, ["clean"] + ["perturbed"] * (experts - 1))
    assert ("roles" in found) == (experts > PACKED_ABOVE)


def test_arrays_of_experts_read_like_the_experts():
    arrays = {name: np.array([1.0, math.nan]) for name in ("top_norm", "bottom_norm", "middle_norm", "norm")}
    arrays |= {name: np.array([0.5, math.nan]) for name in ("routing_weight", "gradient_cosine", "bottom_to_middle")}
    experts = ExpertArrays(
        {**arrays, **dict.fromkeys(("nonfinite", "missing_gradients"), np.array([0.0, 3.0]))}, peer=True
    )
    one, broken = experts
    assert one == ExpertDynamics(1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0, 0, peer=True)
    assert math.isnan(broken.norm)
    assert (broken.routing_weight, broken.gradient_cosine, broken.nonfinite) == (None, None, 3)
    assert [each.nonfinite for each in experts[1:]] == [3]
