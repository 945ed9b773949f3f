"""Rows of the forest plot, against a slow second implementation."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.support.source_tree import ROOT
from validation.files.sources import read_sources
from validation.frames.comparison.forest import effects_of, forest, in_order
from validation.judgement.judge import judge

DIRECTION = "direction"


@pytest.fixture(scope="module")
def judged():
    return judge(*read_sources([ROOT / "examples" / "study"]))


def slow_rows(judgement, group, claim, effect):
    """Return name, estimate, low and high of each run by seed and of the group, from the levels of the experts."""
    thresholds = judgement.verdict.thresholds
    effects = {"awakening": 1, "divergence": 2}[claim]
    found = next(each for each in group.claims if each.name == claim)
    alpha = thresholds.alpha / (1 if found.status == "refuted" else effects)
    rows, values = [], []
    for seed, run in sorted((run.seed, run.id) for run in judgement.runs if run.id in group.runs):
        own = next(each for each in judgement.measured if each.run.id == run)
        levels = own.levels("isolated")
        twin = judgement.cohort.twin_of(own.run)
        level_ELK = levels.of[effect] - (twin.levels("isolated").of[effect] if twin else 0.0)
        level_E = level_ELK.mean(axis=1).mean(axis=1)
        perturbed, control = level_E[levels.role("perturbed")], level_E[levels.role("control")]
        alone = judgement.verdict.controlled.whole(run)[claim]
        at = thresholds.alpha / (1 if alone.status == "refuted" else effects)
        interval = stats.ttest_ind(perturbed, control, equal_var=False).confidence_interval(1 - at)
        values.append(perturbed.mean() - control.mean())
        rows.append((f"seed {seed}", values[-1], interval.low, interval.high))
    low, high = stats.t.interval(1 - alpha, len(values) - 1, np.mean(values), stats.sem(values))
    return [*rows, (f"{len(values)} seeds", np.mean(values), low, high)]


@pytest.mark.parametrize(
    ("claim", "effect"), [("awakening", "bottom"), ("divergence", "size"), ("divergence", DIRECTION)]
)
def test_lines_are_the_seeds_and_the_groups_with_the_intervals_that_decide(judged, claim, effect):
    for group in in_order(judged.verdict.groups):
        plot = forest(judged, [group], claim, effect)
        expected = slow_rows(judged, group, claim, effect)
        lines = plot.rows[plot.rows["kind"] != "heading"]
        assert lines["label"].tolist() == [row[0] for row in expected]
        for line, (_, *numbers) in zip(lines.itertuples(), expected, strict=True):
            drawn = [min(max(number, -plot.edge), plot.edge) for number in numbers]
            assert [line.value, line.low, line.high] == pytest.approx(drawn, abs=1e-9)
            assert (line.below, line.above) == (numbers[1] < -plot.edge, numbers[2] > plot.edge)


def test_numbers_are_written_in_the_unit_of_the_claim(judged):
    group = next(group for group in judged.verdict.groups if group.options["perturbation_scale"] == "1.0")
    assert forest(judged, [group], "awakening", "bottom").rows["text"].iloc[-1] == "1.01x [0.96, 1.06]"
    assert forest(judged, [group], "divergence", DIRECTION).rows["text"].iloc[-1] == "-0.022 [-0.144, +0.100]"


def test_the_axis_depends_on_the_margin_in_round_steps_and_not_on_the_seeds(judged):
    groups = in_order(judged.verdict.groups)
    for some in ([groups[0]], groups, groups[:2]):
        assert forest(judged, some, "awakening", "bottom").edge == pytest.approx(math.log(1.5))
        assert forest(judged, some, "divergence", DIRECTION).edge == 0.2


def test_groups_stand_in_the_order_of_their_options_and_sham_runs_last(judged):
    groups = in_order(judged.verdict.groups)
    assert [group.options["perturbation_scale"] for group in groups] == ["0.5", "1.0", "2.0", "0.0"]


def test_many_runs_of_a_group_are_counted_and_none_are_drawn_on_demand(judged):
    group = judged.verdict.groups[0]
    few = forest(judged, [group], "awakening", "bottom", most_runs=2).rows
    assert few["label"].tolist() == ["", "seed 0", "seed 1", "4 more", "6 seeds"]
    assert forest(judged, [group], "awakening", "bottom", most_runs=0).rows["kind"].tolist() == ["heading", "pooled"]


def test_an_effect_that_no_group_measured_has_no_plot(judged):
    assert effects_of(judged.verdict.groups, "awakening") == ["bottom"]
    assert effects_of(judged.verdict.groups, "divergence") == ["size", DIRECTION]
    assert effects_of([], "divergence") == []
