"""Differences between experts, compared to a slow version that follows the definitions row by row, and the claim."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from prismatic.train.config import RunConfig
from prismatic.train.train import train
from tests.support.logged_runs import execute
from tests.support.run_file import rows
from validation.analysis.bins import BINS, bins_of, plan_of
from validation.analysis.distinct import (
    DIRECTION,
    OUTPUTS,
    WEIGHTS,
    distinct,
    over_experts,
    pair_bins,
    pair_levels,
)
from validation.analysis.intervals import t_quantile
from validation.analysis.load import load_runs
from validation.analysis.run import METRICS, PAIR_METRICS, Expert, Run
from validation.files.read_files import read_files

RULES = {"margin": 0.05, "alpha": 0.05, "min_seeds": 6, "min_experts": 3}
STEPS, EVERY = 600, 4
AT = np.arange(0, STEPS, EVERY)


def directions(cosine, experts, size, rng):
    """Return unit vectors [E, P] of which each two have this cosine."""
    basis = np.linalg.qr(rng.normal(size=(size, experts + 1)))[0].T
    return math.sqrt(cosine) * basis[:1] + math.sqrt(1 - cosine) * basis[1:]


def run_of(cosine=0.8, reliability=0.5, experts=3, layers=2, seed=0, shared=False, size=1000):
    """Return a run as the probe sees it, whose experts' gradients have this cosine, and the batch this much noise.

    shared: all experts see the same noise of the batch. The signal shrinks over the run, and the noise with it.
    """
    rng = np.random.default_rng(seed)
    noise = math.sqrt(2 * (1 / reliability - 1) / size)
    places, pairs = [], []
    for _ in range(layers):
        vectors = directions(cosine, experts, size, rng)
        place = {
            e: Expert(e, "perturbed" if e else "clean", {m: np.zeros(len(AT)) for m in METRICS}) for e in range(experts)
        }
        pair = {p: {"half_product": np.zeros(len(AT))} for p in combinations(range(experts), 2)}
        for row, step in enumerate(AT):
            draws = rng.normal(size=(2, 1 if shared else experts, size))
            half = math.exp(-step / STEPS) * (vectors + noise * draws)
            for e in range(experts):
                place[e].columns["half_product"][row] = half[0, e] @ half[1, e]
                place[e].columns["norm"][row] = np.linalg.norm(half[:, e].mean(axis=0))
            for e, f in pair:
                pair[e, f]["half_product"][row] = (half[0, e] @ half[1, f] + half[1, e] @ half[0, f]) / 2
        for e, f in pair:
            pair[e, f]["weight_distance"] = (e + f) * AT / STEPS
            pair[e, f]["output_distance"] = np.full(len(AT), 0.1 * f)
        places.append(place)
        pairs.append(pair)
    return Run("a", "a.db", AT, places[0], layers=places, pairs=pairs, source="isolated")


def bins_for(run, sound=None):
    plan = plan_of(AT, planned=STEPS, frequencies=(EVERY,), share=0.1, warmup_steps=0.0)
    sound = np.ones(len(AT), dtype=bool) if sound is None else sound
    return bins_of(plan, run.steps, sound, np.zeros((1, len(AT))), share=0.8)


def levels(run, reliability=0.1, **options):
    return pair_levels(run, bins_for(run, **options), reliability=reliability)


def with_column(run, pair, name, change, layer=0):
    """Return the run with a changed column of a pair in one layer."""
    pairs = [dict(each) for each in run.pairs]
    pairs[layer][pair] = pairs[layer][pair] | {name: change(pairs[layer][pair][name].copy())}
    return replace(run, pairs=pairs)


def slowly(run, e, f):
    """Return direction, weights and outputs of a pair by bin, straight from the definition."""
    start, found = 0.1 * STEPS, []
    width = (STEPS - start) / BINS
    for k in range(BINS):
        rows = [row for row, step in enumerate(AT) if start + k * width <= step < start + (k + 1) * width]
        in_layers = []
        for place, pair in zip(run.layers, run.pairs, strict=True):
            product, own, other = (
                sum(column[row] for row in rows) / len(rows)
                for column in (pair[e, f]["half_product"], place[e]["half_product"], place[f]["half_product"])
            )
            distances = [np.mean([pair[e, f][n][row] for row in rows]) for n in ("weight_distance", "output_distance")]
            in_layers.append([1 - product / math.sqrt(own * other), *distances])
        found.append(np.mean(in_layers, axis=0))
    return np.transpose(found)


def test_levels_are_means_over_rows_first_then_ratios_then_means_over_layers():
    run = run_of()
    found = levels(run)
    for e, f in combinations(range(3), 2):
        for name, expected in zip((DIRECTION, WEIGHTS, OUTPUTS), slowly(run, e, f), strict=True):
            assert found.of[name][e, f] == pytest.approx(expected)
            assert found.of[name][f, e] == pytest.approx(expected)
    assert all(np.isnan(found.of[name][e, e]).all() for name in found.of for e in range(3))
    last = [np.mean(slowly(run, 0, 2)[n][-2:]) for n in range(3)]
    assert [found.last_third(name)[0, 2] for name in (DIRECTION, WEIGHTS, OUTPUTS)] == pytest.approx(last)


@pytest.mark.parametrize("reliability", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("shared", [False, True])
def test_a_known_direction_is_found_whatever_the_noise_of_the_batch(reliability, shared):
    found = [levels(run_of(0.8, reliability, seed=seed, shared=shared)).last_third(DIRECTION) for seed in range(12)]
    off_diagonal = ~np.eye(3, dtype=bool)
    assert np.mean([matrix[off_diagonal] for matrix in found]) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("reliability", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("shared", [False, True])
def test_experts_that_are_the_same_up_to_noise_have_no_direction(reliability, shared):
    """A plain cosine of the same rows would show 1 - reliability."""
    found = [levels(run_of(1.0, reliability, seed=seed, shared=shared)) for seed in range(12)]
    means = [np.nanmean(each.last_third(DIRECTION)) for each in found]
    assert np.mean(means) == pytest.approx(0.0, abs=0.01)
    claim = distinct(found, **RULES)
    assert claim.refuted
    assert not claim.supported


def test_a_direction_surely_above_the_margin_supports_the_claim():
    claim = distinct([levels(run_of(0.9, 0.7, seed=seed)) for seed in range(6)], **RULES)
    assert (claim.supported, claim.refuted, claim.over, claim.interval.units) == (True, False, "seeds", 6)
    assert claim.interval.low < 0.1 < claim.interval.high
    assert claim.of[DIRECTION] == pytest.approx(np.where(np.eye(3, dtype=bool), np.nan, 0.1), abs=0.01, nan_ok=True)


def test_too_few_seeds_or_experts_decide_nothing_and_still_have_an_interval():
    seeds = distinct([levels(run_of(0.9, 0.7, seed=seed)) for seed in range(5)], **RULES)
    assert not seeds.supported
    assert seeds.interval.low > 0.05
    pair = distinct([levels(run_of(0.5, experts=2))], **RULES)
    assert (pair.supported, pair.refuted, pair.over) == (False, False, "experts")
    assert (pair.interval.mid, pair.interval.low) == (pytest.approx(0.5, abs=0.1), -math.inf)


def test_one_run_is_judged_by_its_experts():
    claim = distinct([levels(run_of(0.8, 0.7, experts=5))], **RULES)
    assert (claim.supported, claim.over, claim.interval.units, claim.units_needed) == (True, "experts", 5, 3)


def test_the_course_is_the_mean_over_pairs_and_runs_in_each_bin():
    runs = [run_of(seed=seed) for seed in range(2)]
    course = distinct([levels(run) for run in runs], **RULES).course
    pairs = [slowly(run, e, f) for run in runs for e, f in combinations(range(3), 2)]
    for n, name in enumerate((DIRECTION, WEIGHTS, OUTPUTS)):
        assert course[name] == pytest.approx(np.mean([pair[n] for pair in pairs], axis=0))


def test_a_bin_of_too_little_reliability_has_no_direction_but_distances():
    found = levels(run_of(0.8, 0.05))
    claim = distinct([found] * 6, **RULES)
    assert np.isnan(found.last_third(DIRECTION)).all()
    assert np.isfinite(found.last_third(OUTPUTS)[0, 1])
    assert math.isnan(claim.interval.mid)
    assert not claim.supported
    assert not claim.refuted


def test_one_missing_bin_is_skipped_and_two_are_too_many():
    run = run_of()
    place_T = bins_for(run).place_T
    whole = levels(run).of[DIRECTION]
    assert levels(run, sound=place_T != 5).last_third(DIRECTION)[0, 1] == pytest.approx(whole[0, 1, -2])
    assert np.isnan(levels(run, sound=(place_T > 0) & (place_T < 5)).last_third(DIRECTION)).all()


def test_rows_that_one_pair_lacks_are_missing_for_all():
    """Otherwise the mean over pairs would be over other pairs in some bins, and rows could be chosen by value."""
    lacking = with_column(run_of(), (0, 1), "half_product", lambda c: np.where(np.arange(len(c)) == 100, np.nan, c))
    found = levels(lacking)
    place = int(bins_for(lacking).place_T[100])
    assert [k for k in range(BINS) if np.isnan(found.of[DIRECTION][..., k]).all()] == [place]
    assert np.isfinite(found.of[WEIGHTS][0, 1]).all()


@pytest.mark.parametrize("value", [1e308, -1e308, math.inf])
def test_numbers_that_no_training_has_are_missing(value):
    run = run_of()
    for name in PAIR_METRICS:
        run = with_column(run, (0, 1), name, lambda c: np.where(np.arange(len(c)) >= 100, value, c))
    found = levels(run)
    for name in (DIRECTION, WEIGHTS, OUTPUTS):
        assert np.isnan(found.last_third(name)).all()
        assert np.isfinite(found.of[name][0, 2, 1])


def test_a_pair_that_was_never_measured_is_left_out():
    run = run_of(experts=4)
    for layer in range(2):
        run = with_column(run, (0, 3), "half_product", lambda c: np.full(len(c), np.nan), layer)
    found = levels(run)
    assert np.isnan(found.of[DIRECTION][0, 3]).all()
    kept = [slowly(run, e, f)[0] for e, f in combinations(range(4), 2) if (e, f) != (0, 3)]
    assert distinct([found], **RULES).course[DIRECTION] == pytest.approx(np.mean(kept, axis=0))


def test_an_expert_without_gradients_is_no_unit():
    run = run_of(experts=4)
    silent = {m: np.full(len(AT), np.nan) for m in METRICS}
    run = replace(run, layers=[{**layer, 3: Expert(3, "perturbed", silent)} for layer in run.layers])
    for layer in range(2):
        for e in range(3):
            run = with_column(run, (e, 3), "half_product", lambda c: np.full(len(c), np.nan), layer)
    claim = distinct([levels(run)], **RULES)
    assert claim.interval.units == 3
    assert np.isnan(claim.of[DIRECTION][3]).all()


def rarely(run, every):
    """Return the run as if its pairs had been compared at these steps alone."""
    kept = AT % every == 0
    pairs = [
        {p: {n: np.where(kept, c, np.nan) for n, c in columns.items()} for p, columns in layer.items()}
        for layer in run.pairs
    ]
    return replace(run, pairs=pairs)


@pytest.mark.parametrize("facts", [{}, {"config.log_freq": EVERY, "config.probe_freq": EVERY, "config.pair_freq": 20}])
def test_pairs_that_are_compared_more_rarely_than_probed_have_bins_of_their_own(facts):
    run = replace(rarely(run_of(), 20), facts=facts | {"planned_steps": STEPS})
    bins = pair_bins(run, bins_for(run), warmup=0.1, share=0.8)
    assert bins.rows_K.tolist() == [5, 4, 5, 4, 5, 4]
    assert not bins.missing_K.any()
    found = pair_levels(run, bins, reliability=0.1)
    for k in range(BINS):
        inside = [row for row, step in enumerate(AT) if step % 20 == 0 and 60 + 90 * k <= step < 150 + 90 * k]
        expected = []
        for place, pairs in zip(run.layers, run.pairs, strict=True):
            product, one, other = (
                np.mean([column[row] for row in inside])
                for column in (pairs[0, 1]["half_product"], place[0]["half_product"], place[1]["half_product"])
            )
            expected.append(1 - product / math.sqrt(one * other))
        assert found.of[DIRECTION][0, 1, k] == pytest.approx(np.mean(expected))


def test_rows_of_pairs_that_are_lost_are_lost_rows_of_the_declared_grid():
    facts = {"config.log_freq": EVERY, "config.probe_freq": EVERY, "config.pair_freq": 8, "planned_steps": STEPS}
    run = replace(rarely(run_of(), 40), facts=facts)
    assert pair_bins(run, bins_for(run), warmup=0.1, share=0.8).missing_K.all()


@pytest.mark.parametrize("facts", [{}, {"config.log_freq": EVERY, "config.probe_freq": EVERY}])
def test_pairs_of_every_probe_have_the_bins_of_the_probe(facts):
    run = replace(run_of(), facts=facts | {"planned_steps": STEPS})
    bins = bins_for(run)
    assert pair_bins(run, bins, warmup=0.1, share=0.8) is bins


def test_the_probe_runs_as_often_as_pairs_are_compared():
    def every(**frequencies):
        facts = {f"config.{name}": value for name, value in frequencies.items()}
        run = replace(run_of(), facts=facts)
        return run.every, run.pair_every

    assert every(log_freq=2, probe_freq=6) == (6, None)
    assert every(log_freq=2, probe_freq=6, pair_freq=12) == (6, 12)
    assert every(log_freq=2, probe_freq=12, pair_freq=6) == (6, 6)
    assert every(log_freq=4, probe_freq=0, pair_freq=6) == (12, 12)
    assert every(log_freq=4, probe_freq=6, pair_freq=0) == (12, None)
    assert every(log_freq=4) == (None, None)


def test_runs_without_pairs_and_groups_of_different_experts_have_no_claim():
    run = run_of()
    assert levels(replace(run, pairs=())) is None
    assert levels(replace(run, layers=())) is None
    assert distinct([], **RULES) is None
    assert distinct([levels(run), levels(run_of(experts=4))], **RULES) is None


def slow_jackknife(matrix):
    """Return mean and standard error over experts, from the means over the pairs without each."""
    experts = len(matrix)

    def mean(without=None):
        kept = [e for e in range(experts) if e != without]
        values = [matrix[e, f] for e, f in combinations(kept, 2) if not math.isnan(matrix[e, f])]
        return sum(values) / len(values)

    without = [mean(e) for e in range(experts)]
    spread = sum((value - sum(without) / experts) ** 2 for value in without)
    return mean(), math.sqrt((experts - 1) / experts * spread)


@pytest.mark.parametrize("experts", [3, 4, 9])
def test_the_interval_over_experts_is_the_jackknife(experts):
    rng = np.random.default_rng(experts)
    matrix = rng.normal(0.3, 0.1, (experts, experts))
    matrix = matrix + matrix.T
    np.fill_diagonal(matrix, np.nan)
    mid, error = slow_jackknife(matrix)
    found = over_experts(matrix, 0.05)
    half = t_quantile(0.05, experts - 1) * error
    assert (found.mid, found.low, found.high, found.units) == pytest.approx((mid, mid - half, mid + half, experts))


def test_equal_pairs_have_an_interval_without_width():
    matrix = np.where(np.eye(4, dtype=bool), np.nan, 0.2)
    found = over_experts(matrix, 0.05)
    assert (found.mid, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))


def test_experts_that_all_share_one_pair_have_no_bounds():
    matrix = np.full((3, 3), np.nan)
    matrix[0, 1] = matrix[1, 0] = matrix[0, 2] = matrix[2, 0] = 0.2
    assert over_experts(matrix, 0.05).low == -math.inf


@pytest.mark.parametrize("experts", [3, 6])
@pytest.mark.parametrize("uneven", [0.0, 0.5])
def test_experts_as_draws_are_rarely_called_distinct_at_the_margin(experts, uneven):
    """uneven: spread of the experts' log distances from their common gradient."""
    rng = np.random.default_rng(experts)

    def drawn(count):
        own = rng.normal(size=(count, 50)) * 0.3 * np.exp(uneven * rng.normal(size=(count, 1)))
        own[:, 0] += math.sqrt(50)
        unit = own / np.linalg.norm(own, axis=1, keepdims=True)
        matrix = 1 - unit @ unit.T
        np.fill_diagonal(matrix, np.nan)
        return matrix

    truth = float(np.nanmean(drawn(2000)))
    found = [over_experts(drawn(experts), 0.05) for _ in range(600)]
    assert np.mean([one.low > truth for one in found]) <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / 600)
    if not uneven:
        assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.92


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the file of a short training with a probe."""
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "sequence_length": 16, "batch_size": 8}
    config = RunConfig(
        **shape, steps=60, log_freq=1, probe_freq=2, control_experts=1, merge="example", learning_rate=1e-4
    )
    return train(config, runs=tmp_path_factory.mktemp("runs"), progress=False).db_path


def loaded(path):
    (run,) = load_runs(read_files([path])[0])
    return run.isolated


def test_pairs_of_a_training_are_loaded_by_layer_and_pair(trained):
    run = loaded(trained)
    assert [[*layer] for layer in run.pairs] == [[*combinations(range(4), 2)]] * 2
    for layer, pairs in enumerate(run.pairs):
        for (e, f), columns in pairs.items():
            query = f"SELECT * FROM pairs WHERE layer = {layer} AND expert = {e} AND other = {f} ORDER BY step"
            written = rows(trained, query)
            assert run.steps.tolist() == [row["step"] for row in written]
            for name in PAIR_METRICS:
                assert columns[name].tolist() == [row[name] for row in written]


def test_in_a_training_a_control_is_nearer_to_the_clean_expert_than_a_perturbed_one(trained):
    run = loaded(trained)
    plan = plan_of(run.steps, planned=60, frequencies=(1, 2), share=0.1, warmup_steps=0.0)
    bins = bins_of(plan, run.steps, np.ones(len(run.steps), dtype=bool), np.zeros((1, len(run.steps))), share=0.8)
    found = pair_levels(run, bins, reliability=0.1)
    for name in (DIRECTION, WEIGHTS, OUTPUTS):
        last = found.last_third(name)
        assert last[0, 3] < last[0, 1]
        assert last[0, 3] < last[1, 2]
    assert abs(found.last_third(DIRECTION)[0, 3]) < 0.01


def test_odd_rows_of_pairs_are_not_loaded(trained, tmp_path):
    path = tmp_path / "odd.db"
    path.write_bytes(trained.read_bytes())
    odd = ["(NULL, 0, 0, 1)", "(0, NULL, 0, 1)", "(0, 0, NULL, 1)", "(0, 0, 2, 2)", "(0, 0, 3, 1)", "(1, 0, 0, 1)"]
    execute(path, f"INSERT INTO pairs (step, layer, expert, other) VALUES {', '.join(odd)}")
    for found, expected in zip(loaded(path).pairs, loaded(trained).pairs, strict=True):
        assert found.keys() == expected.keys()
        assert all(
            found[pair][name].tolist() == expected[pair][name].tolist() for pair in found for name in found[pair]
        )


def test_a_training_without_a_probe_has_no_pairs(tmp_path):
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "sequence_length": 16, "batch_size": 2}
    (run,) = load_runs(read_files([train(RunConfig(**shape, steps=3), runs=tmp_path, progress=False).db_path])[0])
    assert (run.pairs, run.isolated) == ((), None)
