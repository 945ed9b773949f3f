"""The outcome: held-out losses of the runs against their twins, which no claim depends on."""

from __future__ import annotations

import streamlit as st

from ui.sections.compare.training import SEEDS, how_to_train
from ui.widgets.charts import draw
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown, markdown_sentence
from ui.widgets.tables import show_table
from validation.charts.comparison.outcome import outcome_chart
from validation.frames.comparison.forest import in_order
from validation.frames.comparison.outcome import outcome_rows
from validation.judgement.judge import Judgement
from validation.text import pluralize, printable

GROUPS_SHOWN = 12  # lines of the chart
MAX_NAME = 120  # characters of a group's name
RECORDED = 'logger.log_run({"held_out_loss": 2.31})  # nats, at the end of training'


@guarded
def outcome(judgement: Judgement) -> None:
    """Show how the runs of each group end against their twins."""
    found = [group for group in in_order(judgement.verdict.groups) if group.outcome is not None]
    if not found:
        st.info(
            "The outcome compares held-out losses: at least two seeds must record held_out_loss, in the run and in its "
            "sham run. `prismatic train` records it. Train sham runs, and record the loss in your own loop:"
        )
        st.code(RECORDED, language=None, wrap_lines=True)
        how_to_train(judgement, SEEDS)
        return
    for group in found[:GROUPS_SHOWN]:
        name = f"**{escape_markdown(printable(group.name, MAX_NAME))}.** " if len(found) > 1 else ""
        st.markdown(name + markdown_sentence(group.outcome.because if group.outcome else ""))
    pairs, means = outcome_rows(found[:GROUPS_SHOWN])
    draw(
        outcome_chart(pairs, means),
        key="outcome",
        alt=f"Difference in held-out loss, in nats: {'; '.join(means['text'])}",
    )
    left_out = f" The first {GROUPS_SHOWN} of {pluralize(len(found), 'group')} are shown."
    st.caption(
        "Dot: one seed, the run minus its twin; diamond: their mean with its interval. Below zero, the runs end better "
        f"than their twins. The outcome is part of no claim.{left_out if len(found) > GROUPS_SHOWN else ''}"
    )
    columns = {"of_run": "Held-out loss of the run", "of_twin": "Held-out loss of its twin", "difference": "Run − twin"}
    show_table(
        pairs.drop(columns=["line", "role"]),
        key="outcomes",
        column_config={
            name: st.column_config.NumberColumn(name.replace("_", " "), format="%.4f", help=f"{text}, in nats")
            for name, text in columns.items()
        },
        alt="Held-out loss of each run and of its twin",
    )
