"""Why the verdict is what it is: every claim of both readings, the premise, the thresholds."""

import json

import streamlit as st

from ui.shell import shell
from ui.views import claim_cards, headline, number
from validation.report import as_json

judgement, run = shell("Verdict")
headline(judgement, run)
claim_cards(judgement, run)

st.subheader("Every claim, per expert", anchor=False)
readings = {"controlled": judgement.verdict.controlled, "as written": judgement.verdict.as_written}
st.dataframe(
    [
        {
            "reading": title,
            "claim": claim.claim,
            "expert": "all" if claim.expert is None else str(claim.expert),
            "status": claim.status,
            "estimate": number(claim.estimate, claim) if claim.estimate is not None else "",
            "low": number(claim.low, claim) if claim.low is not None else "",
            "high": number(claim.high, claim) if claim.high is not None else "",
            "points": claim.points,
            "independent batches": claim.effective,
            "because": claim.because,
        }
        for title, reading in readings.items()
        for claim in reading.claims
        if claim.run == run.run
    ],
    hide_index=True,
    key="claims",
    column_config={
        "because": st.column_config.TextColumn(width="large"),
        "independent batches": st.column_config.NumberColumn(format="%.1f"),
    },
)

how, limits = st.columns([3, 2], gap="large")
with how:
    st.subheader("How it was decided", anchor=False)
    st.markdown(
        "1. **Valid?** A file with too many missing values, a long gap or no gradients carries no verdict.\n"
        "2. **One common gradient?** With `merge: batch` every expert's gradient is its routing share times the same "
        "gradient: norms then differ as the routing does, and the answer is *confounded* or *refuted*.\n"
        "3. **Evidence.** Awakening: what the bottom tier gained beyond the middle tier. Divergence: what is left "
        "beyond routing and beyond an unperturbed control. Sustainment: what of it is left in the last third.\n"
        "4. **Supported** only if all three claims are, for every perturbed expert."
    )
    st.caption("Intervals are lag-corrected batch means: neighbouring steps are alike, so many of them weigh little.")
with limits:
    st.subheader("Thresholds", anchor=False)
    st.dataframe(
        [{"threshold": name, "value": value} for name, value in vars(judgement.verdict.thresholds).items()],
        hide_index=True,
        key="thresholds",
    )

st.download_button(
    "Download the verdict (JSON)",
    json.dumps(as_json(judgement), indent=2, allow_nan=False),
    file_name="verdict.json",
    mime="application/json",
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
