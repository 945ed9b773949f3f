"""Do the perturbed experts learn differently? The chart that the question is asked of."""

import streamlit as st

from ui.draw import draw
from ui.dynamics import (
    VIEWS,
    chosen_axis,
    chosen_experts,
    chosen_range,
    chosen_source,
    chosen_style,
    chosen_view,
    export,
    rows_of,
    scores,
)
from ui.shell import shell

judgement, run = shell("Dynamics")
limits = judgement.verdict.thresholds
scores(run, limits)
with st.container(horizontal=True, vertical_alignment="bottom"):
    view = chosen_view()
    seen = chosen_source(run)
if not len(run.steps):
    st.info(
        "This file has the right tables and no row in them, so there is nothing to draw. The Diagnostics page says why."
    )
    st.stop()
if (missing := VIEWS[view].missing(seen)) is not None:
    st.info(f"This file does not log {missing}, so there is nothing to draw.")
    st.stop()

experts = chosen_experts(seen)
with st.container(horizontal=True, vertical_alignment="bottom"):
    unit = chosen_axis(run)
    style, smooth = chosen_style(run, seen, view, experts, unit, limits)
steps = chosen_range(run)
long, style = rows_of(run, seen, view, experts, steps, unit, style, smooth=smooth)
chart = VIEWS[view].draw(long, style, limits)
draw(chart, width="stretch", key=f"dynamics-{view}", alt=f"{view} over {style.axis.lower()}")
st.caption(VIEWS[view].hint + " Shift and scroll to zoom, drag to move, double-click to reset.")
export(chart, long, run, view)
