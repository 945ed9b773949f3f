"""The options and facts in which two runs differ."""

from __future__ import annotations

import streamlit as st

from ui.widgets.guard import guarded
from ui.widgets.tables import TIMES, fact_text, show_table
from validation.judgement.judge import Judgement
from validation.query.questions import ask
from validation.text import pluralize


@guarded
def two_runs(judgement: Judgement) -> None:
    """Show the options and facts in which two runs differ."""
    runs = [run.id for run in judgement.runs]
    left, right = st.columns(2)
    first = left.selectbox("First run", runs, key="first", bind="query-params")
    second = right.selectbox("Second run", runs, index=1, key="second", bind="query-params")
    table = ask(judgement.con, "facts_of_two", first=first, second=second).to_pandas()
    if table.empty:
        st.info("Neither file has a run table, so their options are unknown.")
        return
    facts = {file.id: file.facts for file in judgement.files}
    for side, run in (("first", first), ("second", second)):
        times = table["key"].isin(TIMES) & table[side].notna()
        table.loc[times, side] = [fact_text(key, facts[run][key]) for key in table.loc[times, "key"]]
    table["kind"] = table["is_option"].map({True: "option", False: "fact"})
    table["name"] = table["key"].str.removeprefix("config.").str.removeprefix("option.")
    shown = table.rename(columns={"first": first, "second": second})[["kind", "name", first, second]]
    if first == second:
        shown = table.rename(columns={"first": "value"})[["kind", "name", "value"]]
    differing = shown[table["differs"]]
    options = int((table["differs"] & table["is_option"]).sum())
    others = pluralize(len(differing) - options, "other fact")
    st.caption(f"The runs differ in {pluralize(options, 'option')} and {others}.")
    if len(differing):
        show_table(differing, key="differing")
    with st.expander(f"{pluralize(int((~table['differs']).sum()), 'equal value')}"):
        show_table(shown[~table["differs"]], key="same")
