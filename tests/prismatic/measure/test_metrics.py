"""The divergence scores as formulas: any norms and shares."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.measure.metrics import ExpertDynamics, divergence, relative_divergence

quick = settings(deadline=None, derandomize=True, max_examples=50)


POSITIVE = st.floats(1e-6, 1e6)


def expert(norms: tuple[float, float, float] = (1.0, 1.0, 1.0), share: float = 0.5) -> ExpertDynamics:
    top, bottom, middle = norms
    return ExpertDynamics(top, bottom, middle, math.hypot(*norms), share, 1.0, 0.0, nonfinite=0, missing_gradients=0)


NORMS = st.tuples(POSITIVE, POSITIVE, POSITIVE)


@quick
@given(NORMS, NORMS)
def test_divergence_is_the_mean_absolute_difference_of_the_norms(mine, clean):
    expected = (abs(mine[0] - clean[0]) + abs(mine[1] - clean[1]) + abs(mine[2] - clean[2])) / 3
    assert divergence(expert(mine), expert(clean)) == pytest.approx(expected)


@quick
@given(NORMS, NORMS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_relative_divergence_is_what_the_schema_says(mine, clean, share, clean_share):
    ratios = [(n / share) / (n_0 / clean_share) for n, n_0 in zip(mine, clean, strict=True)]
    expected = sum(abs(ratio - 1) for ratio in ratios) / 3
    assert relative_divergence(expert(mine, share), expert(clean, clean_share)) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


@quick
@given(NORMS, NORMS, st.floats(1e-3, 1e3))
def test_divergence_scales_with_the_loss_and_relative_divergence_does_not(mine, clean, factor):
    scaled = [expert(tuple(norm * factor for norm in norms)) for norms in (mine, clean)]
    assert divergence(*scaled) == pytest.approx(factor * divergence(expert(mine), expert(clean)))
    assert relative_divergence(*scaled) == pytest.approx(relative_divergence(expert(mine), expert(clean)), 1e-9, 1e-9)


def test_relative_divergence_is_unknown_where_nothing_can_be_divided():
    assert relative_divergence(expert(share=0.0), expert()) is None
    assert relative_divergence(expert(), expert(share=0.0)) is None
    assert relative_divergence(expert(), expert((1.0, 0.0, 1.0))) is None
