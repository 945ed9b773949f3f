"""The Compare page: several runs by groups, by dose, beside their sham runs, in pairs, and in one table."""

import streamlit as st

from ui.layout.shell import shell_all_runs
from ui.sections import compare
from validation.files.errors import RunFileError

VIEWS = {
    "Groups": compare.groups,
    "Dose": compare.dose_response,
    "Sham runs": compare.sham_pairs,
    "Two runs": compare.two_runs,
    "All runs": compare.all_runs,
}

judgement = shell_all_runs("Compare")
try:
    if len(judgement.runs) < 2:
        compare.too_few_runs(judgement)
        st.stop()
    view = st.segmented_control(
        "Show", list(VIEWS), default="Groups", required=True, key="compare", wrap=True, bind="query-params"
    )
    VIEWS[view](judgement)
except RunFileError as error:
    st.error("These runs do not fit into memory together. Choose fewer runs.")
    st.text(str(error))
