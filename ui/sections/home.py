"""The home page: the first steps of a newcomer, or the verdict of the chosen files."""

from __future__ import annotations

import streamlit as st

from ui.layout.cards import findings_summary, headline, overall_cards, runs_table
from ui.layout.frame import icon
from ui.layout.shell import REJECTED_SHOWN, judge_library, pick_run, run_header, show_rejected
from ui.sections.choose import choose, remove, rerun_with_new_widgets
from ui.sections.first_visit import first_visit
from ui.session.address import forget, restore
from ui.session.library import library
from validation.judgement.judge import Judgement
from validation.text import pluralize


def home() -> None:
    """Show the page below its title."""
    icon()
    restore()
    if not library().sources:
        first_visit()
        return
    with st.expander("Add or remove files"):
        choose()
        remove()
    answer()


def answer() -> None:
    """Show what was read, the verdict of all runs, and the picked run."""
    judgement = judge_library()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(read_counts(judgement))
        if st.button("Start over", help="Remove all files from this session."):
            library().sources = []
            forget()
            rerun_with_new_widgets()
    if not judgement.runs:
        show_rejected(judgement)
        return
    rejected_summary(judgement)
    run = pick_run(judgement)
    several = len(judgement.runs) > 1
    if not several:
        run_header(run)
    headline(judgement)
    overall_cards(judgement)
    if several:
        st.subheader("The picked run", anchor=False)
        run_header(run)
    findings_summary(judgement, run)
    runs_table(judgement)


def read_counts(judgement: Judgement) -> str:
    """Return a sentence with the number of runs read and of files rejected."""
    read, rejected = pluralize(len(judgement.runs), "run"), len(judgement.rejected)
    return f"{read} read, {pluralize(rejected, 'file')} rejected." if rejected else f"{read} read."


def rejected_summary(judgement: Judgement) -> None:
    """Show the rejected files in a few lines, so that the verdict of the others stays in view."""
    lines = [
        f"{finding.symptom[:1].upper()}{finding.symptom[1:]}: {finding.evidence}. Fix: {finding.fix}."
        for finding in judgement.findings_of(None)
    ]
    if lines:
        with st.container(border=True):
            st.badge("not read", color="red")
            st.text("\n".join(lines[:REJECTED_SHOWN]))
            if lines[REJECTED_SHOWN:]:
                with st.expander(f"{len(lines) - REJECTED_SHOWN:,} more"):
                    st.text("\n".join(lines[REJECTED_SHOWN:]))
