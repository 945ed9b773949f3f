"""Why the verdict is what it is: every claim of both readings, the premise, the thresholds."""

import streamlit as st

from ui.shell import changed, shell
from ui.verdict import advice, claims_table, downloads, edit_thresholds, evidence, made, registration
from ui.views import claim_cards, headline

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

downloads(judgement)
