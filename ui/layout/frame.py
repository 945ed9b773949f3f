"""The frame of every page: browser title, login, and PAGES, the order and names of the pages in the sidebar.

It imports only Streamlit, so that a page shows its title while the server still loads the rest.
"""

import threading

import streamlit as st

from ui.settings import ROOT

FIRST_WORDS_SENT = threading.Event()
"""Set when the server has sent its first words to a visitor."""
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
    """Set the page config and the sidebar's links (Streamlit's own would call the home page "app")."""
    st.set_page_config(page_title=f"{title} · Prismatic", layout="wide")
    if _must_log_in():
        st.title("Prismatic")
        st.info("This server needs a login. Log in to see its runs.")
        st.button("Log in", on_click=st.login)
        icon()
        st.stop()
    for page, label in PAGES.items():
        st.sidebar.page_link(page, label=label)
    FIRST_WORDS_SENT.set()


def icon() -> None:
    """Set the icon of the browser's tab, after the first words: Streamlit loads NumPy and Pillow for it."""
    st.set_page_config(page_icon=str(ROOT / "docs" / "icon.png"))


def _must_log_in() -> bool:
    """Return True if the server has a login ([auth] in .streamlit/secrets.toml) and this session is not logged in."""
    try:
        has_login = "auth" in st.secrets
    except FileNotFoundError:  # no secrets.toml, so no login
        return False
    return has_login and not st.user.get("is_logged_in", False)
