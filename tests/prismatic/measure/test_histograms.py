"""Histograms of gradient entries: every entry is in the bin of its size."""

import torch

from prismatic.measure.histograms import histogram_rows
from tests.support.small_layers import with_gradients


def test_a_histogram_holds_every_entry_of_every_tier_in_the_bin_of_its_size():
    made = with_gradients()
    rows = [row for row in histogram_rows([made]) if row["expert"] == 1]
    weights = dict(made.experts[1].named_parameters())
    sizes = made.tiers.sizes(sum(p.numel() for p in made.experts[0].parameters()))
    for tier in ("top", "bottom", "middle"):
        assert sum(row["count"] for row in rows if row["tier"] == tier) == sizes[tier]
    entries = torch.cat([w.grad.flatten() for w in weights.values()]).abs()
    for power in {row["bin"] for row in rows}:
        counted = sum(row["count"] for row in rows if row["bin"] == power)
        assert counted == int(((entries >= 2.0**power) & (entries < 2.0 ** (power + 1))).sum())


def test_zeros_and_infinities_are_in_no_bin_and_extremes_in_the_outermost():
    made = with_gradients()
    grad = made.experts[0].get_parameter("0.bias").grad
    grad[:4] = torch.tensor([0.0, float("inf"), 1e-30, 1e30])
    rows = [row for row in histogram_rows([made]) if row["expert"] == 0]
    assert sum(row["count"] for row in rows) == sum(w.numel() for w in made.experts[0].parameters()) - 2
    assert {-64, 63} <= {row["bin"] for row in rows}
