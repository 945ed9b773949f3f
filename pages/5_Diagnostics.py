"""What is wrong with a run, or was checked and is not."""

import streamlit as st

from ui.shell import shell, show_finding, show_rejected
from validation.diagnostics import CHECKS

judgement, run = shell("Diagnostics")
show_rejected(judgement)
own = [finding for finding in judgement.findings if finding.run == run.run]
if not own:
    st.success("Every check passed for this run.")
for finding in own:
    show_finding(finding)

st.subheader("What was checked", anchor=False)
found = {finding.id: finding.severity for finding in reversed(own)}  # errors come first, and stay
st.dataframe(
    [
        {
            "check": check.__name__,
            "result": found.get(check.__name__, "passed"),
            "looks for": (check.__doc__ or "").strip(),
        }
        for check in CHECKS
    ],
    hide_index=True,
    key="checks",
    column_config={"looks for": st.column_config.TextColumn(width="large")},
)

file = next(file for file in judgement.files if file.run == run.run)
st.subheader("How the file was read", anchor=False)
st.text(f"{file.name}  {file.sha256}")
st.caption(f"{len(run.steps)} rows, {len(run.experts)} experts, {len(file.wide.column_names)} columns read.")
if file.ignored:
    st.caption("Columns that were not read, because no metric is called so:")
    st.text(", ".join(file.ignored))
for note in file.notes:
    st.text(note)
if file.events.num_rows:
    st.subheader("Events of the run", anchor=False)
    st.dataframe(file.events.to_pandas(), hide_index=True, key="events")
