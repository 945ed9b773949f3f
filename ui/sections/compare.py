"""The Compare page: groups over seeds, dose-response, sham runs, differences of two runs, and all runs."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ui.widgets.charts import draw
from ui.widgets.markdown import escape_markdown, markdown_sentence
from ui.widgets.tables import TIMES, fact_text, show_table
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
from validation.text import pluralize, printable, sentence, spaced
from validation.verdict.claims import CLAIMS
from validation.verdict.groups import Group
from validation.verdict.words.wording import CHECKS, QUANTITIES, RATIO, estimated

SEEDS = "seed=0..5 --with-controls"
DOSES = "perturbation_scale=0,0.5,1,2 seed=0..2"
FACTS = """callback.attach(model, optimizer, **{"config.seed": 1, "config.perturbation_scale": 0.5})
prismatic import ... --set seed=1 perturbation_scale=0.5"""
DOSES_PER_ROW = 2  # charts of the dose-response beside each other
GROUPS_LISTED = 60  # to choose from
GROUPS_SHOWN = 4  # at first
MAX_SEEDS = 12  # lines per group
MAX_PAIRS = 40  # rows of the chart of sham runs
PAGE_ROWS = 100  # runs per page of the table
MAX_TITLE = 120  # characters of a title that lists options


def too_few_runs(judgement: Judgement) -> None:
    """Show how to get more runs, if there is only one."""
    st.info("Compare needs at least two runs. Train more seeds, and sham runs, in which nothing is perturbed:")
    how_to_train(judgement, SEEDS)
    st.caption("Then choose all their files on the home page. Six seeds of each can be decided.")
    st.page_link("app.py", label="Choose more files on the home page")


def how_to_train(judgement: Judgement, grid: str) -> None:
    """Show the command that trains a sweep, or the facts that runs of other trainers must record."""
    if any(run.by_trainer for run in judgement.runs):
        line = f"prismatic sweep --config experiments/per-example.yml --grid {grid}"
        st.code(line, language=None, wrap_lines=True)
    else:
        st.caption(
            "Each run must record its seed and scale as the facts config.seed and config.perturbation_scale; its other "
            "options define its group. Record them in your own loop, or when you import runs of a tracker:"
        )
        st.code(FACTS, language=None, wrap_lines=True)


def groups(judgement: Judgement) -> None:
    """Show a table of the groups, and charts of one metric over the steps."""
    by_letter = dict(zip(group_labels(len(judgement.verdict.groups)), judgement.verdict.groups, strict=True))
    st.caption("Runs that differ only in the seed form a group. Intervals are over seeds, with one value per run.")
    show_table(
        [group_row(letter, group) for letter, group in by_letter.items()],
        key="groups",
        alt="Groups with their verdicts and their claims over seeds",
        column_config={
            "options": st.column_config.TextColumn(width="medium", help="Options in which the groups differ"),
            **{
                claim: st.column_config.TextColumn(help=f"{claim.capitalize()}: estimate over seeds with its interval")
                for claim in CLAIMS
            },
        },
    )
    metric, picked, show_seeds = _choose_groups(list(by_letter))
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


def _choose_groups(letters: list[str]) -> tuple[str, list[str], bool]:
    """Return the metric, the letters of the chosen groups, and True for a panel with the seeds of each group."""
    left, middle, right = st.columns([2, 3, 1], vertical_alignment="bottom")
    metric: str = left.selectbox(
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
        "verdict": CHECKS[group.check] if group.check else group.status,
    }
    for claim in group.claims:
        row[claim.name] = ", ".join(filter(None, ["" if group.check else claim.status, estimated(claim)]))
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
        charts = run_comparison.group_panels(means, each[each["run"].isin(drawn)], names, metric)
        across = 2 if len(names) > 1 else 1
        for place, (letter, chart) in enumerate(zip(names, charts, strict=True)):
            if place % across == 0:  # a new row for each pair keeps their order when a phone stacks them
                row = st.columns(across, gap="medium")
            with row[place % across]:
                st.text(f"{letter}: {shown[letter].name} ({pluralize(len(shown[letter].runs), 'run')})")
                draw(chart, key=f"course-{letter}", alt=f"{alt}, group {letter}")
    else:
        draw(run_comparison.group_bands(means, names, metric), key="courses", alt=f"{alt}, all groups")
    cut = f"; at most {MAX_SEEDS} runs per group are drawn" if len(drawn) < len(group_of) else ""
    st.caption(
        f"{COMPARED_METRICS[metric].meaning}. Thick line: mean over a group's runs; band: its 95 % interval{cut}."
    )


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
                run_comparison.dose_response(dose, each, means),
                key=f"dose-{dose.title}",
                alt=f"{dose.claim} over scale",
            )
            st.caption(markdown_sentence(dose.because))
    st.caption("Diamonds: mean over seeds with its 95 % interval; dashed line: mean slope; thin lines: single seeds.")


def two_runs(judgement: Judgement) -> None:
    """Show the options and facts in which two runs differ."""
    runs = [run.id for run in judgement.runs]
    left, right = st.columns(2)
    first = left.selectbox("First run", runs, key="first", bind="query-params")
    second = right.selectbox("Second run", runs, index=1, key="second", bind="query-params")
    table = ask(judgement.con, "facts_of_two", first=first, second=second).to_pandas()
    if table.empty:
        st.info("Neither file has a run table, so their options are unknown.")
        return
    facts = {file.id: file.facts for file in judgement.files}
    for side, run in (("first", first), ("second", second)):
        times = table["key"].isin(TIMES) & table[side].notna()
        table.loc[times, side] = [fact_text(key, facts[run][key]) for key in table.loc[times, "key"]]
    table["kind"] = table["is_option"].map({True: "option", False: "fact"})
    table["name"] = table["key"].str.removeprefix("config.")
    shown = table.rename(columns={"first": first, "second": second})[["kind", "name", first, second]]
    if first == second:
        shown = table.rename(columns={"first": "value"})[["kind", "name", "value"]]
    differing = shown[table["differs"]]
    options = int((table["differs"] & table["is_option"]).sum())
    others = pluralize(len(differing) - options, "other fact")
    st.caption(f"The runs differ in {pluralize(options, 'option')} and {others}.")
    if len(differing):
        show_table(differing, key="differing")
    with st.expander(f"{pluralize(int((~table['differs']).sum()), 'equal value')}"):
        show_table(shown[~table["differs"]], key="same")


def sham_pairs(judgement: Judgement) -> None:
    """Show each treated run beside its sham run of the same seed."""
    pairs = sham_pair_rows(judgement)
    if pairs.empty:
        st.info("No chosen run has a sham run: same options and seed, but perturbation_scale 0. Train sham runs:")
        how_to_train(judgement, SEEDS)
        return
    claim = st.segmented_control(
        "Claim", ["awakening", "divergence"], default="awakening", required=True, key="claim", bind="query-params"
    )
    own = pairs[pairs["claim"] == claim].drop(columns="claim").sort_values(["scale", "seed"])
    for effect, rows in own.groupby("effect", sort=False):
        unit = "factor" if rows["unit"].iloc[0] == RATIO else rows["unit"].iloc[0]
        draw(
            run_comparison.sham_dumbbells(rows.head(MAX_PAIRS), f"{sentence(QUANTITIES[effect])[:-1]} ({unit})"),
            key=f"twins-{effect}",
            alt=f"{claim} of treated runs and of their sham runs",
        )
        cut = f" The first {MAX_PAIRS} of {len(rows)} pairs are drawn." if len(rows) > MAX_PAIRS else ""
        st.caption(f"Filled: treated run; hollow: its sham run.{cut}")
    columns = {
        "treated": "Effect of the treated run by itself: perturbed against control experts",
        "of the sham": "The same in its sham run, which the verdict subtracts if every seed has one",
    }
    show_table(
        own,
        key="twins",
        column_config={name: st.column_config.NumberColumn(format="%.3g", help=text) for name, text in columns.items()},
        alt=f"{claim.capitalize()} of each treated run and of its sham run",
    )


@st.cache_resource(
    scope="session",
    max_entries=2,
    show_spinner=False,
    hash_funcs={Judgement: lambda j: (str(j.verdict.thresholds), *(file.sha256 for file in j.files))},
)
def overview(judgement: Judgement) -> pd.DataFrame:
    """Return the table of all runs, without sparklines."""
    return runs_table(judgement)


def all_runs(judgement: Judgement) -> None:
    """Show all runs in a table with filters, sorting and sparklines."""
    table = overview(judgement)
    left, middle, right = st.columns([2, 3, 2])
    words = left.text_input(
        "Find", key="find", bind="query-params", placeholder="run, file, option", help="A run must contain every word."
    )
    verdicts = _filter_pills(middle, "Verdict", table["verdict"])
    found = filter_runs(table, words, verdicts, _filter_pills(right, "Kind", table["kind"]))
    by, order, line, page = st.columns([2, 1, 2, 1], vertical_alignment="bottom")
    sort = by.selectbox("Sort by", ["as chosen", *table.columns], key="sort", bind="query-params")
    descending = order.toggle("Descending", key="descending", bind="query-params")
    metric = line.selectbox(
        "Sparkline",
        list(COMPARED_METRICS),
        format_func=lambda name: COMPARED_METRICS[name].title,
        key="line",
        bind="query-params",
    )
    pages = max(1, -(-len(found) // PAGE_ROWS))
    first = PAGE_ROWS * (int(page.number_input(f"Page of {pages:,}", 1, pages, key="runs-page")) - 1)
    rows = sort_runs(found, sort, descending=descending).iloc[first : first + PAGE_ROWS].copy()
    _table_with_sparklines(judgement, rows, metric)
    count = f"{len(found):,} of {len(table):,} runs match, with {int(found['steps'].sum()):,} logged steps in total."
    more = f" {PAGE_ROWS} runs per page; a click on a column's header sorts this page only." if pages > 1 else ""
    st.caption(count + more)


def _table_with_sparklines(judgement: Judgement, rows: pd.DataFrame, metric: str) -> None:
    """Show runs with a sparkline of one metric each."""
    about = COMPARED_METRICS[metric]
    rows.insert(4, "course", rows["run"].map(sparklines(judgement.con, rows["run"].tolist(), metric)))
    show_table(
        rows,
        most=18,
        key="runs",
        alt="All runs with their verdicts, options and sparklines",
        column_config={
            "course": st.column_config.LineChartColumn(
                about.title, width="medium", help=f"{about.meaning}. In {about.unit}, over the steps."
            ),
            "steps": st.column_config.NumberColumn("logged steps"),
        },
    )


def _filter_pills(place: DeltaGenerator, label: str, values: pd.Series) -> list[str]:
    """Return the chosen values; none means all. (Tags of a multiselect lack contrast in the dark theme.)"""
    options = sorted(values.dropna().unique())
    chosen: list[str] = place.pills(
        label, options, selection_mode="multi", key=label.lower(), wrap=True, bind="query-params"
    )
    return chosen
