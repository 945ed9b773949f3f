"""The groups of runs: a table, and charts of one metric over the steps."""

from __future__ import annotations

import streamlit as st

from ui.widgets.charts import draw
from ui.widgets.guard import guarded
from ui.widgets.tables import show_table
from validation.charts.comparison.group_lines import group_bands, group_panels
from validation.charts.theme import MAX_GROUPS
from validation.frames.comparison.metrics import COMPARED_METRICS, group_means, metric_series
from validation.frames.comparison.runs_table import group_labels
from validation.judgement.judge import Judgement
from validation.text import pluralize, spaced
from validation.verdict.claims import CLAIMS, DISTINCT
from validation.verdict.groups import PEERS, Group
from validation.verdict.words.statuses import ICONS, shown_claim, shown_group
from validation.verdict.words.wording import estimated

GROUPS_LISTED = 60  # to choose from
GROUPS_SHOWN = 4  # at first
MEANING = ", ".join(f"{icon} {spaced(status)}" for status, icon in ICONS.items())
MAX_SEEDS = 12  # lines per group


@guarded
def groups(judgement: Judgement) -> None:
    """Show a table of the groups, and charts of one metric over the steps."""
    by_letter = dict(zip(group_labels(len(judgement.verdict.groups)), judgement.verdict.groups, strict=True))
    st.caption("Runs that differ only in the seed form a group. Intervals are over seeds, with one value per run.")
    show_table(
        [group_row(letter, group) for letter, group in by_letter.items()],
        key="groups",
        alt="Groups with their verdicts and their claims over seeds",
        column_config={
            "group": st.column_config.TextColumn(width=55),
            "options": st.column_config.TextColumn(width=140, help="Options in which the groups differ"),
            "runs": st.column_config.NumberColumn(width=45),
            "kind": st.column_config.TextColumn(width=70),
            "verdict": st.column_config.TextColumn(width=120),
            **{
                claim: st.column_config.TextColumn(
                    width=160, help=f"{claim.capitalize()}: {MEANING}; then the estimate over seeds with its interval"
                )
                for claim in (*CLAIMS, DISTINCT)
            },
        },
    )
    peers = all(group.role == PEERS for group in by_letter.values())
    metric, picked, show_seeds = _choose_groups(list(by_letter), peers=peers)
    if len(by_letter) > GROUPS_LISTED:
        st.caption(
            f"The first {GROUPS_LISTED} of {len(by_letter):,} groups can be chosen. Choose fewer runs to see others."
        )
    shown = {letter: group for letter, group in by_letter.items() if letter in picked[:MAX_GROUPS]}
    if len(picked) > len(shown):
        st.caption(f"The first {len(shown)} of the {len(picked)} chosen groups are drawn, so that lines stay readable.")
    if shown:
        metric_charts(judgement, shown, metric, show_seeds)
    else:
        st.caption("Choose a group to see its runs.")


def _choose_groups(letters: list[str], *, peers: bool) -> tuple[str, list[str], bool]:
    """Return the metric, the letters of the chosen groups, and True for a panel with the seeds of each group.

    peers: without the documented score, which is from a clean expert.
    """
    left, middle, right = st.columns([2, 3, 1], vertical_alignment="bottom")
    metric: str = left.selectbox(
        "Series",
        [name for name in COMPARED_METRICS if not (peers and name == "divergence")],
        format_func=lambda name: COMPARED_METRICS[name].title,
        key="course",
        bind="query-params",
    )
    picked = middle.pills(
        "Groups",
        letters[:GROUPS_LISTED],
        selection_mode="multi",
        default=letters[:GROUPS_SHOWN],
        key="shown",
        wrap=True,
        bind="query-params",
        help=f"Letters from the table. At most {MAX_GROUPS} groups are drawn at once.",
    )
    show_seeds = right.toggle(
        "Each seed",
        value=True,
        key="seeds",
        bind="query-params",
        help="A panel with the seeds of each group, or the means of all groups in one chart",
    )
    return metric, [letter for letter in letters if letter in picked], show_seeds


def group_row(letter: str, group: Group) -> dict[str, object]:
    """Return a group as a row of the table."""
    row: dict[str, object] = {
        "group": letter,
        "options": group.name,
        "runs": len(group.runs),
        "kind": spaced(group.role),
        "verdict": shown_group(group).word,
    }
    for claim in group.judged:
        shown, found = shown_claim(claim), estimated(claim)
        row[claim.name] = found if group.check else f"{shown.icon} {found or shown.word}"
    return row


def metric_charts(judgement: Judgement, shown: dict[str, Group], metric: str, show_seeds: bool) -> None:
    """Show one metric of some groups over the steps."""
    group_of = {run: letter for letter, group in shown.items() for run in group.runs}
    data = metric_series(judgement.con, list(group_of))
    if data.empty or not data[metric].notna().any():
        st.info(f"These runs did not log {COMPARED_METRICS[metric].title.lower()}. Choose another series.")
        return
    seeds_of = {
        run.id: "seed unknown" if run.seed is None else f"seed {run.seed}"
        for run in judgement.runs
        if run.id in group_of
    }
    each = data.rename(columns={metric: "value"})[["run", "middle", "value"]].dropna()
    each = each.assign(group=each["run"].map(group_of), label=each["run"].map(seeds_of))
    drawn = {run for group in shown.values() for run in group.runs[:MAX_SEEDS]}
    means, names = group_means(data, group_of, metric), list(shown)
    alt = f"{COMPARED_METRICS[metric].title} over training steps"
    if show_seeds:
        charts = group_panels(means, each[each["run"].isin(drawn)], names, metric)
        across = 2 if len(names) > 1 else 1
        for place, (letter, chart) in enumerate(zip(names, charts, strict=True)):
            if place % across == 0:  # a new row for each pair keeps their order when a phone stacks them
                row = st.columns(across, gap="medium")
            with row[place % across]:
                st.text(f"{letter}: {shown[letter].name} ({pluralize(len(shown[letter].runs), 'run')})")
                draw(chart, key=f"course-{letter}", alt=f"{alt}, group {letter}")
    else:
        draw(group_bands(means, names, metric), key="courses", alt=f"{alt}, all groups")
    cut = f"; at most {MAX_SEEDS} runs per group are drawn" if len(drawn) < len(group_of) else ""
    st.caption(
        f"{COMPARED_METRICS[metric].meaning}. Thick line: mean over a group's runs; band: its 95 % interval{cut}."
    )
