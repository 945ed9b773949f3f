"""Each treated run beside its sham run of the same seed."""

from __future__ import annotations

import streamlit as st

from ui.sections.compare.claim import choose_claim
from ui.sections.compare.training import SEEDS, how_to_train
from ui.widgets.charts import draw
from ui.widgets.guard import guarded
from ui.widgets.tables import show_table
from validation.charts.comparison.sham_pairs import sham_dumbbells
from validation.frames.comparison.sham_pairs import sham_pair_rows
from validation.judgement.judge import Judgement
from validation.text import sentence
from validation.verdict.words.wording import QUANTITIES, RATIO

MAX_PAIRS = 40  # rows of the chart of sham runs


@guarded
def sham_pairs(judgement: Judgement) -> None:
    """Show each treated run beside its sham run of the same seed."""
    pairs = sham_pair_rows(judgement)
    if pairs.empty:
        st.info("No chosen run has a sham run: same options and seed, but perturbation_scale 0. Train sham runs:")
        how_to_train(judgement, SEEDS)
        return
    claim = choose_claim(judgement)
    own = pairs[pairs["claim"] == claim].drop(columns="claim").sort_values(["scale", "seed"])
    for effect, rows in own.groupby("effect", sort=False):
        unit = "factor" if rows["unit"].iloc[0] == RATIO else rows["unit"].iloc[0]
        draw(
            sham_dumbbells(rows.head(MAX_PAIRS), f"{sentence(QUANTITIES[effect])[:-1]} ({unit})"),
            key=f"twins-{effect}",
            alt=f"{claim} of treated runs and of their sham runs",
        )
        cut = f" The first {MAX_PAIRS} of {len(rows)} pairs are drawn." if len(rows) > MAX_PAIRS else ""
        st.caption(f"Filled: treated run; hollow: its sham run.{cut}")
    columns = {
        "treated": "Effect of the treated run by itself: perturbed experts compared with the control experts",
        "of the sham": "The same in its sham run, which the verdict subtracts if every seed has one",
    }
    show_table(
        own,
        key="twins",
        column_config={name: st.column_config.NumberColumn(format="%.3f", help=text) for name, text in columns.items()},
        alt=f"{claim.capitalize()} of each treated run and of its sham run",
    )
