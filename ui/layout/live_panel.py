"""The panel of a run in training: when its next look is due, the verdict at each look, and the intervals over time."""

from __future__ import annotations

import streamlit as st

from ui.session.live import growing_runs, is_training, seconds_since_last_row
from ui.widgets.charts import draw
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown, markdown_table
from ui.widgets.memo import memoized
from validation.analysis.bins import BINS
from validation.analysis.run import Run
from validation.charts.interim import interim_chart
from validation.files.training_status import STALE_AFTER
from validation.frames.interim import look_intervals
from validation.judgement.interim import InterimLook, NextLook, looks_so_far, next_look
from validation.judgement.judge import Judgement
from validation.verdict.claims import CLAIMS, INVALID, Claim
from validation.verdict.words.statuses import shown_claim
from validation.verdict.words.wording import QUESTIONS

RULE = (
    "An unfinished group is judged when two and when four of six parts of the training are complete in every run, each "
    "time at a quarter of α, so that looking early does not make errors more frequent. In between, the last verdict "
    "stands."
)

RULE_OF_PEERS = "The last third of the training decides whether experts are distinct, so there is no earlier look."


@guarded
def live_panel(judgement: Judgement, run: Run) -> None:
    """Show when the next look at a run in training is due, and the looks so far on request; nothing for other runs."""
    if not is_training(run):
        return
    looks = memoized(judgement, ("looks", run.id), lambda: looks_so_far(judgement, run))
    with st.container(key="live", gap="small"):
        stale = seconds_since_last_row(run) >= STALE_AFTER
        follows = " This page follows the run." if run in growing_runs(judgement) else ""
        if judgement.group_of(run.id).status == INVALID:
            st.markdown(f"No look is due while the runs are invalid.{follows}", help=RULE)
            return
        rule = RULE_OF_PEERS if run.peers else RULE
        st.markdown(due(next_look(judgement, run), judgement, run, stale=stale) + follows, help=rule)
        if not looks:
            return
        with st.expander("The verdict at each look so far", key="see-looks", on_change="rerun") as part:
            if part.open:
                _history(looks, run)


def due(look: NextLook | None, judgement: Judgement, run: Run, *, stale: bool) -> str:
    """Return a sentence on the next look as Markdown. stale: no row has come for long, so the pace says nothing."""
    if look is None:
        return "No row is logged yet, so no look is planned."
    others = len(judgement.group_of(run.id).runs) - 1
    name = "The final verdict" if look.bins == BINS else "The next look"
    where = f"after step **{look.step:,}** ({look.bins} of {BINS} parts of the training"
    where += ", in every run of the group)" if others else ")"
    when = "" if stale or look.seconds is None else f", {_in(look.seconds)}"
    return f"{name} is due {where}{when}."


def _status(claim: Claim, run: Run) -> str:
    """Return the status of a claim as a cell."""
    shown = shown_claim(claim, planted=run.is_positive_control)
    return escape_markdown(f"{shown.icon} {shown.word}")


def _in(seconds: float) -> str:
    """Return a time from now in words."""
    minutes = seconds / 60
    if minutes < 1:
        return "in less than a minute"
    if minutes < 90:
        return f"in about {minutes:.0f} {'minute' if round(minutes) == 1 else 'minutes'}"
    return f"in about {minutes / 60:.1f} hours" if minutes < 48 * 60 else f"in about {minutes / 1440:.0f} days"


def _history(looks: tuple[InterimLook, ...], run: Run) -> None:
    """Show the status of each claim at each look, and the deciding effect of each at all looks."""
    head = ("Part of the training", *(f"{look.bins} of {BINS}" for look in looks))
    steps = ("After step", *(f"{look.step:,}" for look in looks))
    claims = zip(*(look.claims for look in looks), strict=True)
    rows = [(at_looks[0].name.capitalize(), *(_status(claim, run) for claim in at_looks)) for at_looks in claims]
    st.caption(markdown_table([head, steps, *rows]))
    shown = [(name, found) for name in CLAIMS if (found := look_intervals(looks, name)) is not None]
    for column, (name, found) in zip(st.columns(2, gap="medium"), shown, strict=False):
        with column:
            st.caption(f"{name.capitalize()}: {QUESTIONS[name]}")
            draw(
                interim_chart(found),
                width="stretch",
                key=f"looks-{name}",
                alt=f"{found.title.capitalize()} with its interval at each look, beside the threshold",
            )
    if shown:
        st.caption(
            "Dot and bar: estimate and interval after these parts of the training. Dashed: threshold. Solid: no effect."
        )
