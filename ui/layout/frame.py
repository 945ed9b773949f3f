"""The frame of every page: its title, the login where the server has one, the way to the other pages.

It needs nothing but Streamlit, so that a page says what it is while the server still loads what it shows.
"""

import threading

import streamlit as st

from ui.settings import ROOT

FIRST_WORDS_SENT = threading.Event()
"""Set when the first visitor of this server has been told anything."""
PAGES = {
    "app.py": "Home",
    "pages/1_Dynamics.py": "Dynamics",
    "pages/2_Verdict.py": "Verdict",
    "pages/3_Layers.py": "Layers",
    "pages/4_Compare.py": "Compare",
    "pages/5_Diagnostics.py": "Diagnostics",
    "pages/6_Runs.py": "Runs",
}


def frame(title: str) -> None:
    """Page config, and the navigation: Streamlit's own would call the home page "app"."""
    st.set_page_config(page_title=f"{title} · Prismatic", layout="wide")
    if _must_log_in():
        st.title("Prismatic")
        st.info("This server shows runs to people it knows. Log in first.")
        st.button("Log in", on_click=st.login)
        icon()
        st.stop()
    for page, label in PAGES.items():
        st.sidebar.page_link(page, label=label)
    FIRST_WORDS_SENT.set()


def icon() -> None:
    """The icon of the browser's tab. It comes after the first words, since Streamlit loads NumPy and Pillow for it."""
    st.set_page_config(page_icon=str(ROOT / "docs" / "icon.png"))


def _must_log_in() -> bool:
    """Whether the server has a login ([auth] in .streamlit/secrets.toml) and this session has not passed it."""
    try:
        wanted = "auth" in st.secrets
    except FileNotFoundError:  # no secrets, no login
        return False
    return wanted and not st.user.get("is_logged_in", False)
