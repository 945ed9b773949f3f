"""Parts that several pages show: the table of all runs, and the choice of gradients."""

from __future__ import annotations

import streamlit as st

from prismatic.contract.schema import SOURCES
from ui.layout.shell import choose_run
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.judgement.judge import Judgement
from validation.method.terms import explain
from validation.text import spaced
from validation.verdict.groups import POSITIVE, Group
from validation.verdict.words.statuses import shown_claim


def runs_table(judgement: Judgement, picked: Run) -> None:
    """Show a table with one row per run, each judged by itself; a row that is picked is shown on all pages."""
    runs = [run for group in judgement.verdict.groups for run in _members(judgement, group)]
    rows = [_row(judgement, run) for run in runs]
    st.subheader("All runs", anchor=False)
    st.caption("Each run judged by itself, over its experts. Pick a row to see its chart below.")
    event = show_table(rows, key=f"runs-table-{picked.id}", on_select="rerun", selection_mode="single-row")
    for place in event.selection.rows:
        choose_run(runs[place])


def _members(judgement: Judgement, group: Group) -> list[Run]:
    """Return the runs of a group by their seeds."""
    runs = [each.run for each in judgement.members_of(group)]
    return sorted(runs, key=lambda run: (run.seed is None, run.seed or 0))


def _row(judgement: Judgement, run: Run) -> dict[str, object]:
    claims, group = judgement.verdict.controlled.whole(run.id), judgement.group_of(run.id)
    planted = group.role == POSITIVE
    words = {
        name: "" if group.check and not planted else shown_claim(c, planted=planted).word for name, c in claims.items()
    }
    return {
        "run": run.id,
        "file": run.name,
        "kind": spaced(group.role),
        "scale": run.number("config.perturbation_scale"),
        "seed": run.seed,
        **words,
        "logged steps": len(run.steps),
        "experts": len(run.experts),
        "merge": str(run.config.get("merge", ""))[:20],
    }


def choose_gradients(run: Run) -> str:
    """Return the chosen gradients: "merged", or "isolated" for a run that was probed."""
    if run.isolated is None:
        return "merged"
    chosen: str = st.segmented_control(
        "Gradients",
        list(SOURCES),
        default="merged",
        required=True,
        key="gradients",
        bind="query-params",
        help=explain("merged gradient", "isolated gradient", "probe"),
    )
    return chosen
