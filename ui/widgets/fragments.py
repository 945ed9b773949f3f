"""A part of a page that is made anew by itself, when something in it is touched or a clock says so."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import streamlit as st

from validation.analysis.run import Run
from validation.judgement.judge import Judgement


def fragment(
    judgement: Judgement, run: Run, make: Callable[[Judgement, Run], None], *, every: float | None = None
) -> None:
    """Make this part of the page, and again when something in it is touched, or after so many seconds.

    Streamlit keeps what a part is made of for longer than its session lasts: of the judgement, which is all that the
    session has read, only a weak reference. `make` must hold neither the judgement nor the run.
    """
    held, name = weakref.ref(judgement), run.id

    @st.fragment(run_every=every)
    def again() -> None:
        known = held()
        if known is None:  # there is another judgement by now, which the whole page is to show
            st.rerun()
        make(known, next(run for run in known.runs if run.id == name))

    again()
