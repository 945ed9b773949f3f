"""Bins, levels and effects of a run, compared to a slow version that follows the definitions row by row."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.schema import TIERS
from validation.analysis.bins import BINS
from validation.analysis.effects import (
    BOTTOM,
    DIRECTION,
    SIZE,
    effect_K,
    effect_over_time,
    levels_of,
    of_each_expert,
)
from validation.analysis.run import METRICS, Expert, Run

RULES = {"warmup": 0.1, "rows_share": 0.8, "reliability": 0.1}
ROLES = ("clean", "perturbed", "perturbed", "control", "control")


def run_of(seed=0, steps=600, every=2, layers=2, gain=0.3, roles=ROLES, **facts) -> Run:
    """A run as the probe sees it: perturbed experts gain in the bottom tier, and levels differ by expert."""
    rng = np.random.default_rng(seed)
    at = np.arange(0, steps, every)
    places = []
    for _ in range(layers):
        place = {}
        for e, role in enumerate(roles):
            norms = {tier: np.exp(rng.normal(-1, 0.1) + rng.normal(0, 0.05, len(at))) for tier in TIERS}
            norms["bottom"] = norms["bottom"] * np.exp(gain * (role == "perturbed"))
            columns = {f"{tier}_norm": norms[tier] for tier in TIERS}
            columns["norm"] = np.sqrt(sum(norm**2 for norm in norms.values()))
            columns["direction"] = np.abs(rng.normal(0.3, 0.05, len(at))) * (e > 0)
            place[e] = Expert(e, role, dict.fromkeys(METRICS, np.full(len(at), np.nan)) | columns)
        places.append(place)
    known = {
        "config.log_freq": every,
        "planned_steps": steps,
        "mixture": "parameters",
        "config.merge": "example",
        **facts,
    }
    return Run("a", "a.db", at, places[0], layers=places, source="isolated", facts=known)


def with_rows(run: Run, rows) -> Run:
    """The run with these rows of its file, in this order."""
    layers = [
        {e: replace(one, columns={m: c[rows] for m, c in one.columns.items()}) for e, one in layer.items()}
        for layer in run.layers
    ]
    return replace(run, steps=run.steps[rows], layers=layers, experts=layers[0])


def with_column(run: Run, expert: int, name: str, change) -> Run:
    layers = [
        {
            e: replace(o, columns={**o.columns, name: change(o.columns[name].copy())}) if e == expert else o
            for e, o in layer.items()
        }
        for layer in run.layers
    ]
    return replace(run, layers=layers, experts=layers[0])


def level(run: Run, name: str, expert: Expert, row: int) -> float:
    if name == DIRECTION:
        return expert["direction"][row] if expert.index else 0.0
    if name == SIZE:
        return np.log(expert["norm"][row])
    return np.log(expert["bottom_norm"][row] / expert["middle_norm"][row])


def slowly(run: Run, name: str) -> list[float]:
    """The effect in each bin, straight from the definition."""
    start, found = 0.1 * run.planned_steps, []
    width = (run.planned_steps - start) / BINS
    for k in range(BINS):
        rows = [r for r, step in enumerate(run.steps) if start + k * width <= step < start + (k + 1) * width]
        layers = []
        for layer in run.layers:
            means = {e: np.mean([level(run, name, one, row) for row in rows]) for e, one in layer.items()}
            role = {
                kind: [means[e] for e, one in layer.items() if one.role == kind] for kind in ("perturbed", "control")
            }
            layers.append(np.mean(role["perturbed"]) - np.mean(role["control"]))
        found.append(np.mean(layers))
    return found


@pytest.mark.parametrize("name", [BOTTOM, SIZE, DIRECTION])
def test_an_effect_is_perturbed_minus_control_experts_bin_by_bin(name):
    run = run_of()
    assert effect_K(levels_of(run, **RULES), name) == pytest.approx(slowly(run, name))


def test_the_effect_of_a_sham_run_with_the_same_seed_is_subtracted():
    run, sham = run_of(gain=0.3), run_of(seed=1, gain=0.0)
    found = effect_K(levels_of(run, **RULES), BOTTOM, levels_of(sham, **RULES))
    assert found == pytest.approx(np.array(slowly(run, BOTTOM)) - slowly(sham, BOTTOM))


def test_without_control_experts_the_same_experts_of_the_sham_run_stand_for_them():
    roles = ("clean", "perturbed", "perturbed")
    run, sham = run_of(roles=roles), run_of(seed=0, gain=0.0, roles=roles)
    assert effect_K(levels_of(run, **RULES), BOTTOM, levels_of(sham, **RULES)) == pytest.approx([0.3] * BINS)
    assert np.isnan(effect_K(levels_of(run, **RULES), BOTTOM)).all()


def test_the_order_of_rows_changes_nothing():
    run = run_of()
    shuffled = with_rows(run, np.random.default_rng(0).permutation(len(run.steps)))
    for name in (BOTTOM, SIZE, DIRECTION):
        before, after = (effect_K(levels_of(one, **RULES), name) for one in (run, shuffled))
        assert after == pytest.approx(before)


def test_repeated_rows_count_once_and_the_last_of_them_stands():
    run = run_of()
    assert effect_K(
        levels_of(with_rows(run, np.repeat(np.arange(len(run.steps)), 3)), **RULES), BOTTOM
    ) == pytest.approx(effect_K(levels_of(run, **RULES), BOTTOM))


def test_rows_beside_the_declared_grid_count_for_nothing():
    """Dense logging of the first steps, with a frequency that the file declares."""
    dense = run_of(every=1, **{"config.log_freq": 4})
    even = with_rows(dense, np.flatnonzero(dense.steps % 4 == 0))
    chosen = with_rows(dense, np.flatnonzero((dense.steps % 4 == 0) | (dense.steps < 200)))
    assert effect_K(levels_of(chosen, **RULES), BOTTOM) == pytest.approx(effect_K(levels_of(even, **RULES), BOTTOM))


def test_a_file_that_declares_no_frequency_has_its_median_gap_as_grid():
    run = run_of(every=5, **{"config.log_freq": None})
    assert levels_of(run, **RULES).bins.usable
    assert levels_of(run, **RULES).bins.rows_K.tolist() == [18] * 6


def test_isolated_rows_lie_on_the_grid_of_logger_and_probe():
    run = run_of(every=12, **{"config.log_freq": 4, "config.probe_freq": 6})
    assert levels_of(run, **RULES).bins.usable


@pytest.mark.parametrize(
    ("kept", "usable"),
    [
        (lambda value, rng: rng.random(len(value)) > 0.05, True),
        (lambda value, rng: value < np.quantile(value, 0.8), False),
        (lambda value, rng: np.arange(len(value)) % 10 == 0, False),
        (lambda value, rng: np.arange(len(value)) < 0.6 * len(value), False),
    ],
    ids=["5 % lost at random", "the largest fifth removed", "one row in ten kept", "stopped early"],
)
def test_a_run_that_misses_too_many_of_its_planned_rows_is_not_usable(kept, usable):
    run = run_of(steps=3000)
    value = run.experts[3]["bottom_norm"]
    rows = np.flatnonzero(kept(value, np.random.default_rng(0)))
    assert levels_of(with_rows(run, rows), **RULES).bins.usable is usable


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_row_counts_for_all_experts_or_for_none(value):
    run = run_of(steps=3000)

    def spoil(column):
        column[::100] = value
        return column

    spoiled = with_column(run, 4, "middle_norm", spoil)
    kept = with_rows(run, np.flatnonzero(np.arange(len(run.steps)) % 100))
    assert effect_K(levels_of(spoiled, **RULES), SIZE) == pytest.approx(effect_K(levels_of(kept, **RULES), SIZE))


def test_a_row_far_from_its_bin_counts_as_missing():
    def spoil(column):
        column[::20] *= 50
        return column

    run = run_of(steps=3000)
    spoiled = with_column(run, 1, "bottom_norm", spoil)
    kept = with_rows(run, np.flatnonzero(np.arange(len(run.steps)) % 20))
    assert effect_K(levels_of(spoiled, **RULES), BOTTOM) == pytest.approx(effect_K(levels_of(kept, **RULES), BOTTOM))


def test_the_warm_up_is_at_most_a_third_of_the_run():
    assert levels_of(run_of(warmup_steps=10_000), **RULES).bins.rows_K.sum() == 200  # of 300 rows


def test_a_plan_with_fewer_rows_than_bins_is_known_before_any_row_is_missing():
    assert not levels_of(run_of(steps=600, every=200), **RULES).bins.enough_planned


def test_merged_parameters_are_compared_beyond_their_routing_shares():
    run = replace(run_of(), source="merged")
    shares = {1: 0.8, 2: 0.8}
    for expert in range(5):
        share = shares.get(expert, 0.1)
        run = with_column(run, expert, "routing_weight", lambda column, share=share: np.full(len(column), share))
    shifted = effect_K(levels_of(run, **RULES), SIZE)
    assert shifted == pytest.approx(np.array(slowly(run, SIZE)) - np.log(8))


def test_without_directions_the_sizes_of_the_tiers_stand_for_them():
    run = run_of()
    for expert in range(5):
        run = with_column(run, expert, "direction", lambda column: column * np.nan)
    assert set(levels_of(run, **RULES).of) == {BOTTOM, "top_size", "bottom_size", "middle_size"}


def test_units_within_a_run_are_experts_averaged_over_layers_and_bins():
    levels = levels_of(run_of(), **RULES)
    assert of_each_expert(levels, SIZE) == pytest.approx(levels.of[SIZE].mean(axis=(1, 2)))


def test_first_and_last_are_the_two_bins_at_each_end():
    found = effect_over_time(np.array([1.0, 3.0, 5.0, np.nan, 7.0, 9.0]))
    assert (found.whole, found.first, found.last) == (5.0, 2.0, 8.0)


def halves(rng, rows, cosine, reliability, dimension=400):
    """Products of noisy half-batch gradients whose signals have a known cosine; one row per step."""
    signal = np.zeros((2, dimension))
    signal[0, 0], signal[1, :2] = 1.0, (cosine, np.sqrt(1 - cosine**2))
    # Of the squared norm of the mean of both halves, the share of the signal is the reliability.
    sd = np.sqrt(2 * (1 / reliability - 1) / dimension)[:, None, None, None]
    noisy = signal[None, :, None, :] + sd * rng.normal(size=(rows, 2, 2, dimension))  # [T, expert, half, P]
    own = (noisy[:, :, 0] * noisy[:, :, 1]).sum(-1)
    crossed = ((noisy[:, 1, 0] * noisy[:, 0, 1]) + (noisy[:, 1, 1] * noisy[:, 0, 0])).sum(-1) / 2
    mean = noisy.mean(axis=2)
    norm = np.linalg.norm(mean, axis=-1)
    return own, crossed, norm, 1 - (mean[:, 0] * mean[:, 1]).sum(-1) / norm.prod(axis=-1)


def test_a_constant_rotation_stays_while_its_gradients_drown_in_noise():
    """The plain cosine shrinks as reliability falls from 0.46 to 0.18; the corrected one does not."""
    rng, rows = np.random.default_rng(0), 3000
    own, crossed, norm, plain = halves(rng, rows, 0.8, np.linspace(0.46, 0.18, rows))
    run = run_of(steps=rows, every=1, layers=1, roles=("clean", "perturbed"))
    for expert in range(2):
        for name, values in (("half_product", own[:, expert]), ("norm", norm[:, expert])):
            run = with_column(run, expert, name, lambda _, values=values: values)
    run = with_column(run, 1, "half_product_clean", lambda _: crossed)
    levels = levels_of(run, **RULES)
    direction_K = levels.of[DIRECTION][1, 0]
    assert direction_K.mean() == pytest.approx(0.2, abs=0.01)
    assert abs(direction_K[-1] - direction_K[0]) < 0.05
    assert plain[-500:].mean() - plain[:500].mean() > 0.1
    assert levels.reliability_ELK[0, 0] == pytest.approx(np.linspace(0.43, 0.2, BINS), abs=0.05)
    assert levels.of[SIZE][1, 0] == pytest.approx(np.zeros(BINS), abs=0.05)


def test_where_the_gradient_is_noise_the_corrected_effects_are_missing():
    rows = 600
    own, crossed, norm, _ = halves(np.random.default_rng(1), rows, 0.8, np.full(rows, 0.04))
    run = run_of(steps=rows, every=1, layers=1, roles=("clean", "perturbed"))
    for expert in range(2):
        for name, values in (("half_product", own[:, expert]), ("norm", norm[:, expert])):
            run = with_column(run, expert, name, lambda _, values=values: values)
    run = with_column(run, 1, "half_product_clean", lambda _: crossed)
    levels = levels_of(run, **RULES)
    assert np.isnan(levels.of[DIRECTION]).all()
    assert np.isnan(levels.of[SIZE]).all()
    assert np.isfinite(levels.of[BOTTOM]).all()
