"""The address of a page as a link to what it shows: `?run=...` is the picked run, `from=...` each file that was chosen.

Only what lies on the server's own disk can be in it: names are looked up among those that can be picked, and are never
paths. An upload belongs to its session and is in no address.
"""

from __future__ import annotations

import streamlit as st

from ui.session.catalog import by_key
from ui.session.library import library
from validation.judgement.judge import Judgement

MOST = 20  # files in one address


def restore() -> None:
    """Choose what the address names, at the start of a session that has chosen nothing itself."""
    wanted = st.query_params.get_all("from") or st.query_params.get_all("run")
    if not wanted or st.session_state.get("came_by") or library().sources:
        return
    st.session_state.came_by = True
    known = by_key()
    for key in wanted[:MOST]:
        if key in known:
            library().add(known[key].source)
    if picked := st.query_params.get("run"):
        st.session_state.picked_run = picked
    if not library().sources:
        st.warning("What this address names is not on this machine, or not any more. Choose a run below.")


def remember(judgement: Judgement, picked: str) -> None:
    """Put what is shown into the address."""
    names = {source.path: source.key for source in library().sources if source.key}
    keys = list(names.values())
    file = next((file.path for file in judgement.files if file.run == picked), None)
    if not keys or len(keys) > MOST or file not in names:
        forget()
        return
    _put("run", [picked])
    _put("from", [] if keys == [picked] else keys)


def forget() -> None:
    """Take it out of the address."""
    _put("run", [])
    _put("from", [])


def _put(name: str, values: list[str]) -> None:
    """Only where it differs: each change is sent to the browser."""
    if st.query_params.get_all(name) == values:
        return
    if values:
        st.query_params[name] = values
    else:
        del st.query_params[name]
