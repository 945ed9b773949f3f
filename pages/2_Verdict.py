"""Why the verdict is what it is: every claim of both readings, the premise, the thresholds."""

import json
from datetime import UTC, datetime

import streamlit as st

from ui.shell import shell
from ui.verdict import advice, claims_table, edit_thresholds, evidence
from ui.views import claim_cards, headline
from validation.document import as_html, as_markdown
from validation.report import as_json

judgement, run = shell("Verdict")
headline(judgement, run)
claim_cards(judgement, run)

advice(judgement, run)
evidence(judgement, run)

claims_table(judgement, run)
edit_thresholds(judgement, run)

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
with st.expander("How this run was made"):
    if run.facts:
        st.dataframe(
            [{"fact": key, "value": json.dumps(value)} for key, value in run.facts.items()],
            hide_index=True,
            key="facts",
        )
    else:
        st.caption("The file has no run table, so its options, seed and thresholds are unknown.")
