"""The first visit of Home, where no run is chosen: the examples, the uploader, and the command that trains a run."""

from __future__ import annotations

import streamlit as st

from ui.layout.shell import TRAIN
from ui.sections.choose import choose, choose_sources
from ui.session.catalog import examples


def first_visit() -> None:
    """Show the examples, the command that trains a run, and the uploader."""
    st.info("No run chosen yet. Open an example, or train a run with the command below and upload its `dynamics.db`.")
    with st.container(horizontal=True):
        for entry in examples():
            if st.button(f"Example: {entry.path.stem.replace('-', ' ')}", key=entry.path.stem):
                choose_sources([entry.source])
    st.code(TRAIN, language=None, wrap_lines=True)
    choose()
