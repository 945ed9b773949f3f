"""Parts that several pages show: the table of all runs, and the choice of gradients."""

from __future__ import annotations

import json

import streamlit as st

from prismatic.contract.schema import SOURCES
from ui.layout.shell import choose_run, ordered_runs
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.judgement.judge import Judgement
from validation.method.terms import explain
from validation.report.json_report import options
from validation.text import spaced
from validation.verdict.groups import POSITIVE
from validation.verdict.words.statuses import shown_claim

TABLE = "runs-table"  # key of the table of all runs
SHOWN = "▶"
FACTS = ("kind", "scale", "logged steps", "experts", "merge")  # columns that are left out if all runs agree


@guarded
def runs_table(judgement: Judgement, picked: Run) -> None:
    """Show a table with one row per run, each judged by itself; the row that is picked is shown on all pages."""
    runs = ordered_runs(judgement)
    names = [run.id for run in runs]
    st.subheader("All runs", anchor=False)
    st.caption(
        "Each run judged by itself, over its experts. Pick a row to see its chart below, by keyboard with the arrow "
        f"keys and Shift+Space. Now it is run {escape_markdown(picked.id)} ({SHOWN})."
    )
    if _marked_rows() not in ([], [names.index(picked.id)]):  # another run was picked in the sidebar
        st.session_state[TABLE] = {"selection": {"rows": []}}
    rows = _that_differ([_row(judgement, run) for run in runs])
    show_table(
        [{"shown": SHOWN if run is picked else ""} | row for run, row in zip(runs, rows, strict=True)],
        key=TABLE,
        alt="All runs, each judged by itself",
        on_select=lambda: _choose(names),
        selection_mode="single-row",
        column_config={"shown": st.column_config.TextColumn(width=60, help="The run whose chart is below")},
    )


def _choose(names: list[str]) -> None:
    for row in _marked_rows():
        choose_run(names[row])


def _marked_rows() -> list[int]:
    """Return the row that is marked in the table, in a list; an empty one if none is.

    No row is marked at first: the arrow keys do not work in a table with a marked row that has had no focus yet.
    """
    state = st.session_state.get(TABLE)
    return [*state["selection"]["rows"]] if state else []


def _row(judgement: Judgement, run: Run) -> dict[str, object]:
    claims, group = judgement.verdict.judged(run.id), judgement.group_of(run.id)
    planted = group.role == POSITIVE
    words = {
        name: "" if group.check and not planted else shown_claim(c, planted=planted).word for name, c in claims.items()
    }
    return {
        "run": run.id,
        "kind": spaced(group.role),
        "scale": run.option("perturbation_scale"),
        "seed": run.seed,
        **words,
        "logged steps": len(run.steps),
        "experts": len(run.experts),
        "merge": str(run.config.get("merge", ""))[:20],
        "file": run.name,
    }


def _that_differ(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows without the facts that all runs share, so that the table is narrow."""
    shared = {name for name in FACTS if len({row[name] for row in rows}) == 1}
    return [{name: value for name, value in row.items() if name not in shared} for row in rows]


def options_button(run: Run, *, key: str) -> None:
    """Show a button that saves the options of a run as the file that commands take them from."""
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in options(run).items())
    name = f"{run.id}.yml"
    st.download_button(f"Options as {name}", lines, name, "application/yaml", key=key, on_click="ignore")


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
