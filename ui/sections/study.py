"""The study that the runs registered, on top of the Compare page: its question, missing runs, and its answers."""

from __future__ import annotations

import streamlit as st

from prismatic.errors import StudyError
from ui.widgets.markdown import escape_markdown, markdown_sentence, markdown_table
from validation.judgement.judge import Judgement
from validation.judgement.study import StudyJudgement, require_registered, study_of
from validation.verdict.hypotheses import CONFIRMED, CONTRADICTED, EXPLAINED, OPEN

BADGES = {CONFIRMED: "green", CONTRADICTED: "red", OPEN: "gray"}


def study_panel(judgement: Judgement) -> None:
    """Show the study of these runs; nothing if they are not those of one study."""
    study = study_of(judgement)
    if study is None:
        return
    with st.container(border=True):
        st.subheader(f"Study {escape_markdown(study.plan.name)}", anchor=False)
        if study.plan.question:
            st.markdown(markdown_sentence(study.plan.question))
        _planned_runs(study)
        try:
            require_registered(judgement)
        except StudyError as error:
            st.warning(markdown_sentence(str(error)))
        _answers(study)


def _planned_runs(study: StudyJudgement) -> None:
    if study.missing:
        st.warning(markdown_sentence(study.because))
    else:
        st.caption(markdown_sentence(study.because))


def _answers(study: StudyJudgement) -> None:
    """Show each registered hypothesis with its answer and the numbers behind it."""
    if not study.answers:
        st.caption("It registered no hypothesis.")
        return
    rows = [("Hypothesis", "Answer", "Why")]
    for each in study.answers:
        answer = f":{BADGES[each.status]}-badge[{EXPLAINED[each.status]}]"
        rows.append((escape_markdown(each.hypothesis.sentence), answer, escape_markdown(each.because)))
    st.markdown(markdown_table(rows))
    st.caption(f"Each run registered them before its first step (plan {study.plan.sha256[:12]}).")
