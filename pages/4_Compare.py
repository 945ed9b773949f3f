"""Many runs side by side: what they say over seeds, over doses, and beside runs in which nothing was perturbed."""

import streamlit as st

from ui.layout.shell import shell_of_all
from ui.sections import compare
from validation.files.errors import RunFileError

VIEWS = {
    "Groups": compare.groups,
    "Dose": compare.dose_response,
    "Sham runs": compare.beside_shams,
    "Two runs": compare.difference,
    "All runs": compare.everything,
}

judgement = shell_of_all("Compare")
try:
    if len(judgement.runs) < 2:
        compare.needs_more(judgement)
        st.stop()
    view = st.segmented_control(
        "Show", list(VIEWS), default="Groups", required=True, key="compare", wrap=True, bind="query-params"
    )
    VIEWS[view](judgement)
except RunFileError as error:
    st.error("These runs do not fit into memory together. Choose fewer of them.")
    st.text(str(error))
