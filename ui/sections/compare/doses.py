"""The dose-response: effect over perturbation_scale."""

from __future__ import annotations

import streamlit as st

from ui.sections.compare.training import DOSES, how_to_train
from ui.widgets.charts import draw
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown, markdown_sentence
from validation.charts.comparison import dose as charts
from validation.frames.comparison.dose import dose_effects
from validation.judgement.judge import Judgement
from validation.text import printable, sentence

DOSES_PER_ROW = 2  # charts of the dose-response beside each other
MAX_TITLE = 120  # characters of a title that lists options


@guarded
def dose_response(judgement: Judgement) -> None:
    """Show the dose-response: effect over perturbation_scale."""
    found = judgement.verdict.doses
    if not found:
        st.info(
            "A dose-response needs groups that differ only in perturbation_scale: at least three scales, each with the "
            "same two or more seeds. Choose such runs, or train them:"
        )
        how_to_train(judgement, DOSES)
        return
    places = [place for _ in range(0, len(found), DOSES_PER_ROW) for place in st.columns(DOSES_PER_ROW, gap="large")]
    for place, dose in zip(places, found, strict=False):
        with place:
            st.markdown(f"**{escape_markdown(printable(sentence(dose.title)[:-1], MAX_TITLE))}**")
            with st.container(horizontal=True):
                st.metric(
                    "Page's p",
                    f"{dose.p:.2g}",
                    border=True,
                    help="Page's trend test: the probability that chance alone makes the effect rise this clearly",
                )
                st.metric(
                    f"Slope ({dose.unit} per unit)",
                    f"{dose.slope:.3g}",
                    border=True,
                    help="Mean of the seeds' slopes, per unit of perturbation_scale",
                )
            each, means = dose_effects(dose, judgement.verdict.thresholds.alpha)
            draw(
                charts.dose_response(dose, each, means),
                key=f"dose-{dose.title}",
                alt=f"{dose.claim} over scale",
            )
            st.caption(markdown_sentence(dose.because))
    st.caption("Diamonds: mean over seeds with its 95 % interval; dashed line: mean slope; thin lines: single seeds.")
