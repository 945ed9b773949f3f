"""The address of a page as a link: `?run=` is the picked run, each `from=` a chosen file.

An address holds only names from the server's catalog, never paths. Uploads belong to their session and are in no
address.
"""

from __future__ import annotations

import streamlit as st

from ui.session.catalog import by_key
from ui.session.library import library
from validation.judgement.judge import Judgement

MAX_FILES = 20  # in one address


def restore() -> None:
    """Choose the files in the address, at the start of a session that has chosen none itself."""
    wanted = st.query_params.get_all("from") or st.query_params.get_all("run")
    if not wanted or st.session_state.get("restored") or library().sources:
        return
    st.session_state.restored = True
    known = by_key()
    for key in wanted[:MAX_FILES]:
        if key in known:
            library().add(known[key].source)
    if picked := st.query_params.get("run"):
        st.session_state.picked_run = picked
    if not library().sources:
        st.warning("The run in this address is not on this machine. Choose another one below.")


def remember(judgement: Judgement, picked: str) -> None:
    """Write the chosen files and the picked run to the address."""
    names = {source.path: source.key for source in library().sources if source.key}
    keys = list(names.values())
    file = next((file.path for file in judgement.files if file.id == picked), None)
    if not keys or len(keys) > MAX_FILES or file not in names:
        forget()
        return
    _put("run", [picked])
    _put("from", [] if keys == [picked] else keys)


def forget() -> None:
    """Remove files and run from the address."""
    _put("run", [])
    _put("from", [])


def _put(name: str, values: list[str]) -> None:
    """Set a query parameter if it differs: each change is sent to the browser."""
    if st.query_params.get_all(name) == values:
        return
    if values:
        st.query_params[name] = values
    else:
        del st.query_params[name]
