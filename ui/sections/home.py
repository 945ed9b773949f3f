"""The home page: the first steps of a newcomer, or the verdict of the chosen files."""

from __future__ import annotations

from functools import partial

import streamlit as st

from ui.layout.cards import runs_table
from ui.layout.frame import icon as tab_icon
from ui.layout.glance import banner, claims_table, next_step
from ui.layout.live_panel import live_panel
from ui.layout.shell import finding_card, judge_library, pick_run, run_header, show_rejected
from ui.sections.choose import choose, remove, rerun_with_new_widgets
from ui.sections.dynamics import norms_of
from ui.sections.first_visit import first_visit
from ui.sections.verdict import run_facts
from ui.session.address import forget, restore
from ui.session.library import library
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown
from validation.analysis.run import Run
from validation.judgement.glance import Glance, glance_of
from validation.judgement.judge import Judgement, without_failing_runs
from validation.text import pluralize, printable

NAMES_SHOWN = 3  # of rejected files


def home() -> None:
    """Show the page below its title."""
    tab_icon()
    restore()
    if not library().sources:
        first_visit()
        return
    judgement = judge_library()
    chosen_files(judgement)
    if not judgement.runs:
        show_rejected(judgement)
        return
    rejected_summary(judgement)
    run = pick_run(judgement)
    glance = without_failing_runs(judgement, partial(glance_of, portable=True))
    banner(glance)
    if glance.step is not None:
        next_step(glance.step)
    live_panel(judgement, run)
    claims_table(judgement, glance)
    if len(judgement.runs) > 1:
        runs_table(judgement, run)
    run_at_a_glance(judgement, run, glance)


def chosen_files(judgement: Judgement) -> None:
    """Show in one line what was read, and the buttons that change it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(read_counts(judgement), width="stretch")
        with st.container(horizontal=True, width="content"):
            with st.popover("Files", icon=":material/folder_open:", on_change="rerun", key="files") as part:
                if part.open:
                    choose()
                    remove()
            if st.button("Start over", icon=":material/restart_alt:", help="Remove all files from this session"):
                library().sources = []
                forget()
                rerun_with_new_widgets()


def run_at_a_glance(judgement: Judgement, run: Run, glance: Glance) -> None:
    """Show the chart of one run, then its premise, findings and facts, a line each."""
    run_header(run)
    norms_of(judgement, run)
    if glance.premise:
        st.caption(escape_markdown(glance.premise))
    findings_line(judgement, run)
    with st.expander("How this run was trained", key="see-facts", on_change="rerun") as part:
        if part.open:
            run_facts(run)


def read_counts(judgement: Judgement) -> str:
    """Return a sentence with the number of runs read and of files rejected."""
    read, rejected = pluralize(len(judgement.runs), "run"), len(judgement.rejected)
    return f"{read} read, {pluralize(rejected, 'file')} not read." if rejected else f"{read} read."


@guarded
def rejected_summary(judgement: Judgement) -> None:
    """Show the rejected files in one line, which opens."""
    found = judgement.findings_of(None)
    if not found:
        return
    names = ", ".join(printable(one.name) for one in judgement.rejected[:NAMES_SHOWN])
    more = f" and {len(found) - NAMES_SHOWN:,} more" if len(found) > NAMES_SHOWN else ""
    label, icon = escape_markdown(f"Not read: {names}{more} (open to see why)"), ":material/warning:"
    with st.expander(label, icon=icon, key="rejected", on_change="rerun") as part:
        if part.open:
            show_rejected(judgement)


@guarded
def findings_line(judgement: Judgement, run: Run) -> None:
    """Show the gravest finding of a run in one line, which opens all of them."""
    found = judgement.findings_of(run.id)
    if not found:
        st.caption(":material/check: Every check passed for this run.")
        return
    first = f"{found[0].severity.capitalize()}: {found[0].symptom}"
    more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
    with st.expander(escape_markdown(f"{first}{more}"), key="findings", on_change="rerun") as part:
        if part.open:
            for finding in found:
                finding_card(finding)
            st.page_link("pages/5_Diagnostics.py", label="See every check on the Diagnostics page")
