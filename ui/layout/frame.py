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
ICONS = {
    "Home": ":material/home:",
    "Dynamics": ":material/show_chart:",
    "Verdict": ":material/balance:",
    "Layers": ":material/layers:",
    "Compare": ":material/compare_arrows:",
    "Diagnostics": ":material/stethoscope:",
    "Runs": ":material/database:",
}
"""Symbols of a font that the server sends itself."""
SIDEBAR = 240  # pixels; a phone shows it only when asked
STYLE = """<style>
@media (min-width: 768px) {
  [data-testid="stMainBlockContainer"] { padding-left: 2.5rem; padding-right: 2.5rem; max-width: 96rem }
}
.st-key-banner {
  border-left: 8px solid var(--status, #8a919b); border-radius: .5rem; padding: .8rem 1.2rem;
  background: color-mix(in srgb, var(--status, #8a919b) 11%, transparent);
}
.st-key-banner h2 { padding: 0 0 1rem }
</style>"""
"""What .streamlit/config.toml cannot set: the space beside the content, which on a wide screen keeps lines readable,
and the banner of the verdict. It is sent with the first words, so that nothing moves when the banner comes."""


def frame(title: str) -> None:
    """Set the page config and the sidebar's links (Streamlit's own would call the home page "app")."""
    st.set_page_config(page_title=f"{title} · Prismatic", layout="wide", initial_sidebar_state=SIDEBAR)
    if _must_log_in():
        st.title("Prismatic")
        st.info("This server needs a login. Log in to see its runs.")
        st.button("Log in", on_click=st.login)
        icon()
        st.stop()
    st.html(STYLE)
    for page, label in PAGES.items():
        st.sidebar.page_link(page, label=label, icon=ICONS[label])
    FIRST_WORDS_SENT.set()


def icon() -> None:
    """Set the icon of the tab and the logo, after the first words: Streamlit loads NumPy and Pillow for them."""
    st.set_page_config(page_icon=str(ROOT / "docs" / "icon.png"))
    st.logo(str(ROOT / "docs" / "logo.svg"), size="large")


def _must_log_in() -> bool:
    """Return True if the server has a login ([auth] in .streamlit/secrets.toml) and this session is not logged in."""
    try:
        has_login = "auth" in st.secrets
    except FileNotFoundError:  # no secrets.toml, so no login
        return False
    return has_login and not st.user.get("is_logged_in", False)
