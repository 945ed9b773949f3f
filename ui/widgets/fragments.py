"""Fragments: parts of a page that rerun alone, when a widget in them changes or after some seconds."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import streamlit as st

from ui.widgets.guard import guarded
from validation.analysis.run import Run
from validation.judgement.judge import Judgement


def fragment(
    judgement: Judgement, run: Run, make: Callable[[Judgement, Run], None], *, every: float | None = None
) -> None:
    """Show a part of the page, and rerun it when a widget in it changes or every `every` seconds.

    Streamlit keeps a fragment's closure longer than its session. So this holds the judgement, which is everything that
    the session has read, by a weak reference only; `make` must hold neither the judgement nor the run.
    """
    held, name = weakref.ref(judgement), run.id

    @st.fragment(run_every=every)
    def again() -> None:
        known = held()
        if known is None:  # the files were judged again: the whole page must show the new judgement
            st.rerun()
        guarded(make)(known, next(run for run in known.runs if run.id == name))

    again()
