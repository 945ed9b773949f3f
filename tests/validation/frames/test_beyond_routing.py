"""Norms divided by routing shares: against a slow second implementation, and in words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.app_pages import EXAMPLES
from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.load import load_runs
from validation.analysis.run import Expert, Run
from validation.files.read_files import read_files
from validation.frames.beyond_routing import NORMS, can_divide, divide_by_shares, ratios_to_clean
from validation.frames.norms import AS_LOGGED, BEYOND_ROUTING, experts_drawn, norms_sentence, norms_title
from validation.frames.run_dynamics import ChartOptions, line_rows

WARMUP = 0.1


def slowly_divided(layers: list[dict[int, Expert]], expert: int, metric: str, step: int) -> float:
    """Return the mean over the layers with a norm of norm / share, one number at a time."""
    quotients = []
    for layer in layers:
        norm, share = (float(layer[expert][name][step]) for name in (metric, "routing_weight"))
        if np.isnan(norm):
            continue
        quotients.append(norm / share if share > 0 else np.nan)
    return float(np.mean(quotients)) if quotients else np.nan


def run_of_layers(rng: np.random.Generator, *, layers: int, experts: int, steps: int, missing: float) -> Run:
    """Return a run whose layers have their own shares, with zeros and missing values among norms and shares."""

    def column() -> np.ndarray:
        values = rng.lognormal(size=steps)
        values[rng.random(steps) < missing] = np.nan
        values[rng.random(steps) < missing / 2] = 0.0
        return values

    roles = ("clean", *["perturbed"] * (experts - 1))
    named = (*NORMS, "routing_weight")
    each = [{e: Expert(e, roles[e], {name: column() for name in named}) for e in range(experts)} for _ in range(layers)]
    means = {
        e: Expert(e, roles[e], {name: np.nansum([layer[e][name] for layer in each], axis=0) for name in named})
        for e in range(experts)
    }
    return Run(id="layers", name="layers.db", steps=np.arange(steps), experts=means, layers=each)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.1]))
def test_each_layer_is_divided_by_its_own_shares_before_the_mean(seed, layers, experts, missing):
    run = run_of_layers(np.random.default_rng(seed), layers=layers, experts=experts, steps=12, missing=missing)
    if not can_divide(run):
        return
    # The means over layers have shares, too, and are divided only if a layer lacks most of its own.
    mostly = all(np.isfinite(layer[e]["routing_weight"]).mean() >= 0.8 for layer in run.layers for e in layer)
    divided = divide_by_shares(run, range(experts))
    for e in range(experts):
        for metric in NORMS:
            slow = [
                slowly_divided(list(run.layers) if mostly else [run.experts], e, metric, step) for step in range(12)
            ]
            np.testing.assert_allclose(divided.experts[e][metric], slow, rtol=1e-12)


def test_a_run_of_means_over_layers_is_divided_by_their_shares():
    run = simulated_run(steps=50, routing_ratio=3.0)
    divided = divide_by_shares(run, [0, 1])
    share = run.experts[1]["routing_weight"]
    np.testing.assert_allclose(divided.experts[1]["top_norm"], run.experts[1]["top_norm"] / share)
    assert divided.experts[1]["routing_weight"] is share


def test_zeros_stay_zeros_and_missing_values_stay_missing():
    run = simulated_run(steps=50)
    norm = run.experts[1]["bottom_norm"].copy()
    norm[3], norm[7] = 0.0, np.nan
    divided = divide_by_shares(with_norms(run, 1, bottom_norm=norm), [1]).experts[1]["bottom_norm"]
    assert divided[3] == 0.0
    assert np.flatnonzero(np.isnan(divided)).tolist() == [7]


def test_only_merged_parameters_with_logged_shares_are_divided():
    run = simulated_run(steps=50)
    assert can_divide(run)
    assert can_divide(replace(run, facts={"mixture": "parameters"}))
    assert not can_divide(replace(run, facts={"mixture": "top_k"}))
    assert not can_divide(replace(run, facts={"mixture": "separate"}))
    assert not can_divide(replace(run, source="isolated"))
    assert not can_divide(simulated_run(steps=50, shares=False))
    silent = {
        e: Expert(e, x.role, {**x.columns, **dict.fromkeys(NORMS, 0 * run.steps)}) for e, x in run.experts.items()
    }
    assert not can_divide(replace(run, experts=silent))


def test_one_common_gradient_leaves_nothing_but_the_router():
    run = simulated_run(steps=200, routing_ratio=3.0, collinear=True)
    ratio = ratios_to_clean(run, [0, 1], warmup=WARMUP)[1]
    assert ratio.logged == pytest.approx(3.0, rel=1e-3)
    assert ratio.beyond == pytest.approx(1.0, abs=1e-9)
    assert ratio.farthest < 1e-9
    assert "experts 0 and 1 agree within 0.1 %: the router" in norms_sentence(
        run, [0, 1], BEYOND_ROUTING, warmup=WARMUP
    )
    assert "3.00× expert 0's in perturbed expert 1" in norms_sentence(run, [0, 1], AS_LOGGED, warmup=WARMUP)


def test_the_sentence_says_how_far_the_lines_lie_apart():
    run = simulated_run(steps=200, collinear=True)
    off = with_norms(run, 1, top_norm=1.0042 * run.experts[1]["top_norm"])
    assert "agree within 0.5 %." in norms_sentence(off, [0, 1], BEYOND_ROUTING, warmup=WARMUP)


def test_the_sentence_says_what_remains_in_each_role():
    run = simulated_run(steps=300, awakening=2.0, routing_ratio=1.5, control=2, spread=0.0, sd=0.01)
    words = norms_sentence(run, [*run.experts], BEYOND_ROUTING, warmup=WARMUP)
    assert words.startswith("Divided by each expert's routing share, bottom norms are 2.")
    assert "expert 0's in perturbed expert 1 and" in words
    assert "in control experts; as logged, 3.0" in words


def test_norms_that_cannot_be_divided_have_a_reason():
    run = simulated_run(steps=50)
    told = {
        "own tokens": replace(run, facts={"mixture": "top_k"}),
        "each expert alone": replace(run, source="isolated"),
        "did not log its routing shares": simulated_run(steps=50, shares=False),
        "no other expert": replace(run, experts={0: run.experts[0]}),
    }
    for words, other in told.items():
        assert words in norms_sentence(other, [*other.experts], BEYOND_ROUTING, warmup=WARMUP)
        if words != "no other expert":
            assert norms_title(other, AS_LOGGED) == "Gradient norm (loss / weight)"


@pytest.mark.parametrize("example", ["as-is", "per-example", "positive-control", "zero-norms"])
def test_the_chart_draws_the_divided_norms_and_their_title(example):
    run = load_runs(read_files([EXAMPLES / f"{example}.db"])[0])[0]
    options = ChartOptions(
        "Tier norms", "merged", tuple(experts_drawn(run)), "Steps", False, True, norms=BEYOND_ROUTING
    )
    rows, style = line_rows(run, options, ["top_norm"], None)
    drawn = rows[rows["expert"] == 1]["value"].to_numpy()
    if example == "zero-norms":
        assert style.norm == "Gradient norm (loss / weight)"
        assert not drawn.any()
    else:
        assert "divided by routing share" in style.norm
        slow = [slowly_divided(run.layers, 1, "top_norm", step) for step in range(len(run.steps))]
        np.testing.assert_allclose(drawn, slow)


def test_a_range_of_steps_is_drawn_like_the_same_part_of_the_whole():
    run = load_runs(read_files([EXAMPLES / "as-is.db"])[0])[0]
    options = ChartOptions("Tier norms", "merged", (0, 1), "Steps", False, False, norms=BEYOND_ROUTING)
    whole, _ = line_rows(run, options, ["top_norm"], None)
    first, last = run.steps[[20, 90]]
    part, _ = line_rows(run, replace(options, steps=(float(first), float(last))), ["top_norm"], None)
    expected = whole[(whole["step"] >= first) & (whole["step"] <= last)]
    pd.testing.assert_frame_equal(part.reset_index(drop=True), expected.reset_index(drop=True))
    assert len(part) == 2 * 71


def test_of_many_experts_the_first_and_one_control_are_drawn():
    assert experts_drawn(simulated_run(steps=5, perturbed=3, control=3)) == [0, 1, 2, 4]
    assert experts_drawn(simulated_run(steps=5, perturbed=1, control=2)) == [0, 1, 2, 3]
    assert experts_drawn(simulated_run(steps=5, perturbed=9)) == [0, 1, 2, 3]
