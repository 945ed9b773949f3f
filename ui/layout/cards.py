"""Cards that several pages show: the verdict, the three claims, the gravest finding, and the table of all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import streamlit as st

from prismatic.contract.schema import SOURCES
from ui.layout.shell import STATUS_COLORS, Color, finding_card, status_badge
from ui.widgets.markdown import escape_markdown, markdown_sentence
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.charts.interval_bar import interval_bar
from validation.judgement.judge import Judgement
from validation.text import pluralize, spaced
from validation.verdict.claims import Claim, overall
from validation.verdict.groups import FAILS, FOUND, NOT_FOUND, PASSES, Group, deciding_groups
from validation.verdict.words.wording import CHECKS, QUESTIONS, digits, estimated, has_interval, replication, threshold

PREMISE_COLORS = {"dormant": "green", "not_dormant": "orange", "mixed": "orange", "undecided": "gray"}
CHECK_COLORS: dict[str, Color] = {PASSES: "green", FOUND: "green", FAILS: "red", NOT_FOUND: "red"}


def headline(judgement: Judgement) -> None:
    """Show the verdict of all chosen runs: its status and reason, the premise, and the results of its controls."""
    verdict = judgement.verdict
    deciding = deciding_groups(verdict.groups)
    with st.container(border=True):
        st.subheader(f"Verdict: :{STATUS_COLORS[verdict.status]}[{verdict.status}]", anchor=False)
        st.markdown(f"**{markdown_sentence(verdict.headline)}** {markdown_sentence(verdict.controlled.because)}")
        if len(deciding) == 1 and (premise := deciding[0].premise):
            badge = f":{PREMISE_COLORS[premise.status]}-badge[premise: {spaced(premise.status)}]"
            st.markdown(f"{badge} {markdown_sentence(premise.because)}")
        for group in verdict.groups:
            check_badge(group)
        st.caption(f"As written, by the documented rules alone: **{verdict.as_written.status}**.")


def check_badge(group: Group) -> None:
    """Show the result of a group of sham runs or of positive controls; nothing for other groups."""
    if group.check:
        color, runs = CHECK_COLORS.get(group.check, "gray"), pluralize(len(group.runs), "run")
        st.badge(f"{CHECKS[group.check]} ({runs})", color=color)


def claim_cards(judgement: Judgement, claims: Iterable[Claim], runs: Sequence[str]) -> None:
    """Show claims about some runs together, side by side: controlled first, as written below."""
    shown = list(claims)
    for column, claim in zip(st.columns(len(shown)) if shown else (), shown, strict=True):
        with column, st.container(border=True, height="stretch"):
            claim_card(claim)
            written = [judgement.verdict.as_written.whole(run)[claim.name] for run in runs]
            st.caption(f"As written: {_as_written(written)}")


def overall_cards(judgement: Judgement) -> None:
    """Show the three claims over all runs that the verdict is about."""
    runs = [run for group in deciding_groups(judgement.verdict.groups) for run in group.runs]
    claim_cards(judgement, judgement.verdict.headlines.values(), runs)


def claim_card(claim: Claim) -> None:
    """Show a claim: question, status, headline, estimate with interval and threshold, and reason."""
    st.markdown(f"**{claim.name.capitalize()}**")
    st.caption(QUESTIONS[claim.name])
    status_badge(claim.status)
    st.markdown(f"**{markdown_sentence(claim.headline)}**")
    if claim.estimate is not None:
        st.markdown(f"### {escape_markdown(estimated(claim, bare=True))}")
        interval = "No interval: too few experts"
        if has_interval(claim):
            ends = ("unbounded" if end is None else digits(end, claim) for end in (claim.low, claim.high))
            interval = f"Interval {replication(claim)}: {' to '.join(ends)}"
        st.caption(f"{interval}. Threshold: {escape_markdown(threshold(claim))}.")
        if has_interval(claim) and (picture := interval_bar(claim)):
            st.html(picture)
    st.write(markdown_sentence(claim.because))


def _as_written(claims: Sequence[Claim]) -> str:
    """Return the status of one run and its reason, or the number of runs of each status."""
    if len(claims) == 1:
        return f"**{claims[0].status}**. {markdown_sentence(claims[0].because)}"
    counts = Counter(claim.status for claim in claims)
    return f"{', '.join(f'**{count} {status}**' for status, count in counts.items())} of {len(claims)} runs."


def findings_summary(judgement: Judgement, run: Run) -> None:
    """Show the gravest finding, and a link to the others."""
    found = judgement.findings_of(run.id)
    if not found:
        st.caption("Every check passed for this run.")
        return
    finding_card(found[0])
    if len(found) > 1:
        more = pluralize(len(found) - 1, "more finding")
        st.page_link("pages/5_Diagnostics.py", label=f"See {more} on the Diagnostics page")


def runs_table(judgement: Judgement) -> None:
    """Show a table with one row per run, each judged by itself."""
    rows = []
    for run, file in zip(judgement.runs, judgement.files, strict=True):
        claims = judgement.verdict.controlled.whole(run.id)
        group = judgement.group_of(run.id)
        rows.append(
            {
                "run": run.id,
                "file": run.name,
                "kind": spaced(group.role),
                "verdict": "" if group.check else overall([claim.status for claim in claims.values()]),
                **{name: "" if group.check else claim.status for name, claim in claims.items()},
                "logged steps": len(run.steps),
                "experts": len(run.experts),
                "perturbation_scale": run.number("config.perturbation_scale"),
                "merge": str(run.config.get("merge", ""))[:20],
                "seed": run.seed,
                "sha256": file.sha256[:12],
            }
        )
    show_table(rows, key="runs-table")
    if len(rows) > 1:
        st.caption("Each run judged by itself, over its experts. The verdict above is over seeds.")


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
        help="Merged: the gradients that the optimizer uses. Isolated: each expert alone, without routing.",
    )
    return chosen
