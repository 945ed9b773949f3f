"""What a page is for, said on the first visit of a session and not again."""

import streamlit as st

LOG_HISTOGRAMS = "--set histogram_freq=100"
"""What `prismatic train` needs to log histograms of gradient entries."""
HINTS = {
    "Home": "The verdict takes out what routing and chance do; beside it stands what the documented rules say.",
    "Dynamics": "Blue is the clean expert, red and orange are the perturbed ones. Point at the lines to read them off.",
    "Verdict": "Each claim is judged twice, as written and controlled. The controlled reading is the one to trust.",
    "Layers": "Orange: more gradient than the clean expert's; blue: less. Click a cell for its course over the steps.",
    "Compare": "Runs that differ only in the seed are one group. Three seeds are the least that can decide.",
    "Diagnostics": "Errors make a run invalid, warnings do not. Each says what to change.",
    "Runs": "Everything that the file says about its run, and questions of your own in SQL.",
}


def hint(page: str) -> None:
    """The hint, as long as the first visit of this page lasts."""
    visited: dict[str, int] = st.session_state.setdefault("visited", {})
    if st.session_state.get("page") != page:
        st.session_state.page = page
        visited[page] = visited.get(page, 0) + 1
    if visited[page] == 1:
        st.caption(f":material/lightbulb: {HINTS[page]}")
