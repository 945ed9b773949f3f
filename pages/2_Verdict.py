"""Why the verdict is what it is: every claim of both readings, the premise, the thresholds."""

import json
from datetime import UTC, datetime

import streamlit as st

from ui.shell import changed, shell
from ui.verdict import advice, claims_table, edit_thresholds, evidence, made, registration
from ui.views import claim_cards, headline
from validation.document import as_html, as_markdown
from validation.report import as_json

judgement, run = shell("Verdict")
headline(judgement, run)
claim_cards(judgement, run)

advice(judgement, run)
evidence(judgement, run)

st.subheader("Behind it", anchor=False)
registration(judgement, run)
with st.expander("See or change the thresholds", expanded=bool(changed())):
    edit_thresholds(judgement, run)
with st.expander("Every claim, per expert"):
    claims_table(judgement, run)
with st.expander("How this run was made"):
    made(run)

with st.container(horizontal=True):
    st.download_button(
        "Report (HTML)",
        lambda: as_html(judgement, now=datetime.now(UTC)),
        file_name="verdict.html",
        mime="text/html",
        on_click="ignore",
        help="One file that opens without a network: verdict, evidence, thresholds, options, hashes of the run files.",
    )
    st.download_button(
        "Report (Markdown)",
        lambda: as_markdown(judgement, now=datetime.now(UTC)),
        file_name="verdict.md",
        mime="text/markdown",
        on_click="ignore",
    )
    st.download_button(
        "Download the verdict (JSON)",
        lambda: json.dumps(as_json(judgement), indent=2, allow_nan=False),
        file_name="verdict.json",
        mime="application/json",
        on_click="ignore",
    )
