"""One-line hints under a page's title, shown on the first visit of a session, and the option that logs histograms."""

import streamlit as st

LOG_HISTOGRAMS = "--set histogram_freq=100"
"""The option of `prismatic train` that logs histograms of gradient entries."""
HINTS = {
    "Home": "The verdict removes the effects of routing and chance. Beside it is the result of the documented rules.",
    "Dynamics": "Blue is the clean expert, red and orange are the perturbed ones. Hover over the lines to read values.",
    "Verdict": "Each claim is judged twice: as written and controlled. Trust the controlled reading.",
    "Layers": "Orange: a larger gradient than the clean expert's; blue: a smaller one. Click a cell for its series.",
    "Compare": "Runs that differ only in the seed form a group. A group needs six seeds for a decision.",
    "Diagnostics": "Errors make a run invalid, warnings do not. Each finding says what to change.",
    "Runs": "Everything the file records about its run, and your own questions in SQL.",
}


def hint(page: str) -> None:
    """Show the page's hint during its first visit."""
    visited: dict[str, int] = st.session_state.setdefault("visited", {})
    if st.session_state.get("page") != page:
        st.session_state.page = page
        visited[page] = visited.get(page, 0) + 1
    if visited[page] == 1:
        st.caption(f":material/lightbulb: {HINTS[page]}")
