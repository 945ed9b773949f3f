"""Bins, levels and effects of a run, compared to a slow version that follows the definitions row by row."""

import math
from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run
from tests.support.slow_effects import effect, expert_levels, slowly
from validation.analysis import effects
from validation.analysis.bins import BINS
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, Levels, effect_K, over_time
from validation.analysis.run import Run

UNCORRECTED = {"reliability": None, "spread": 0.1, "perturbed": 2, "control": 2}


def levels_of(run: Run) -> Levels:
    levels = effects.levels_of(run, Thresholds())
    assert levels is not None
    return levels


def alone(**made) -> Run:
    """Return the isolated gradients of a run."""
    run = probed_run(**made).isolated
    assert run is not None
    return run


def with_rows(run: Run, rows) -> Run:
    """Return the run with these rows of its file, in this order."""
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


def with_facts(run: Run, **facts) -> Run:
    return replace(run, facts={**run.facts, **facts})


def assert_as_slow(run: Run, twin: Run | None = None) -> None:
    """Compare every effect of a run, by bin, with the slow implementation."""
    own, other = levels_of(run), None if twin is None else levels_of(twin)
    for name in own.of:
        slow = effect(slowly(run), name, None if twin is None else slowly(twin))
        expected = [math.nan if value is None else value for value in slow]
        assert effect_K(own, name, other) == pytest.approx(expected, nan_ok=True, abs=1e-12), name


@pytest.mark.parametrize(
    "made",
    [
        {},
        UNCORRECTED,
        {"probe": False},
        {"reliability": np.linspace(0.4, 0.02, 120)},
        {"layers": 1, "every": 7},
        {"facts": {"warmup_steps": 150, "planned_steps": 601}},
        {"facts": {"warmup_steps": 10_000}},
        {"facts": {"config.log_freq": None, "config.probe_freq": None}},
        {"facts": {"config.log_freq": 10}, "every": 5},
    ],
    ids=str,
)
def test_an_effect_is_perturbed_minus_control_experts_bin_by_bin(made):
    rows = len(range(0, 600, made.get("every", 5)))
    run = probed_run(bottom=0.2, size=-0.3, direction=np.linspace(0.4, 0, rows), **made)
    for source in (run, run.isolated):
        if source is not None:
            assert_as_slow(source)


def test_means_over_layers_are_read_as_one_layer():
    assert_as_slow(simulated_run(perturbed=2, control=2, awakening=1.4, facts={"config.merge": "example"}))


def test_the_effect_of_a_sham_run_with_the_same_seed_is_subtracted():
    assert_as_slow(alone(bottom=0.3), alone(noise_seed=7))


def test_without_control_experts_the_same_experts_of_the_sham_run_stand_for_them():
    run, sham = alone(bottom=0.3, control=0), alone(noise_seed=7, control=0)
    assert_as_slow(run, sham)
    assert np.isnan(effect_K(levels_of(run), BOTTOM)).all()


def damaged(seed: int) -> Run:
    """Return a run from which rows are lost and repeated, and in which numbers are missing, zero and far off."""
    rng = np.random.default_rng(seed)
    run = alone(seed=seed, steps=900, every=3, reliability=None if seed % 2 else 0.4)
    kept = np.flatnonzero(rng.random(300) > rng.choice([0.02, 0.1, 0.2]))
    repeated = np.sort(np.append(kept, rng.choice(kept, 20)))
    for name, value in (("top_norm", 0.0), ("bottom_norm", np.nan), ("norm", np.inf), ("bottom_to_middle", 4.0)):
        rows = rng.choice(300, 5)

        def spoil(column, rows=rows, value=value):
            column[rows] = value
            return column

        run = with_column(run, int(rng.integers(7)), name, spoil)
    off_grid = with_rows(run, repeated)
    return replace(off_grid, steps=off_grid.steps + (rng.random(len(repeated)) > 0.97))


@pytest.mark.parametrize("seed", range(8))
def test_damaged_rows_are_skipped_as_by_hand(seed):
    assert_as_slow(damaged(seed))


def test_damaged_runs_differ_in_the_bins_they_miss():
    missing = {int(levels_of(damaged(seed)).bins.missing_K.sum()) for seed in range(8)}
    assert len(missing) >= 3


def test_the_order_of_rows_changes_nothing():
    run = alone()
    shuffled = with_rows(run, np.random.default_rng(0).permutation(len(run.steps)))
    for name in (BOTTOM, SIZE, DIRECTION):
        before, after = (effect_K(levels_of(one), name) for one in (run, shuffled))
        assert after == pytest.approx(before)


def test_repeated_rows_count_once_and_the_last_of_them_stands():
    run = alone()
    twice = with_rows(run, np.repeat(np.arange(len(run.steps)), 2))
    first_is_wrong = with_column(twice, 1, "bottom_to_middle", lambda c: np.where(np.arange(len(c)) % 2, c, c + 1))
    assert effect_K(levels_of(first_is_wrong), BOTTOM) == pytest.approx(effect_K(levels_of(run), BOTTOM))


def test_rows_beside_the_declared_grid_count_for_nothing():
    """Dense logging of the first steps, with a frequency that the file declares."""
    dense = with_facts(alone(every=1), **{"config.log_freq": 4, "config.probe_freq": 2})
    even = with_rows(dense, np.flatnonzero(dense.steps % 4 == 0))
    chosen = with_rows(dense, np.flatnonzero((dense.steps % 4 == 0) | (dense.steps < 200)))
    assert effect_K(levels_of(chosen), BOTTOM) == pytest.approx(effect_K(levels_of(even), BOTTOM))


def test_a_file_that_declares_no_frequency_has_its_median_gap_as_grid():
    run = with_facts(alone(), **{"config.log_freq": None, "config.probe_freq": None})
    assert levels_of(run).bins.usable
    assert levels_of(run).bins.rows_K.tolist() == [18] * 6


def test_isolated_rows_lie_on_the_grid_of_logger_and_probe():
    run = with_facts(alone(every=12), **{"config.log_freq": 4, "config.probe_freq": 6})
    assert levels_of(run).bins.rows_K.sum() == 45
    assert levels_of(run).bins.usable


@pytest.mark.parametrize(
    ("kept", "usable"),
    [
        (lambda value, rng: rng.random(len(value)) > 0.05, True),
        (lambda value, rng: value < np.quantile(value, 0.8), False),
        (lambda value, rng: np.arange(len(value)) % 10 == 0, False),
        (lambda value, rng: np.arange(len(value)) > 0.4 * len(value), False),
    ],
    ids=["5 % lost at random", "the largest fifth removed", "one row in ten kept", "started late"],
)
def test_a_run_that_misses_too_many_of_its_planned_rows_is_not_usable(kept, usable):
    run = alone(steps=3000)
    value = run.layers[0][3]["bottom_norm"]
    rows = np.flatnonzero(kept(value, np.random.default_rng(0)))
    levels = levels_of(with_rows(run, rows))
    assert levels.bins.usable is usable
    assert (BOTTOM in levels.measured(BINS)) is usable


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e60, 1e-60])
def test_a_row_counts_for_all_experts_or_for_none(value):
    run = alone(steps=3000)

    def spoil(column):
        column[::100] = value
        return column

    spoiled = with_column(run, 4, "middle_norm", spoil)
    kept = with_rows(run, np.flatnonzero(np.arange(len(run.steps)) % 100))
    assert effect_K(levels_of(spoiled), SIZE) == pytest.approx(effect_K(levels_of(kept), SIZE))


@pytest.mark.parametrize("name", ["norm", "routing_weight"])
def test_a_zero_norm_or_share_is_a_missing_row_and_no_missing_bin(name):
    def spoil(column):
        column[::100] = 0.0
        return column

    spoiled = levels_of(with_column(probed_run(steps=3000), 4, name, spoil))
    assert all(np.isfinite(level).all() for level in spoiled.of.values())


def test_a_row_far_from_its_bin_counts_as_missing():
    def spoil(column):
        column[::20] += np.log(50)
        return column

    run = alone(steps=3000)
    spoiled = with_column(run, 1, "bottom_to_middle", spoil)
    kept = with_rows(run, np.flatnonzero(np.arange(len(run.steps)) % 20))
    assert effect_K(levels_of(spoiled), BOTTOM) == pytest.approx(effect_K(levels_of(kept), BOTTOM))


def test_merged_parameters_are_compared_beyond_their_routing_shares():
    run = probed_run(probe=False)
    moved = run
    for expert in range(1, 4):
        for name in ("norm", "top_norm", "bottom_norm", "middle_norm", "routing_weight"):
            moved = with_column(moved, expert, name, lambda column: 8 * column)
    assert effect_K(levels_of(moved), SIZE) == pytest.approx(effect_K(levels_of(run), SIZE))
    apart, before = (levels_of(with_facts(one, mixture="separate")) for one in (moved, run))
    assert effect_K(apart, SIZE) == pytest.approx(effect_K(before, SIZE) + np.log(8))


def test_without_directions_the_sizes_of_the_tiers_stand_for_them():
    run = probed_run(probe=False)
    for expert in range(7):
        run = with_column(run, expert, "direction", lambda column: column * np.nan)
    assert set(levels_of(run).of) == {BOTTOM, "top_size", "bottom_size", "middle_size"}


def test_a_file_without_whole_norms_is_judged_by_its_tiers():
    run = simulated_run(perturbed=2, control=2)
    for expert in run.experts.values():
        expert.columns["norm"][:] = np.nan
    assert levels_of(run).measured(BINS) == {BOTTOM, "top_size", "bottom_size", "middle_size"}


def test_units_within_a_run_are_experts_averaged_over_layers():
    run, sham = alone(), alone(noise_seed=9)
    slow, twin = (expert_levels(slowly(one), SIZE) for one in (run, sham))
    found = effects.expert_levels(levels_of(run), SIZE, levels_of(sham))
    assert found == pytest.approx(np.array([*slow.values()]) - np.array([*twin.values()]))


def test_first_and_last_are_the_two_bins_at_each_end_that_are_there():
    assert over_time(np.array([1.0, 3.0, 5.0, np.nan, 7.0, 9.0])) == pytest.approx([5, 2, 8])
    assert np.isnan(over_time(np.full((2, BINS), np.nan))).all()


def test_experts_are_those_that_every_layer_has():
    run = probed_run(probe=False)
    without = replace(run, layers=[{e: one for e, one in run.layers[0].items() if e != 2}, run.layers[1]])
    assert levels_of(without).experts == (0, 1, 3, 4, 5, 6)
    for missing in (0, (1, 2, 3)):
        gone = {missing} if isinstance(missing, int) else {*missing}
        none = replace(run, layers=[{e: one for e, one in run.layers[0].items() if e not in gone}])
        assert effects.levels_of(none, Thresholds()) is None


@pytest.mark.parametrize(
    ("facts", "frozen"),
    [({"config.routing": "frozen"}, True), ({"config.routing": "frozen", "mixture": "top_k"}, False), ({}, False)],
)
def test_the_clean_expert_is_a_control_where_no_symmetry_breaks_and_all_see_one_batch(facts, frozen):
    levels = levels_of(probed_run(probe=False, control=0, facts=facts))
    assert (levels.controls.tolist() == [0]) is frozen


def halves(rng, rows, cosine, reliability, dimension=400):
    """Return products of noisy half-batch gradients whose signals have a known cosine; one row per step."""
    signal = np.zeros((2, dimension))
    signal[0, 0], signal[1, :2] = 1.0, (cosine, np.sqrt(1 - cosine**2))
    # Of the squared norm of the mean of both halves, the share of the signal is the reliability.
    sd = np.sqrt(2 * (1 / reliability - 1) / dimension)[:, None, None, None]
    noisy = signal[None, :, None, :] + sd * rng.normal(size=(rows, 2, 2, dimension))  # [T, expert, half, P]
    own = (noisy[:, :, 0] * noisy[:, :, 1]).sum(-1)
    crossed = ((noisy[:, 1, 0] * noisy[:, 0, 1]) + (noisy[:, 1, 1] * noisy[:, 0, 0])).sum(-1) / 2
    whole = noisy.mean(axis=2)
    norm = np.linalg.norm(whole, axis=-1)
    return own, crossed, norm, 1 - (whole[:, 0] * whole[:, 1]).sum(-1) / norm.prod(axis=-1)


def with_halves(rows, cosine, reliability):
    """Return a run of two experts with such products, and 1 minus their plain cosine."""
    own, crossed, norm, plain = halves(np.random.default_rng(0), rows, cosine, reliability)
    run = alone(steps=rows, every=1, layers=1, perturbed=1, control=0)
    for expert in range(2):
        for name, values in (("half_product", own[:, expert]), ("norm", norm[:, expert])):
            run = with_column(run, expert, name, lambda _, values=values: values)
    return with_column(run, 1, "half_product_clean", lambda _: crossed), plain


def test_a_constant_rotation_stays_while_its_gradients_drown_in_noise():
    """The plain cosine shrinks as reliability falls from 0.46 to 0.18; the corrected one does not."""
    run, plain = with_halves(3000, 0.8, np.linspace(0.46, 0.18, 3000))
    levels = levels_of(run)
    direction_K = levels.of[DIRECTION][1, 0]
    assert direction_K.mean() == pytest.approx(0.2, abs=0.01)
    assert abs(direction_K[-1] - direction_K[0]) < 0.05
    assert plain[-500:].mean() - plain[:500].mean() > 0.1
    assert levels.reliability_ELK[0, 0] == pytest.approx(np.linspace(0.43, 0.2, BINS), abs=0.05)
    assert levels.of[SIZE][1, 0] == pytest.approx(np.zeros(BINS), abs=0.05)


def test_one_expert_whose_gradient_is_noise_is_enough_to_miss_a_bin():
    """The rows of the third bin, in one layer."""
    run = alone()
    run.layers[1][5].columns["half_product"][48:66] /= 10
    levels = levels_of(run)
    for name, missing in ((DIRECTION, True), (SIZE, True), (BOTTOM, False)):
        assert np.isnan(levels.of[name][..., 2]).all() == missing
        assert np.isfinite(np.delete(levels.of[name], 2, axis=-1)).all()


def test_where_the_gradient_is_noise_the_corrected_effects_are_missing():
    levels = levels_of(with_halves(600, 0.8, np.full(600, 0.04))[0])
    assert np.isnan(levels.of[DIRECTION]).all()
    assert np.isnan(levels.of[SIZE]).all()
    assert np.isfinite(levels.of[BOTTOM]).all()
    assert levels.measured(BINS) == {BOTTOM}
