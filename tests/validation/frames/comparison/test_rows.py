"""Rows of the Compare page: doses, group means, sparklines, search and labels."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.support.simulated_runs import SCALES, write_dose_runs
from validation.files.sources import read_sources
from validation.frames.comparison.dose import dose_effects
from validation.frames.comparison.metrics import group_means, metric_series, sparklines
from validation.frames.comparison.runs_table import filter_runs, group_labels
from validation.frames.comparison.sham_pairs import sham_pair_rows
from validation.frames.downsample import SPARK_POINTS
from validation.judgement.judge import judge


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return judge(*read_sources(write_dose_runs(tmp_path_factory.mktemp("doses"))))


def test_the_doses_that_are_drawn_are_those_that_were_tested(judged):
    dose = judged.verdict.doses[0]
    each, means = dose_effects(dose, 0.05)
    table_SD = each.pivot_table(index="seed", columns="scale", values="value").to_numpy()
    assert dose.p == pytest.approx(stats.page_trend_test(table_SD).pvalue)
    assert dose.slope == pytest.approx(np.mean([np.polyfit(SCALES, row, 1)[0] for row in table_SD]))
    assert means["seeds"].tolist() == [3, 3, 3]
    expected = stats.t.interval(0.95, 2, table_SD[:, 1].mean(), stats.sem(table_SD[:, 1]))
    assert means.loc[1, ["low", "high"]].tolist() == pytest.approx(expected)


def test_runs_beside_their_sham_runs_show_what_each_shows_by_itself(judged):
    pairs = sham_pair_rows(judged)
    runs = {run.id: run for run in judged.runs}
    awake = pairs[pairs["effect"] == "bottom"]
    assert len(awake) == 6
    for row in awake.itertuples():
        for name, shown in ((row.run, row.treated), (row.sham, row[awake.columns.get_loc("of the sham") + 1])):
            level = [
                np.log(runs[name].experts[e]["bottom_norm"] / runs[name].experts[e]["middle_norm"]) for e in (0, 1)
            ]
            bins = [np.mean(level[1][k] - level[0][k]) for k in np.array_split(np.arange(15, 150), 6)]
            assert np.log(shown) == pytest.approx(np.mean(bins), abs=0.01)


def test_a_band_is_students_interval_over_the_runs(judged):
    group = judged.verdict.groups[1]
    data = metric_series(judged.con, group.runs)
    band = group_means(data, dict.fromkeys(group.runs, "A"), "bottom")
    at = band.iloc[7]
    values = data.loc[data["place"] == at["place"], "bottom"].to_numpy()
    expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (at["low"], at["high"]) == pytest.approx(expected)
    alone = group_means(data, {group.runs[0]: "A"}, "bottom")
    assert alone["low"].isna().all()


def test_a_metric_is_the_mean_over_its_window_and_the_perturbed_experts(judged):
    run = judged.runs[0]
    data = metric_series(judged.con, [run.id], points=10)
    own = np.log(run.experts[1]["bottom_norm"] / run.experts[0]["bottom_norm"])
    assert data["bottom"].to_numpy() == pytest.approx(own.reshape(10, -1).mean(axis=1))


def test_a_sparkline_has_few_points_whatever_the_length_of_its_run(judged):
    lines = sparklines(judged.con, [run.id for run in judged.runs], "bottom")
    assert len(lines) == 9
    assert {len(line) for line in lines} == {SPARK_POINTS}


def test_words_find_runs_only_where_all_of_them_stand():
    rows = {"run": ["a1", "b2"], "verdict": ["refuted", "supported"], "kind": ["sham", "treated"]}
    table = pd.DataFrame(rows | dict.fromkeys(("file", "group", "merge", "routing"), "x"))
    assert filter_runs(table, "REF a", [], [])["run"].tolist() == ["a1"]
    assert filter_runs(table, "ref b", [], []).empty
    assert filter_runs(table, "", ["supported"], ["treated"])["run"].tolist() == ["b2"]


def test_every_group_has_its_own_short_label():
    names = group_labels(80)
    assert names[:2] == ["A", "B"]
    assert len(set(names)) == 80
