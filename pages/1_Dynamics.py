"""The Dynamics page: gradient norms, divergence, routing and loss of one run over its steps."""

from functools import partial

import streamlit as st

from ui.layout.cards import choose_gradients
from ui.layout.shell import shell
from ui.sections.dynamics import (
    VIEWS,
    chart,
    choose_axis,
    choose_experts,
    choose_style,
    choose_view,
    scores,
)
from ui.widgets.fragments import fragment
from validation.frames.run_dynamics import ChartOptions

judgement, run = shell("Dynamics")
scores(judgement, run)
with st.container(horizontal=True, vertical_alignment="bottom"):
    view = choose_view()
    source = choose_gradients(run)
seen = run.from_source(source)
if not len(run.steps):
    st.info("This file has no logged rows, so there is nothing to draw. The Diagnostics page says why.")
    st.stop()
if (missing := VIEWS[view].missing(seen)) is not None:
    st.info(f"This run did not log {missing}. Choose another view.")
    st.stop()

experts = choose_experts(seen)
with st.container(horizontal=True, vertical_alignment="bottom"):
    unit = choose_axis(run)
    smooth, bins = choose_style()
fragment(judgement, run, partial(chart, options=ChartOptions(view, source, tuple(experts), unit, smooth, bins)))
