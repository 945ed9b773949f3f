"""All runs in one table, with filters, sorting and sparklines."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ui.widgets.guard import guarded
from ui.widgets.tables import show_table
from validation.frames.comparison.metrics import COMPARED_METRICS, sparklines
from validation.frames.comparison.runs_table import filter_runs, runs_table, sort_runs
from validation.judgement.judge import Judgement

PAGE_ROWS = 100  # runs per page of the table


@st.cache_resource(
    scope="session",
    max_entries=2,
    show_spinner=False,
    hash_funcs={Judgement: lambda j: (str(j.verdict.thresholds), *(file.sha256 for file in j.files))},
)
def overview(judgement: Judgement) -> pd.DataFrame:
    """Return the table of all runs, without sparklines."""
    return runs_table(judgement)


@guarded
def all_runs(judgement: Judgement) -> None:
    """Show all runs in a table with filters, sorting and sparklines."""
    table = overview(judgement)
    left, middle, right = st.columns([2, 3, 2])
    words = left.text_input(
        "Find", key="find", bind="query-params", placeholder="run, file, option", help="A run must contain every word."
    )
    verdicts = _filter_pills(middle, "Verdict", table["verdict"])
    found = filter_runs(table, words, verdicts, _filter_pills(right, "Kind", table["kind"]))
    by, order, line, page = st.columns([2, 1, 2, 1], vertical_alignment="bottom")
    sort = by.selectbox("Sort by", ["as chosen", *table.columns], key="sort", bind="query-params")
    descending = order.toggle("Descending", key="descending", bind="query-params")
    metric = line.selectbox(
        "Sparkline",
        list(COMPARED_METRICS),
        format_func=lambda name: COMPARED_METRICS[name].title,
        key="line",
        bind="query-params",
    )
    pages = max(1, -(-len(found) // PAGE_ROWS))
    first = PAGE_ROWS * (int(page.number_input(f"Page of {pages:,}", 1, pages, key="runs-page")) - 1)
    rows = sort_runs(found, sort, descending=descending).iloc[first : first + PAGE_ROWS].copy()
    _table_with_sparklines(judgement, rows, metric)
    count = f"{len(found):,} of {len(table):,} runs match, with {int(found['steps'].sum()):,} logged steps in total."
    more = f" {PAGE_ROWS} runs per page; a click on a column's header sorts this page only." if pages > 1 else ""
    st.caption(count + more)


def _table_with_sparklines(judgement: Judgement, rows: pd.DataFrame, metric: str) -> None:
    """Show runs with a sparkline of one metric each."""
    about = COMPARED_METRICS[metric]
    rows.insert(4, "course", rows["run"].map(sparklines(judgement.con, rows["run"].tolist(), metric)))
    show_table(
        rows,
        most=18,
        key="runs",
        placeholder="",
        alt="All runs with their verdicts, options and sparklines",
        column_config={
            "course": st.column_config.LineChartColumn(
                about.title, width="medium", help=f"{about.meaning}. In {about.unit}, over the steps."
            ),
            "steps": st.column_config.NumberColumn("logged steps"),
        },
    )


def _filter_pills(place: DeltaGenerator, label: str, values: pd.Series) -> list[str]:
    """Return the chosen values; none means all. (Tags of a multiselect lack contrast in the dark theme.)"""
    options = sorted(values.dropna().unique())
    chosen: list[str] = place.pills(
        label, options, selection_mode="multi", key=label.lower(), wrap=True, bind="query-params"
    )
    return chosen
