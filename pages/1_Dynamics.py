"""Do the perturbed experts learn differently? The chart that the question is asked of."""

import streamlit as st

from ui.draw import draw
from ui.dynamics import (
    VIEWS,
    Look,
    Picture,
    chosen_axis,
    chosen_experts,
    chosen_range,
    chosen_source,
    chosen_style,
    chosen_view,
    export,
    scores,
)
from ui.memory import kept
from ui.shell import shell
from validation.axis import AXES

judgement, run = shell("Dynamics")
limits = judgement.verdict.thresholds
scores(judgement, run)
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
    smooth, batches = chosen_style()
look = Look(view, tuple(experts), unit, chosen_range(judgement, run), smooth, batches)
picture = kept(judgement, (run.run, seen.source, look), lambda: Picture.of(run, seen, look, limits))
draw(picture.described, width="stretch", key=f"dynamics-{view}", alt=f"{view} over {AXES[unit].lower()}")
st.caption(VIEWS[view].hint + " Pinch or Alt and scroll to zoom, drag to move, double-click to see all again.")
export(picture, f"{run.run}-{view.lower().replace(' ', '-')}")
