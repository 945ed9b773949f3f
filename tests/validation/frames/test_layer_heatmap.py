"""Cells of the heatmap of layers: norms as a slow query in SQL finds them, frames, colour range and histograms."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prismatic import DynamicsLogger
from prismatic.contract.schema import TIERS
from tests.support.layered_runs import write_layers
from tests.support.oracles import ask_oracle
from tests.support.packed_runs import log_packed
from tests.support.source_tree import ROOT
from validation.analysis import series
from validation.analysis.load import load_runs
from validation.analysis.run import Expert
from validation.files.read_files import read_files
from validation.files.sources import read_sources
from validation.frames.layer_heatmap import (
    cell_rows,
    color_range,
    heatmap_frames,
    histogram_rows,
    layer_names,
    meaning_of,
)
from validation.judgement.judge import judge
from validation.query.database import connect


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Judge a run of three layers whose bottom tier gains in layer 1 only."""
    path = tmp_path_factory.mktemp("layers") / "three.db"
    return judge(*read_sources([write_layers(path, gaining=1, gain=2.0, steps=160, histograms=True)]))


def test_a_frame_is_the_mean_of_its_steps(judged):
    run, names = judged.runs[0], layer_names(judged.files[0])
    found = heatmap_frames(run, "size", names, most=7)
    frame = 3
    cell = found.at(frame).query("layer == 1 and expert == 1 and tier == 'bottom'")["value"].item()
    rows = (run.steps >= found.first_F[frame]) & (run.steps <= found.last_F[frame])
    one_layer = replace(run, layers=[run.layers[1]])
    assert cell == pytest.approx(series.ratio_beyond_routing(one_layer, 1)["bottom"][rows].mean())
    assert len(found.first_F) == 7
    assert cell == pytest.approx(np.log(2.0), abs=0.05)


def test_frames_are_single_steps_where_there_are_few_and_nan_where_nothing_is(tmp_path):
    (run,) = load_runs(read_sources([write_layers(tmp_path / "short.db", steps=5)])[0])
    assert heatmap_frames(run, "size", [0, 1, 2]).first_F.tolist() == [0, 1, 2, 3, 4]
    silent = {
        e: Expert(e, one.role, {**one.columns, "bottom_norm": np.full(5, np.nan)}) for e, one in run.layers[0].items()
    }
    cells = heatmap_frames(replace(run, layers=[silent, *run.layers[1:]]), "norm", [0, 1, 2]).at(0)
    assert cells.query("layer == 0 and tier == 'bottom'")["value"].isna().all()
    assert cells.query("layer == 1")["value"].notna().all()


def test_colours_are_centred_and_a_spike_does_not_bleach_the_rest():
    values = np.append(np.random.default_rng(0).normal(0, 0.3, 999), 50.0)
    low, high = color_range(values, "size", 0.1)
    assert low == -high
    assert 0.3 < high < 2
    assert color_range(values * 1e-3, "size", 0.1) == (-0.1, 0.1)


def test_a_relative_size_is_corrected_by_shares_only_where_parameters_are_merged(judged):
    (run,) = judged.runs
    assert meaning_of("size", run).endswith("corrected for the routing shares")
    topk = replace(run, facts={**run.facts, "mixture": "top_k"})
    assert meaning_of("size", topk).endswith("the same ratio of the middle tier")
    assert meaning_of("norm", topk) == meaning_of("norm", run)


def test_a_histogram_is_shares_of_one(judged):
    table = histogram_rows(judged.con, judged.runs[0], 1, 1, "bottom")
    assert table.groupby("step")["share"].sum().to_numpy() == pytest.approx(1.0)
    assert table["step"].tolist()[::6] == list(range(0, 160, 10))
    assert table.loc[table["step"] == 0, "share"].tolist() == pytest.approx(np.arange(10, 40, 5) / 135)


def test_the_heatmap_has_the_norm_of_each_layer_expert_and_tier(tmp_path: Path):
    layers = [
        {"layer": layer, "expert": expert, "source": source, **{f"{tier}_norm": 1.0 for tier in TIERS}}
        for layer in range(3)
        for expert in range(2)
        for source in ("merged", "isolated")
    ]
    norms = {f"expert_{expert}": {"top_norm": 1.0} for expert in range(2)}
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        for step in range(1, 11):
            rows = [row | {"top_norm": step + row["layer"] + row["expert"] / 2} for row in layers]
            logger.log(step, {"expert_gradients": norms, "layers": rows})
    (run,), rejected = read_sources([tmp_path / "dynamics.db"])
    frames = heatmap_frames(judge([run], rejected).runs[0], "norm", [0, 1, 2])
    keys = ["layer", "expert", "tier"]
    for frame, step in enumerate(frames.first_F.tolist()):
        found = ask_oracle(connect([run]), "layer_norms", run=run.id, first_step=step, last_step=step).to_pandas()
        shown = frames.at(frame).merge(found, on=keys, how="outer")
        assert len(shown) == 3 * 2 * 3
        assert np.exp(shown["value"]).to_numpy() == pytest.approx(shown["norm"].to_numpy())
        top = shown[shown["tier"] == "top"]
        assert top["norm"].tolist() == (step + top["layer"] + top["expert"] / 2).tolist()


def slowly(run, place, expert, measure):
    """Return the series of an expert in one layer by the definition of the measure, row by row."""
    own, clean = (run.layers[place][e] for e in (expert, 0))
    found = {}
    for tier in TIERS:
        series_T = []
        for row in range(len(run.steps)):
            ratio = math.log(own[f"{tier}_norm"][row] / clean[f"{tier}_norm"][row])
            share = math.log(own["routing_weight"][row] / clean["routing_weight"][row])
            series_T.append(ratio - share if measure == "size" else math.log(own[f"{tier}_norm"][row]))
        found[tier] = series_T
    if measure in ("size", "norm"):
        return found
    column = own["direction"] if measure == "direction" else own["bottom_to_middle"] - clean["bottom_to_middle"]
    return {"all tiers": column.tolist()}


@pytest.mark.parametrize("measure", ["size", "norm", "direction", "bottom"])
@pytest.mark.parametrize("experts", [3, 40])
def test_all_experts_of_a_layer_at_once_are_each_as_by_itself(tmp_path, measure, experts):
    roles = ["clean", *["perturbed"] * (experts - 2), "control"]
    files, _ = read_files([log_packed(tmp_path / "run.db", roles=roles, steps=6, probe_every=0)])
    (run,) = load_runs(files)
    for expert in (1, experts - 1):
        rows = cell_rows(run, measure, 1, expert)
        expected = slowly(run, 1, expert, measure)
        assert {*rows["tier"]} == {*expected}
        for tier, own in rows.groupby("tier"):
            assert own["value"].tolist() == pytest.approx(expected[tier])
    if experts == 3:
        cells = heatmap_frames(run, measure, [0, 1])
        places = list(zip(cells.cells["layer"], cells.cells["expert"], cells.cells["tier"], strict=True))
        expected = [slowly(run, layer, expert, measure)[tier] for layer, expert, tier in places]
        assert cells.values_KF == pytest.approx(np.array(expected))


def test_the_distance_of_weights_stands_until_it_is_measured_again():
    path = ROOT / "examples" / "as-is.db"
    (file,), _ = read_files([path])
    (run,) = load_runs([file])
    with closing(sqlite3.connect(path)) as db:
        where = "layer = 1 AND expert = 2 AND weight_distance IS NOT NULL"
        logged = dict(db.execute(f"SELECT step, weight_distance FROM layers WHERE {where}"))
    rows = cell_rows(run, "weights", 1, 2, most=len(run.steps))
    expected = [
        next((logged[at] for at in sorted(logged, reverse=True) if at <= step), np.nan) for step in rows["step"]
    ]
    assert len(logged) < len(rows)
    assert rows["value"].tolist() == pytest.approx(expected, nan_ok=True)


def test_neighbours_of_one_role_share_a_cell_if_there_are_many(tmp_path):
    roles = ["clean", *["perturbed"] * 37, *["control"] * 4]
    files, _ = read_files([log_packed(tmp_path / "many.db", roles=roles, steps=4, probe_every=0)])
    (run,) = load_runs(files)
    found = heatmap_frames(run, "size", layer_names(files[0]))
    assert found.shared == 6
    assert [found.first_of[expert] for expert in (1, 6, 7, 38)] == [1, 1, 7, 38]
    one = found.at(2).query("layer == 1 and expert == 7 and tier == 'top'")
    assert one["experts"].item() == "7 to 12"
    one_layer = replace(run, layers=[run.layers[1]])
    values = [series.ratio_beyond_routing(one_layer, e)["top"][2] for e in range(7, 13)]
    assert one["value"].item() == pytest.approx(np.mean(values))
    controls = found.cells.query("role == 'control'")["experts"].unique().tolist()
    assert controls == ["38 to 41"]
