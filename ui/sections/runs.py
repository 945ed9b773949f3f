"""The Runs page: queries in SQL, options and facts of a run, its hashes, and the meaning of its columns."""

from __future__ import annotations

import json

import streamlit as st

from prismatic.contract import schema
from prismatic.contract.options import OPTION
from prismatic.contract.thresholds import PREFIX
from ui.widgets.guard import guarded
from ui.widgets.tables import fact_text, show_table, with_large_numbers_as_text
from validation.files.run_file import RunFile
from validation.judgement.guard import each_guarded
from validation.judgement.judge import Judgement
from validation.query.database import RELATIONS, relations_of
from validation.query.user_sql import SECONDS, BadQuery, run_query
from validation.text import pluralize

EXAMPLES = {
    "Median bottom norm of each expert": (
        "SELECT run, expert, role, median(bottom_norm) AS bottom_norm\nFROM dynamics\n"
        "GROUP BY ALL\nORDER BY run, expert"
    ),
    "Bottom beside middle norm at the end": (
        "SELECT run, expert, role, exp(avg(ln(bottom_norm / middle_norm))) AS bottom_to_middle\nFROM dynamics\n"
        "JOIN runs USING (run)\nWHERE step > last_step * 2 / 3 AND bottom_norm > 0 AND middle_norm > 0\n"
        "GROUP BY ALL\nORDER BY run, expert"
    ),
    "Options of each run": (
        "SELECT run, key, value\nFROM facts\nWHERE key LIKE 'config.%' OR key LIKE 'option.%'\nORDER BY key, run"
    ),
    "Share of each expert in each layer": (
        "SELECT run, layer, expert, avg(routing_weight) AS share\nFROM layers\nWHERE source = 'merged'\n"
        "GROUP BY ALL\nORDER BY ALL"
    ),
}
SCHEMA = {  # 930 pixels in all, so that no column is cut beside the sidebar
    "table": st.column_config.TextColumn(width=72),
    "column": st.column_config.TextColumn(width=182),
    "unit": st.column_config.TextColumn(width=105),
    "meaning": st.column_config.TextColumn(width=400),
    "here": st.column_config.CheckboxColumn(width=45, help="This file has the column"),
    "type": st.column_config.TextColumn(width=75),
    "rows": st.column_config.NumberColumn(width=50, help="Rows of the table in this file"),
}
WIDE = {
    "hash": st.column_config.TextColumn(width="large"),
    "value": st.column_config.TextColumn(width="large"),
}


@guarded
def sql_console(judgement: Judgement) -> None:
    """Show a field for one SQL query over all chosen runs, and its rows."""
    st.subheader("Query all chosen runs", anchor=False)
    st.caption("Write one SELECT in DuckDB's SQL. It can read the relations listed below and nothing else.")
    st.selectbox("Start from an example", list(EXAMPLES), key="sql-example", on_change=_load_example, width=380)
    st.session_state.setdefault("sql", next(iter(EXAMPLES.values())))
    with st.form("question", border=False):
        sql = st.text_area("SQL", height=150, key="sql", label_visibility="collapsed")
        submitted = st.form_submit_button("Run query")
    if submitted:
        _show_answer(judgement, sql)
    with st.expander("Relations and their columns"):
        show_table(
            [{"relation": name, "columns": ", ".join(columns)} for name, columns in RELATIONS.items()],
            key="relations",
            column_config={"columns": st.column_config.TextColumn(width="large")},
        )


def _load_example() -> None:
    st.session_state.sql = EXAMPLES[st.session_state["sql-example"]]


def _show_answer(judgement: Judgement, sql: str) -> None:
    try:
        found = each_guarded(lambda files: run_query(relations_of(files), sql), judgement.files, meant=(BadQuery,))
    except BadQuery as error:
        st.error("The query failed.")
        st.text(str(error))
        return
    show_table(with_large_numbers_as_text(found.table), key="answer")
    notes = [*found.notes()] or [f"{pluralize(len(found.table), 'row')}."]
    st.caption(" ".join([*notes, f"A query may take {SECONDS:g} seconds."]))


@guarded
def metadata(file: RunFile) -> None:
    """Show the facts in the file: options, training, and registered thresholds."""
    st.subheader("This run", anchor=False)
    st.text(file.name)
    options = file.config
    registered = {key.removeprefix(PREFIX): value for key, value in file.facts.items() if key.startswith(PREFIX)}
    rest = {key: value for key, value in file.facts.items() if not OPTION.fullmatch(key) and not key.startswith(PREFIX)}
    if not file.facts:
        st.caption("The file has no table `run`, so its options are unknown.")
    for title, facts in (
        ("Options", options),
        ("Training", {key: value for key, value in rest.items() if "sha256" not in key and "hash" not in key}),
        ("Thresholds registered before the first step", registered),
    ):
        if facts:
            with st.expander(f"{title}: {len(facts)}", expanded=title != "Thresholds registered before the first step"):
                show_table(
                    [{"fact": key, "value": fact_text(key, value)} for key, value in sorted(facts.items())],
                    key=title,
                    column_config=WIDE,
                )
    st.download_button(
        "Download all facts (JSON)",
        lambda: json.dumps(file.facts, indent=1, default=str),
        f"{file.id}-facts.json",
        "application/json",
    )


@guarded
def hashes(file: RunFile) -> None:
    """Show the hashes of the file, its options, its corpus, its thresholds, its code and its tiers."""
    st.subheader("Hashes", anchor=False)
    known = [{"of": "the file, SHA-256", "hash": file.sha256}]
    names = {
        "run_hash": "the resolved config",
        "corpus_sha256": "the text it was trained on",
        f"{PREFIX}sha256": "the registered thresholds",
        "git_commit": "the code (Git commit)",
    }
    known += [{"of": name, "hash": fact_text(key, file.facts[key])} for key, name in names.items() if key in file.facts]
    known += [
        {"of": f"the index set of the {row['tier']} tier, layer {row['layer']}", "hash": row["hash"]}
        for row in file.tiers.to_pylist()
        if row["hash"]
    ]
    show_table(known, key="hashes", column_config=WIDE)


@guarded
def side_tables(file: RunFile) -> None:
    """Show the file's tables of experts, tiers and events."""
    for title, table in (("Experts", file.experts), ("Tiers", file.tiers), ("Events", file.events)):
        st.subheader(title, anchor=False)
        if len(table):
            show_table(table.to_pandas(), key=title, placeholder="")
        else:
            st.caption(
                "No event was recorded." if title == "Events" else "This file has no such table, or the table is empty."
            )


@guarded
def schema_table(file: RunFile) -> None:
    """Show every column of a run file with its unit and meaning, and if this file has it."""
    st.subheader("Schema", anchor=False)
    written = file.application_id == schema.APPLICATION_ID
    origin = f"Schema version {file.version}" if written else "Written by another program"
    st.caption(f"{origin}, application id {file.application_id:#x}. Version {schema.SCHEMA_VERSION} has these columns:")
    rows = {
        "dynamics": len(file.wide),
        **{table: len(getattr(file, table)) for table in ("layers", "packed_layers", "pairs", "packed_pairs")},
        "histograms": len(file.histograms),
        "experts": len(file.experts),
        "tiers": len(file.tiers),
        "run": len(file.facts),
        "events": len(file.events),
    }
    has = set(file.wide.column_names)
    columns = (*schema.dynamics_columns(2), *schema.ROUTING_COLUMNS)
    listed = [("dynamics", c, c.name in has) for c in columns]
    listed += [(table, c, bool(rows.get(table))) for table, (columns, _) in schema.TABLES.items() for c in columns]
    show_table(
        [
            {
                "table": table,
                "column": column.name,
                "unit": column.unit,
                "meaning": column.meaning,
                "here": there,
                "type": column.type,
                "rows": rows.get(table),
            }
            for table, column, there in listed
        ],
        key="schema",
        placeholder="",
        column_config=SCHEMA,
    )
    st.caption("The columns of expert 1 stand for those of all experts except expert 0.")
