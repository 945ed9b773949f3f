"""Run files of other writers: their quantities are found under the schema's names, and nothing is invented."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import fmean

import pytest
from streamlit.testing.v1 import AppTest

from prismatic.contract import schema
from tests.support import bad_files
from tests.support.simulated_runs import simulated_run
from ui.layout.frame import PAGES
from ui.session.library import Library, Source
from validation.charts import run_dynamics
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.files.run_file import RunFile
from validation.frames.downsample import chart_series
from validation.judgement.judge import Judgement, judge
from validation.verdict.claims import INVALID, Reason

TIERS = [f"{tier}_norm" for tier in schema.TIERS]


def read(path: Path, limits: ReadLimits | None = None) -> RunFile:
    (run,), rejected = read_files([path], limits=limits)
    assert not rejected
    return run


def layered(path: Path, metrics: dict[str, Callable[[int, int, int], float | None]], rows: int = 5) -> Path:
    """Write only columns per layer, for two layers and two experts; metrics are functions of step, layer, expert."""
    names = [f"layer_{n}_expert_{i}_{metric}" for n in range(2) for i in range(2) for metric in metrics]
    places = [(n, i, values) for n in range(2) for i in range(2) for values in metrics.values()]
    table = [(step, *(values(step, n, i) for n, i, values in places)) for step in range(rows)]
    return bad_files.database(path, *bad_files.dynamics(table, names))


def as_layered(path: Path) -> Path:
    """Write a simulated run of two layers as columns per layer."""
    runs = [simulated_run(seed=seed, awakening=2.0, divergence=0.5) for seed in range(2)]

    def values(metric: str) -> Callable[[int, int, int], float]:
        return lambda step, layer, expert: float(runs[layer].experts[expert][metric][step])

    return layered(path, {metric: values(metric) for metric in (*TIERS, "routing_weight")}, rows=600)


def verdict(*paths: Path) -> Judgement:
    return judge(*read_files(paths))


# -- Columns per layer ------------------------------------------------------------------------------------------------


def test_columns_per_layer_become_rows_of_layers(tmp_path: Path) -> None:
    run = read(
        bad_files.database(tmp_path / "a.db", *bad_files.dynamics(bad_files.numbers([7, 9], 12), bad_files.LAYERED))
    )
    rows = run.layers.select(["step", "layer", "expert", "source", *TIERS, "norm"]).to_pylist()
    assert [(row["step"], row["layer"], row["expert"]) for row in rows] == [
        (step, layer, expert) for step in (7, 9) for layer in range(2) for expert in range(2)
    ]
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.row_factory = sqlite3.Row
        plain = {row["step"]: dict(row) for row in db.execute("SELECT * FROM dynamics")}
    for row in rows:
        for tier in TIERS:
            assert row[tier] == plain[row["step"]][f"layer_{row['layer']}_expert_{row['expert']}_{tier}"]
        assert (row["source"], row["norm"]) == ("merged", None)


def test_means_over_layers_are_those_of_dynamics_logger(tmp_path: Path) -> None:
    value = lambda step, layer, expert: step + 10.0 * layer + 100.0 * expert  # noqa: E731
    cosine = lambda step, layer, expert: 0.5 + 0.25 * layer  # noqa: E731
    run = read(layered(tmp_path / "a.db", {"top_norm": value, "norm": value, "gradient_cosine": cosine}))
    assert run.wide.column_names == [
        "step",
        *("expert_0_top_norm", "expert_0_clean_norm"),
        *("expert_1_top_norm", "expert_1_perturbed_norm", "expert_1_direction"),
    ]
    assert run.wide["expert_1_top_norm"].to_pylist() == [step + 105.0 for step in range(5)]
    assert run.wide["expert_1_perturbed_norm"].to_pylist() == [step + 105.0 for step in range(5)]
    assert run.wide["expert_1_direction"].to_pylist() == [0.375] * 5
    assert run.layers["gradient_cosine"].to_pylist()[:4] == [0.5, 0.5, 0.75, 0.75]


def test_the_files_own_means_are_kept_and_not_mixed_with_others(tmp_path: Path) -> None:
    names = ["expert_0_top_norm", *bad_files.LAYERED, "layer_0_expert_0_routing_weight"]
    run = read(bad_files.database(tmp_path / "a.db", *bad_files.dynamics(bad_files.numbers(range(3), 14), names)))
    assert run.wide["expert_0_top_norm"].to_pylist() == [1.0, 1.25, 1.5]
    assert "expert_0_routing_weight" in run.wide.column_names
    assert "expert_0_bottom_norm" not in run.wide.column_names
    assert "no means over layers were taken of bottom_norm, middle_norm" in run.notes[0]
    assert len(run.layers) == 3 * 4


def test_a_layer_without_a_value_makes_no_jump_in_the_mean(tmp_path: Path) -> None:
    holes = {"top_norm": lambda step, layer, expert: None if (step, layer) == (2, 1) else 10.0**layer}
    run = read(layered(tmp_path / "a.db", holes))
    assert run.wide["expert_0_top_norm"].to_pylist() == [5.5, 5.5, None, 5.5, 5.5]
    absent = {"top_norm": lambda step, layer, expert: None if layer else 3.0}
    assert read(layered(tmp_path / "b.db", absent)).wide["expert_1_top_norm"].to_pylist() == [3.0] * 5


def test_the_table_layers_takes_precedence_over_columns_per_layer(tmp_path: Path) -> None:
    bad_files.columns_per_layer_and_the_table(tmp_path / "a.db")
    run = read(tmp_path / "a.db")
    assert run.layers["top_norm"].to_pylist() == [0.5] * 120
    assert not [name for name in run.wide.column_names if name.startswith("layer")]


def test_too_many_rows_of_layers_leave_the_means(tmp_path: Path) -> None:
    run = read(layered(tmp_path / "a.db", dict.fromkeys(TIERS, lambda *_: 1.0)), ReadLimits(rows=19))
    assert (len(run.layers), len(run.wide)) == (0, 5)
    assert "expected at most 19 rows (limit `rows`), found 20" in run.notes[0]
    assert run.num_experts == 2


def test_steps_out_of_order_and_twice_reach_the_layers_in_order_and_once(tmp_path: Path) -> None:
    rows = bad_files.numbers([5, 3, 5, 4], 12)
    run = read(bad_files.database(tmp_path / "a.db", *bad_files.dynamics(rows, bad_files.LAYERED)))
    assert run.layers["step"].to_pylist() == [3] * 4 + [4] * 4 + [5] * 4
    assert run.layers["top_norm"].to_pylist()[8] == rows[2][1]
    assert run.duplicates == 1


def test_a_run_in_columns_per_layer_is_judged_like_the_same_run_in_rows(tmp_path: Path) -> None:
    judgement = verdict(as_layered(tmp_path / "a.db"))
    (run,) = judgement.runs
    assert len(run.layers) == 2
    norms = [fmean(layer[1]["bottom_norm"]) for layer in run.layers]
    assert math.isclose(fmean(run.experts[1]["bottom_norm"]), fmean(norms))
    awakening = next(c for c in judgement.verdict.controlled.claims if c.name == "awakening" and c.expert is None)
    assert awakening.reason == Reason.NOTHING_TO_COMPARE  # the file has no control
    assert awakening.estimate == pytest.approx(2.0, rel=0.1)


# -- Files without tiers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [bad_files.only_gradient_norms, bad_files.only_whole_norms_per_layer, bad_files.only_whole_norms],
    ids=lambda write: write.__name__,
)
def test_without_tiers_nothing_is_judged_and_the_reason_is_given(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "a.db")
    judgement = verdict(tmp_path / "a.db")
    for reading in (judgement.verdict.as_written, judgement.verdict.controlled):
        assert {claim.status for claim in reading.claims} == {INVALID}
    errors = [finding for finding in judgement.findings if finding.severity == "error"]
    assert [finding.id for finding in errors] == ["missing_columns"]
    assert "awakening, divergence and sustainment cannot be judged" in errors[0].symptom
    assert any("cannot be judged" in note for note in judgement.files[0].notes)


def test_grad_norm_is_the_whole_norm(tmp_path: Path) -> None:
    bad_files.only_gradient_norms(tmp_path / "a.db")
    judgement = verdict(tmp_path / "a.db")
    wide = judgement.files[0].wide
    assert wide["expert_0_clean_norm"].equals(wide["expert_0_grad_norm"])
    assert wide["expert_2_perturbed_norm"].equals(wide["expert_2_grad_norm"])
    assert judgement.runs[0].experts[2]["norm"].tolist() == wide["expert_2_grad_norm"].to_pylist()


def test_one_expert_without_tiers_makes_the_run_invalid(tmp_path: Path) -> None:
    names = [*bad_files.NORMS, "expert_2_grad_norm"]
    rows = [(row[0], *(value * (1 + row[0] % 7) for value in row[1:])) for row in bad_files.numbers(range(200), 7)]
    judgement = verdict(bad_files.database(tmp_path / "a.db", *bad_files.dynamics(rows, names)))
    missing = [finding.expert for finding in judgement.findings if finding.id == "missing_columns"]
    assert missing == [2]
    assert {claim.status for claim in judgement.verdict.controlled.claims} == {INVALID}


def test_whole_norms_of_zero_are_reported(tmp_path: Path) -> None:
    names = ["expert_0_grad_norm", "expert_1_grad_norm"]
    path = bad_files.database(tmp_path / "a.db", *bad_files.dynamics([(s, 0.0, 0.0) for s in range(5)], names))
    assert "zero_norms" in {finding.id for finding in verdict(path).findings}


def test_columns_without_a_value_are_reported_as_missing_and_not_as_zero(tmp_path: Path) -> None:
    path = bad_files.database(tmp_path / "a.db", *bad_files.dynamics([(s, *[None] * 6) for s in range(5)]))
    found = {finding.id for finding in verdict(path).findings}
    assert "missing_experts" in found
    assert "zero_norms" not in found


def test_the_chart_shows_whole_norms_where_there_are_no_tiers(tmp_path: Path) -> None:
    bad_files.only_gradient_norms(tmp_path / "a.db")
    judgement = verdict(tmp_path / "a.db")
    long = chart_series(judgement.files[0], 2000).to_pandas()
    drawn = run_dynamics.tier_norms(long).layer[0].data
    assert set(drawn["series"]) == {"clean whole", "perturbed whole"}
    assert len(drawn) == 600


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_a_file_without_tiers(tmp_path: Path, page: str) -> None:
    bad_files.only_gradient_norms(tmp_path / "dynamics.db")
    at = AppTest.from_file(str(Path(__file__).parents[4] / "app.py"), default_timeout=30)
    at.session_state["library"] = Library([Source(tmp_path / "dynamics.db", "other")])
    at.run()
    at = at if page == "app.py" else at.switch_page(page).run()
    assert not at.exception
    assert bool(at.get("vega_lite_chart")) == (page in ("app.py", "pages/1_Dynamics.py", "pages/5_Diagnostics.py"))


# -- Means, statistics and histograms ---------------------------------------------------------------------------------


def test_a_mean_is_never_used_as_a_norm(tmp_path: Path) -> None:
    bad_files.a_mean_for_a_norm(tmp_path / "a.db")
    judgement = verdict(tmp_path / "a.db")
    assert set(judgement.con.execute("SELECT DISTINCT top_norm FROM dynamics").fetchall()) == {(None,)}
    found = [finding for finding in judgement.findings if finding.id == "missing_columns"]
    assert [finding.evidence for finding in found] == [f"no value in expert_{i}_top_norm" for i in range(2)]
    assert {claim.status for claim in judgement.verdict.as_written.claims} == {INVALID}


def test_histograms_are_read_like_layers(tmp_path: Path) -> None:
    bad_files.histograms(tmp_path / "a.db")
    run = read(tmp_path / "a.db")
    assert run.histograms.num_rows == 120_000
    assert run.histograms.slice(31, 1).to_pylist() == [
        {"step": 31, "layer": 0, "expert": 0, "tier": "top", "bin": -14, "count": 7}
    ]
    few = read(tmp_path / "a.db", ReadLimits(rows=100_000))
    assert (few.histograms.num_rows, len(few.wide)) == (0, 40)
    assert "table `histograms` was not read: expected at most 100,000 (limit `rows`)" in few.notes[0]
