"""What is known of the runs that were chosen, and questions of one's own about them, in SQL."""

import json

import streamlit as st

from ui.shell import shell
from validation.console import ROWS, SECONDS, BadQuestion, answer
from validation.errors import RunFileError
from validation.relations import RELATIONS

EXAMPLE = (
    "SELECT run, expert, role, median(bottom_norm) AS bottom_norm\nFROM dynamics\nGROUP BY ALL\nORDER BY run, expert"
)

judgement, run = shell("Runs")
file = next(file for file in judgement.files if file.run == run.run)

st.subheader("Ask all chosen runs", anchor=False)
st.caption("One SELECT in DuckDB's SQL. It reads these relations and nothing else, and is ended if it takes too long.")
with st.form("question", border=False):
    sql = st.text_area("SQL", EXAMPLE, height=130, key="sql", label_visibility="collapsed")
    asked = st.form_submit_button("Ask")
if asked:
    try:
        found = answer(judgement.con.cursor(), sql)
    except (BadQuestion, RunFileError) as error:
        st.error("This cannot be answered.")
        st.text(str(error))
    else:
        st.dataframe(found.table.to_pandas(), hide_index=True, key="answer")
        said = f"{len(found.table):,} rows" + (f", cut at {ROWS:,}" if found.cut else "")
        st.caption(f"{said}; at most {SECONDS:g} seconds.")
with st.expander("The relations and their columns"):
    st.dataframe(
        [{"relation": name, "columns": ", ".join(columns)} for name, columns in RELATIONS.items()],
        hide_index=True,
        key="relations",
        column_config={"columns": st.column_config.TextColumn(width="large")},
    )

st.subheader("This run", anchor=False)
st.text(f"{file.name}\nsha256 {file.sha256}\nschema version {file.version}, application id {file.application_id:#x}")
facts = [
    {"fact": key, "value": value if isinstance(value, str) else json.dumps(value)} for key, value in file.facts.items()
]
wide = {"value": st.column_config.TextColumn(width="large")}
st.dataframe(facts, hide_index=True, key="facts", column_config=wide)
for title, table in (("Experts", file.experts), ("Tiers", file.tiers), ("Events", file.events)):
    if len(table):
        st.subheader(title, anchor=False)
        st.dataframe(table.to_pandas(), hide_index=True, key=title)
