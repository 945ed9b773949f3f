"""Rows of the outcome, and the chart that they are drawn in."""

import pytest

from validation.analysis.intervals import Interval
from validation.charts.comparison.outcome import outcome_chart
from validation.frames.comparison.outcome import outcome_rows
from validation.verdict.groups import POSITIVE, SHAM, TREATED, Group
from validation.verdict.outcome import LossPair, Outcome


def group(name: str, role: str, differences: list[float]) -> Group:
    pairs = tuple(LossPair(seed, f"r{seed}", f"t{seed}", 2.0 + d, 2.0) for seed, d in enumerate(differences))
    mid = sum(differences) / len(differences)
    return Group(name, role, (), outcome=Outcome(pairs, Interval(mid, mid - 0.5, mid + 0.5, len(pairs)), ""))


GROUPS = [group("a", TREATED, [0.1, 0.3]), Group("b", SHAM, ()), group("a", POSITIVE, [-0.1, -0.2, 0.0])]


def test_each_pair_and_each_group_has_a_row():
    pairs, means = outcome_rows(GROUPS)
    assert pairs["difference"].tolist() == pytest.approx([0.1, 0.3, -0.1, -0.2, 0.0])
    assert pairs["line"].tolist() == ["00000 a"] * 2 + ["00001 a"] * 3  # two groups may have one name
    assert means["line"].tolist() == ["00000 a", "00001 a"]
    assert means["text"].tolist() == ["+0.200 [-0.300, +0.700]", "-0.100 [-0.600, +0.400]"]


def test_the_chart_is_valid_and_has_the_line_of_no_difference():
    chart = outcome_chart(*outcome_rows(GROUPS))
    spec = chart.to_dict()  # validates against the grammar
    low, high = spec["layer"][0]["encoding"]["x"].get("scale", {}).get("domain")
    assert low < -0.2
    assert high > 0.3
    assert low <= 0 <= high
    assert high - low < 2  # wide intervals do not flatten the dots
    assert spec["height"] == chart.height


def test_the_chart_of_two_equal_pairs_can_be_drawn():
    low, high = outcome_chart(*outcome_rows([group("a", TREATED, [0.0, 0.0])])).to_dict()["layer"][0]["encoding"]["x"][
        "scale"
    ]["domain"]
    assert low < 0 < high
