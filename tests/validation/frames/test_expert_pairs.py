"""Matrices of pairs of experts: windows of probes, the reliability rule, the order, compared to plain loops."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from tests.support.paired_runs import direction, write_pairs
from validation.analysis.load import load_runs
from validation.files.read_files import read_files
from validation.frames.expert_pairs import (
    MEASURED,
    MISSING,
    NOISE,
    PAIR_MEASURES,
    has_pairs,
    pair_frames,
    pair_range,
    similarity_order,
)


def run_of(path):
    (run,) = load_runs(read_files([path])[0])
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Read eight experts of two groups; expert 5 is mostly noise in the first half."""
    return run_of(write_pairs(tmp_path_factory.mktemp("pairs") / "a.db", noisy=(5,)))


def frames_of(run, measure="direction", place=0, **options):
    return pair_frames(run.isolated, measure, place, reliability=0.1, **options)


@pytest.mark.parametrize("place", [0, 1, None])
@pytest.mark.parametrize("measure", PAIR_MEASURES)
def test_a_frame_is_the_mean_of_its_probes(run, measure, place):
    found = frames_of(run, measure, place, most=8)
    assert found.first_F.tolist() == [*range(0, 480, 60)]
    assert found.last_F.tolist() == [*range(50, 480, 60)]
    assert found.probes_F.tolist() == [6] * 8
    factor = {"direction": 1, "weights": 2, "outputs": 0.5}[measure]
    for frame in (0, 5):
        for row in found.at(frame).to_dict("records"):
            e, f = row["expert"], row["other"]
            layers = [0, 1] if place is None else [place]
            grown = [(probe + 1) / 48 for probe in range(6 * frame, 6 * frame + 6)]
            expected = np.mean([factor * direction(e, f, layer, each) for layer in layers for each in grown])
            if measure == "direction" and frame == 0 and 5 in (e, f):
                assert (row["state"], math.isnan(row["value"])) == (NOISE, True)
            else:
                assert (row["state"], row["value"]) == (MEASURED, pytest.approx(expected))


def test_a_frame_has_each_ordered_pair_once_and_its_pairs_are_sorted(run):
    found = frames_of(run)
    rows = found.at(7)
    assert {(row.expert, row.other) for row in rows.itertuples()} == {
        (e, f) for e in range(8) for f in range(8) if e != f
    }
    pairs = found.pairs_at(7)
    assert len(pairs) == 28
    assert pairs["value"].is_monotonic_increasing
    assert (pairs["expert"] < pairs["other"]).all()


def test_similar_experts_are_neighbours_in_one_order_for_all_frames(run):
    order = frames_of(run).experts
    assert sorted(order) == [*range(8)]
    halves = {frozenset(order[:4]), frozenset(order[4:])}
    assert halves == {frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7})}


def test_the_order_is_that_of_least_distance_between_neighbours_of_a_line():
    """Experts on a line, shuffled: the best order is the line, forward or backward."""
    places = np.array([3.0, 0.0, 5.0, 1.0, 9.0])
    matrix = np.abs(places[:, None] - places[None])[..., None]
    matrix[np.eye(5, dtype=bool)] = np.nan
    order = similarity_order(matrix)
    assert order in ([1, 3, 0, 2, 4], [4, 2, 0, 3, 1])


@pytest.mark.parametrize("unknown", [(0, 1), (0, 1, 2, 3)])
def test_unknown_distances_and_slightly_negative_ones_have_an_order(unknown):
    matrix = np.full((4, 4, 2), -0.001)
    for e, f in combinations(unknown, 2):
        matrix[e, f] = matrix[f, e] = np.nan
    assert sorted(similarity_order(matrix)) == [0, 1, 2, 3]


def test_pairs_that_were_not_compared_are_told_from_noise_and_from_zeros(run):
    isolated = run.isolated
    pairs = [{pair: columns for pair, columns in layer.items() if pair != (0, 1)} for layer in isolated.pairs]
    rows = pair_frames(replace(isolated, pairs=pairs), "direction", 0, reliability=0.1).at(0)
    states = {(row.expert, row.other): row.state for row in rows.itertuples()}
    assert states[0, 1] == states[1, 0] == MISSING
    assert states[0, 5] == NOISE
    assert states[0, 2] == MEASURED


def test_frames_are_as_many_as_have_some_probes_each_and_rarer_rows_of_pairs_are_found(run):
    isolated = run.isolated
    seldom = np.arange(48) % 4 == 0
    pairs = [
        {pair: {name: np.where(seldom, c, np.nan) for name, c in columns.items()} for pair, columns in layer.items()}
        for layer in isolated.pairs
    ]
    found = pair_frames(replace(isolated, pairs=pairs), "outputs", 0, reliability=0.1)
    assert found.probes_F.tolist() == [4, 4, 4]
    assert found.first_F.tolist() == [0, 160, 320]
    expected = np.mean([direction(0, 1, 0, (probe + 1) / 48) / 2 for probe in (0, 4, 8, 12)])
    (value,) = found.at(0).query("expert == 0 and other == 1")["value"]
    assert value == pytest.approx(expected)


def test_the_colours_begin_at_zero_and_reach_the_margin_at_least(run):
    found = frames_of(run)
    assert pair_range(found, 0.05) == (0.0, pytest.approx(np.nanquantile(found.values_EEF, 0.99)))
    assert pair_range(found, 9.0) == (0.0, 9.0)


def test_a_run_without_pairs_has_no_matrices(tmp_path):
    run = run_of(write_pairs(tmp_path / "a.db", probes=6, compared=False))
    assert not has_pairs(run)
    nothing = replace(run, isolated=replace(run.isolated, pairs=[{}, {}]))
    assert frames_of(nothing) is None
