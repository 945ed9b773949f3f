"""Pieces of the Compare page: groups and their courses, doses, two runs, twins without perturbation, all runs."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ui.layout.cards import number
from ui.widgets.charts import draw
from ui.widgets.markdown import escape_markdown, markdown_sentence
from ui.widgets.tables import show_table
from validation.charts import run_comparison
from validation.charts.theme import MAX_GROUPS
from validation.frames.run_comparison import (
    COMPARED_METRICS,
    dose_effects,
    filter_runs,
    group_labels,
    group_means,
    metric_series,
    runs_table,
    sham_pair_rows,
    sort_runs,
    sparklines,
)
from validation.judgement.judge import Judgement
from validation.query.questions import ask
from validation.text import pluralize
from validation.verdict.claims import CLAIMS
from validation.verdict.groups import Group

SEEDS = "seed=0..4 --with-controls"
DOSES = "perturbation_scale=0,0.5,1,2 seed=0..2"
FACTS = """callback.attach(model, optimizer, **{"config.seed": 1, "config.perturbation_scale": 0.5})
python -m prismatic import ... --set seed=1 perturbation_scale=0.5"""
DOSES_PER_ROW = 2  # charts of doses
GROUPS_LISTED = 60  # that can be chosen from
GROUPS_SHOWN = 4  # groups at first, so that their lines can be told apart
MAX_SEEDS = 12  # lines of one group
MAX_PAIRS = 40  # rows of the chart of twins
PAGE_ROWS = 100  # rows of the table of runs


def too_few_runs(judgement: Judgement) -> None:
    """What to do with one run."""
    st.info("Compare needs at least two runs. Add seeds of this one, and runs in which nothing was perturbed:")
    how_to_train(judgement, SEEDS)
    st.caption("Then choose all of their files on the home page. Five seeds of each usually give an answer.")
    st.page_link("app.py", label="Choose more files on the home page")


def how_to_train(judgement: Judgement, grid: str) -> None:
    """What makes runs that belong together: our own command, or what runs of other trainers must say of themselves."""
    if any(run.by_trainer for run in judgement.runs):
        line = f"python -m prismatic sweep --config experiments/per-example.yml --grid {grid}"
        st.code(line, language=None, wrap_lines=True)
    else:
        st.caption(
            "Each run must say its seed and its scale, as the facts config.seed and config.perturbation_scale; its "
            "other options are those of its group. In a loop of your own, and where runs of a tracker are imported:"
        )
        st.code(FACTS, language=None, wrap_lines=True)


def groups(judgement: Judgement) -> None:
    """The groups with what they say, and their courses over the steps."""
    own = judgement.verdict.groups
    letters = group_labels(len(own))
    st.caption("Runs that differ in nothing but the seed are one group. The run is the unit: intervals are over seeds.")
    show_table(
        [group_row(letter, group) for letter, group in zip(letters, own, strict=True)],
        key="groups",
        alt="Every group with its verdict and its claims over seeds",
        column_config={
            "options": st.column_config.TextColumn(width="medium", help="In which options this group differs"),
            **{c: st.column_config.TextColumn(help=f"{c}: estimate over seeds, 95 % interval") for c in CLAIMS},
        },
    )
    left, middle, right = st.columns([2, 3, 1], vertical_alignment="bottom")
    course = left.selectbox(
        "Series",
        list(COMPARED_METRICS),
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
        help=f"By their letters in the table; {MAX_GROUPS} at once can be told apart.",
    )
    show_seeds = right.toggle(
        "Each seed", value=True, key="seeds", bind="query-params", help="A panel for each group, or all means in one"
    )
    if len(letters) > GROUPS_LISTED:
        st.caption(
            f"The first {GROUPS_LISTED} of {len(letters):,} groups can be drawn. Choose fewer runs to see others."
        )
    shown = [letter for letter in letters if letter in picked][:MAX_GROUPS]
    if len(picked) > len(shown):
        st.caption(f"{len(shown)} of the {len(picked)} chosen groups are drawn: more cannot be told apart.")
    if shown:
        names = dict(zip(letters, own, strict=True))
        metric_charts(judgement, {letter: names[letter] for letter in shown}, course, show_seeds)
    else:
        st.caption("Choose a group to see its runs.")


def group_row(letter: str, group: Group) -> dict[str, object]:
    """A group as a row of the table."""
    row: dict[str, object] = {
        "group": letter,
        "options": group.name,
        "runs": len(group.runs),
        "verdict": group.status,
    }
    for claim in group.claims:
        row[claim.name] = claim.status
        if claim.estimate is not None:
            low, high = ("unbounded" if bound is None else f"{bound:.3g}" for bound in (claim.low, claim.high))
            row[claim.name] = f"{claim.status}, {number(claim.estimate, claim)} [{low}, {high}]"
    row["kind"] = group.role.replace("_", " ")
    return row


def metric_charts(judgement: Judgement, shown: dict[str, Group], course: str, show_seeds: bool) -> None:
    """One series of some groups over the steps."""
    group_of = {run: letter for letter, group in shown.items() for run in group.runs}
    data = metric_series(judgement.con, list(group_of))
    if data.empty or not data[course].notna().any():
        st.info(f"These runs do not log {COMPARED_METRICS[course].title.lower()}.")
        return
    seeds_of = {
        run.id: "seed unknown" if run.seed is None else f"seed {run.seed}"
        for run in judgement.runs
        if run.id in group_of
    }
    each = data.rename(columns={course: "value"})[["run", "middle", "value"]].dropna()
    each = each.assign(group=each["run"].map(group_of), label=each["run"].map(seeds_of))
    drawn = {run for group in shown.values() for run in group.runs[:MAX_SEEDS]}
    means, names = group_means(data, group_of, course), list(shown)
    alt = f"{COMPARED_METRICS[course].title} over training steps"
    if show_seeds:
        charts = run_comparison.group_panels(means, each[each["run"].isin(drawn)], names, course)
        across = 2 if len(names) > 1 else 1
        for place, (letter, chart) in enumerate(zip(names, charts, strict=True)):
            if place % across == 0:  # a row of its own for each pair: stacked on a phone, they keep their order
                row = st.columns(across, gap="medium")
            with row[place % across]:
                st.text(f"{letter}: {shown[letter].name} ({len(shown[letter].runs)} runs)")
                draw(chart, key=f"course-{letter}", alt=f"{alt}, group {letter}")
    else:
        draw(run_comparison.group_bands(means, names, course), key="courses", alt=f"{alt}, all groups")
    cut = f" At most {MAX_SEEDS} runs of a group are drawn." if len(drawn) < len(group_of) else ""
    st.caption(
        f"{COMPARED_METRICS[course].meaning}. Thick: mean over a group's runs; band: its 95 % interval over runs.{cut}"
    )


def dose_response(judgement: Judgement) -> None:
    """Whether the effect rises with the perturbation."""
    found = judgement.verdict.doses
    if not found:
        st.info(
            "A dose-response needs groups that differ in perturbation_scale alone: at least three scales, and two "
            "seeds that have all of them. Choose only such runs, or train them:"
        )
        how_to_train(judgement, DOSES)
        return
    places = [place for _ in range(0, len(found), DOSES_PER_ROW) for place in st.columns(DOSES_PER_ROW, gap="large")]
    for place, dose in zip(places, found, strict=False):
        with place:
            st.markdown(f"**{markdown_sentence(dose.title)[:-1]}**")
            with st.container(horizontal=True):
                st.metric(
                    "Page's p", f"{dose.p:.2g}", border=True, help="That the order of the scales in each seed is chance"
                )
                st.metric(
                    f"Slope ({dose.unit} per unit)",
                    f"{dose.slope:.3g}",
                    border=True,
                    help="Per unit of perturbation_scale: mean of the seeds' own slopes",
                )
            each, means = dose_effects(dose, judgement.verdict.groups, judgement.runs)
            draw(
                run_comparison.dose_response(dose, each, means),
                key=f"dose-{dose.title}",
                alt=f"{dose.claim} over scale",
            )
            st.caption(markdown_sentence(dose.because))
    st.caption("Diamonds: mean over seeds with its 95 % interval. Dashed: the mean slope. Thin lines: single seeds.")


def two_runs(judgement: Judgement) -> None:
    """In what two runs differ."""
    runs = [run.id for run in judgement.runs]
    left, right = st.columns(2)
    first = left.selectbox("First run", runs, key="first", bind="query-params")
    second = right.selectbox("Second run", runs, index=1, key="second", bind="query-params")
    table = ask(judgement.con, "facts_of_two", first=first, second=second).to_pandas()
    if table.empty:
        st.info("Neither file has a run table, so their options are not known.")
        return
    table["kind"] = table["is_option"].map({True: "option", False: "fact"})
    table["name"] = table["key"].str.removeprefix("config.")
    shown = table.rename(columns={"first": first, "second": second})[["kind", "name", first, second]]
    if first == second:
        shown = table.rename(columns={"first": "value"})[["kind", "name", "value"]]
    differing = shown[table["differs"]]
    options = int((table["differs"] & table["is_option"]).sum())
    others = pluralize(len(differing) - options, "other fact")
    st.caption(f"They differ in {pluralize(options, 'option')} and {others}.")
    if len(differing):
        show_table(differing, key="differing")
    with st.expander(f"{int((~table['differs']).sum())} that are the same"):
        show_table(shown[~table["differs"]], key="same")


def sham_pairs(judgement: Judgement) -> None:
    """Every treated run beside the run of the same seed in which nothing was perturbed."""
    pairs = sham_pair_rows(judgement)
    if pairs.empty:
        st.info(
            "No run here has a sham run: the same options and the same seed, with perturbation_scale 0. Train them:"
        )
        how_to_train(judgement, SEEDS)
        return
    claim = st.segmented_control(
        "Claim", ["awakening", "divergence"], default="awakening", required=True, key="claim", bind="query-params"
    )
    own = pairs[(pairs["claim"] == claim) & pairs["estimate"].notna() & pairs["of the sham"].notna()]
    own = own.sort_values(["scale", "seed"])
    for unit, some in own.groupby("unit"):
        threshold = some["threshold"].iloc[0] if some["threshold"].nunique() == 1 else None
        draw(
            run_comparison.sham_dumbbells(some.head(MAX_PAIRS), str(unit), threshold),
            key=f"twins-{unit}",
            alt=f"{claim} of treated runs and of their sham runs",
        )
        cut = f" The first {MAX_PAIRS} of {len(some)} are drawn." if len(some) > MAX_PAIRS else ""
        st.caption(f"Filled: the treated run. Hollow: its sham run. Dashed: the threshold.{cut}")
    columns = {
        "estimate": "Of the treated run, in the unit of its row",
        "low": "Lower bound of the estimate's 95 % interval",
        "high": "Upper bound of the estimate's 95 % interval",
        "of the sham": "The sham run's own estimate",
        "threshold": "What a difference must exceed to count",
    }
    show_table(
        pairs[pairs["claim"] == claim].drop(columns="claim"),
        key="twins",
        column_config={name: st.column_config.NumberColumn(format="%.3g", help=told) for name, told in columns.items()},
        alt=f"{claim.capitalize()} of every treated run and of its sham run",
    )


@st.cache_resource(
    scope="session",
    max_entries=2,
    show_spinner=False,
    hash_funcs={Judgement: lambda j: (str(j.verdict.thresholds), *(file.sha256 for file in j.files))},
)
def overview(judgement: Judgement) -> pd.DataFrame:
    """The table of all runs, without their courses."""
    return runs_table(judgement)


def all_runs(judgement: Judgement) -> None:
    """All runs in a table: filter, sort, and the course of each at a glance."""
    table = overview(judgement)
    words, verdicts, kinds = st.columns([2, 3, 2])
    wanted = filter_runs(
        table,
        words.text_input("Find", key="find", bind="query-params", placeholder="run, file, option", help="Every word"),
        _filter_pills(verdicts, "Verdict", table["verdict"]),
        _filter_pills(kinds, "Kind", table["kind"]),
    )
    by, order, course, page = st.columns([2, 1, 2, 1], vertical_alignment="bottom")
    sort = by.selectbox("Sort by", ["as chosen", *table.columns], key="sort", bind="query-params")
    descending = order.toggle("Descending", key="descending", bind="query-params")
    line = course.selectbox(
        "Sparkline",
        list(COMPARED_METRICS),
        format_func=lambda name: COMPARED_METRICS[name].title,
        key="line",
        bind="query-params",
    )
    wanted = sort_runs(wanted, sort, descending=descending)
    pages = max(1, -(-len(wanted) // PAGE_ROWS))
    place = int(page.number_input(f"Page of {pages:,}", 1, pages, key="runs-page")) - 1
    rows = wanted.iloc[place * PAGE_ROWS : (place + 1) * PAGE_ROWS].copy()
    lines = sparklines(judgement.con, rows["run"].tolist(), line)
    rows.insert(4, "course", rows["run"].map(lines))
    show_table(
        rows,
        most=18,
        key="runs",
        alt="Every run with its verdict, its options and its course",
        column_config={
            "course": st.column_config.LineChartColumn(
                COMPARED_METRICS[line].title,
                width="medium",
                help=f"{COMPARED_METRICS[line].meaning}. In {COMPARED_METRICS[line].unit}, over the steps.",
            ),
            "steps": st.column_config.NumberColumn("logged steps"),
        },
    )
    told = f"{len(wanted):,} of {len(table):,} runs match, of {int(wanted['steps'].sum()):,} logged steps together"
    more = f"{PAGE_ROWS} on a page, and a click on a column's head sorts this page only" if pages > 1 else ""
    st.caption(escape_markdown(f"{told}; {more}." if more else f"{told}."))


def _filter_pills(place: DeltaGenerator, label: str, values: pd.Series) -> list[str]:
    """A filter by a few words; none chosen is all. Pills, since the tags of a multiselect lack contrast when dark."""
    options = sorted(values.dropna().unique())
    chosen: list[str] = place.pills(
        label, options, selection_mode="multi", key=label.lower(), wrap=True, bind="query-params"
    )
    return chosen
