"""The views of the Compare page, and what it shows where there is one run only."""

from __future__ import annotations

import streamlit as st

from ui.sections.compare.all_runs import all_runs
from ui.sections.compare.doses import dose_response
from ui.sections.compare.forest import forest_plots
from ui.sections.compare.groups import groups
from ui.sections.compare.outcome import outcome
from ui.sections.compare.sham_pairs import sham_pairs
from ui.sections.compare.training import too_few_runs
from ui.sections.compare.two_runs import two_runs
from ui.sections.study import study_panel
from validation.files.errors import RunFileError
from validation.judgement.judge import Judgement
from validation.verdict.groups import PEERS

VIEWS = {
    "Forest": forest_plots,
    "Dose": dose_response,
    "Sham runs": sham_pairs,
    "Outcome": outcome,
    "Groups": groups,
    "Two runs": two_runs,
    "All runs": all_runs,
}
OF_PERTURBATIONS = ("Dose", "Sham runs", "Outcome")  # views that show nothing of peers without twins


def compare(judgement: Judgement) -> None:
    """Show the chosen view of several runs."""
    if len(judgement.runs) < 2:
        too_few_runs(judgement)
        return
    study_panel(judgement)
    known = judgement.verdict.groups
    hidden = {*OF_PERTURBATIONS} if all(group.role == PEERS for group in known) else set()
    hidden -= {"Outcome"} if any(group.outcome is not None for group in known) else set()
    views = [name for name in VIEWS if name not in hidden]
    view = st.segmented_control(
        "Show", views, default="Forest", required=True, key="compare", wrap=True, bind="query-params"
    )
    try:
        VIEWS[view](judgement)
    except RunFileError as error:
        st.error("These runs do not fit into memory together. Choose fewer runs.")
        st.text(str(error))
