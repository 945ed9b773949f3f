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

TABLE = "runs-table"  # key of the table of all runs
SHOWN = "▶"


def runs_table(judgement: Judgement, picked: Run) -> None:
    """Show a table with one row per run, each judged by itself; the row that is picked is shown on all pages."""
    runs = [run for group in judgement.verdict.groups for run in _members(judgement, group)]
    names = [run.id for run in runs]
    st.subheader("All runs", anchor=False)
    st.caption(
        "Each run judged by itself, over its experts. Pick a row to see its chart below; by keyboard with the arrow "
        "keys and Shift+Space."
    )
    if _marked_rows() not in ([], [names.index(picked.id)]):  # another run was picked in the sidebar
        st.session_state[TABLE] = {"selection": {"rows": []}}
    show_table(
        [{"shown": SHOWN if run is picked else ""} | _row(judgement, run) for run in runs],
        key=TABLE,
        alt="All runs, each judged by itself",
        on_select=lambda: [choose_run(names[row]) for row in _marked_rows()],
        selection_mode="single-row",
        column_config={"shown": st.column_config.TextColumn(width=60, help="The run whose chart is below")},
    )


def _marked_rows() -> list[int]:
    """Return the row that is marked in the table, in a list; an empty one if none is.

    No row is marked at first: the arrow keys do not work in a table with a marked row that has had no focus yet.
    """
    state = st.session_state.get(TABLE)
    return [*state["selection"]["rows"]] if state else []


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
