"""Measurements of any size and design, for Hypothesis."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, TIER_SIZES, TWO_SIDED
from validation.analysis.measurements import Effect, Measurements

MARGINS = {name: math.log(1.1) for name in (BOTTOM, SIZE, *TIER_SIZES)} | {DIRECTION: 0.05}

Z = np.array([-1.2, -0.6, -0.1, 0.1, 0.6, 1.2])  # six seeds around their mean


def over_seeds(**means: float) -> Measurements:
    """Return an experiment over six seeds with these effects, of sd 0.02, that last."""
    effects = {
        name: Effect(name, MARGINS[name], name in TWO_SIDED, np.stack([mean + 0.02 * Z] * 3, axis=1))
        for name, mean in ({BOTTOM: 0.0, SIZE: 0.0, DIRECTION: 0.0} | means).items()
    }
    known = {"alpha": 0.05, "units": 6, "units_needed": 6, "runs": 6, "valid": tuple("abcdef")}
    return Measurements(**known, effects=effects, control="control_expert", source="isolated")


@st.composite
def units(draw, *, count: int):
    """Return the values of some units over the run, at its beginning and at its end, [U, 3]."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    mean, kept = (
        draw(st.sampled_from((-0.6, -0.1, 0.0, 0.02, 0.1, 0.15, 0.6))),
        draw(st.sampled_from((-1, 0, 0.5, 1, 2))),
    )
    sd = draw(st.sampled_from((0.0, 1e-9, 0.01, 0.05, 0.3, 30.0)))
    first = mean * draw(st.sampled_from((0.0, 1.0, 3.0)))
    return np.array([mean, first, kept * first]) + sd * rng.normal(size=(count, 3))


@st.composite
def effects(draw, *, count: int, single: bool, names: tuple[str, ...]):
    found = {}
    for name in names:
        x_U3 = draw(units(count=count))
        y_V3 = draw(units(count=draw(st.integers(1, 4)))) if single else None
        found[name] = Effect(name, MARGINS[name], name in TWO_SIDED, x_U3, y_V3)
    return found


@st.composite
def measurements(draw) -> Measurements:
    """Return an experiment over seeds or of one run, with any of the facts that a decision may ask for."""
    single = draw(st.booleans())
    count = draw(st.integers(1, 12))
    names = draw(st.sampled_from(((), (BOTTOM,), (BOTTOM, SIZE, DIRECTION), (BOTTOM, *TIER_SIZES), (SIZE, DIRECTION))))
    without = 0 if single else draw(st.sampled_from((0, 0, 0, 1, 3)))
    bins = draw(st.sampled_from((6, 6, 6, 4, 2, 0)))
    control = draw(st.sampled_from(("control_expert", "control_expert", "sham_run", "frozen_routing", None)))
    seldom = st.sampled_from((False, False, False, True))
    shams = draw(effects(count=6, single=False, names=(BOTTOM, SIZE))) if draw(seldom) else {}
    known = draw(effects(count=count, single=single, names=names if bins else ()))
    saturation = Effect(DIRECTION, 0.9, False, draw(units(count=6)) + draw(st.sampled_from((0.0, 1.0))))
    return Measurements(
        alpha=draw(st.sampled_from((0.05, 0.0125, 0.1))),
        effects=known,
        units=count,
        units_needed=3 if single else 6,
        single=single,
        runs=1 if single else count + without,
        without_verdict=without,
        valid=("0",) if single else tuple(str(unit) for unit in range(count)),
        copies=draw(st.sampled_from(("", "", "", "seed 1 is there twice"))),
        sham=draw(seldom),
        sham_effects=shams,
        control=control,
        twins=draw(st.booleans()) and control != "frozen_routing",
        common_gradients=draw(st.sampled_from((0, 0, 0, count))),
        control_direction=saturation if draw(seldom) else None,
        source=draw(st.sampled_from(("merged", "isolated"))),
        noisy=draw(seldom),
        corrected=draw(st.booleans()),
        unclear=draw(st.booleans()),
        means_only=draw(seldom),
        bins=bins,
        planned_rows=not draw(seldom),
    )
