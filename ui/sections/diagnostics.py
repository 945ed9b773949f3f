"""The Diagnostics page: findings with their charts, the checklist, next steps, and the log of reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import streamlit as st

from ui.layout.shell import SEVERITY_COLORS, show_finding
from ui.widgets.about import LOG_HISTOGRAMS
from ui.widgets.charts import draw
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown, markdown_table
from ui.widgets.memo import memoized
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.charts.findings import finding_chart
from validation.diagnostics import Finding
from validation.diagnostics.checklist import PASSED, UNCHECKED, Checked, checklist, troubleshooting
from validation.files.run_file import RunFile
from validation.judgement.judge import Judgement
from validation.text import pluralize

BADGES: dict[str, str] = {PASSED: "green", **SEVERITY_COLORS}
LOG = {  # narrow, so that no column is cut beside the sidebar
    "file": st.column_config.TextColumn(width=160),
    "rows": st.column_config.NumberColumn(width=60),
    "experts": st.column_config.NumberColumn(width=75),
    "columns": st.column_config.NumberColumn(width=80),
    "not read": st.column_config.NumberColumn(width=80),
    "notes": st.column_config.TextColumn(width=105),
    "sha256": st.column_config.TextColumn(width=90, help="The hash of the file; the Runs page has it whole"),
}


@guarded
def findings(judgement: Judgement, run: Run, file: RunFile, found: Sequence[Finding]) -> None:
    """Show the findings of the run, the gravest first, each with its chart."""
    if not found:
        st.success("Every check passed for this run.")
        return
    events = file.events.to_pandas()
    for place, finding in enumerate(found):
        chart = finding_chart(finding, run, judgement.verdict.thresholds, events)
        with st.container(border=True):
            words, picture = st.columns(2, gap="medium") if chart is not None else (st.container(), None)
            with words:
                show_finding(finding)
            if picture is not None and chart is not None:
                with picture:
                    draw(chart, width="stretch", key=f"finding-{place}", alt=f"Data of the finding {finding.id}")


@guarded
def checks(judgement: Judgement, run: Run, found: Sequence[Finding]) -> None:
    """Show the documented troubleshooting, then all checks by theme, each with its result for this run."""
    thresholds = judgement.verdict.thresholds
    st.subheader("Documented troubleshooting", anchor=False)
    chosen = len(judgement.files) + len(judgement.rejected)
    seen = f"{len(judgement.files)} of {pluralize(chosen, 'chosen file')} could be read"
    read = Checked("Database errors", "error" if judgement.rejected else PASSED, seen)
    lines = memoized(judgement, ("troubleshooting", run.id), lambda: troubleshooting(run, found, thresholds))
    _checks_table([lines[0], read, *lines[1:]])
    st.subheader("All checks", anchor=False)
    themes = memoized(judgement, ("checklist", run.id), lambda: checklist(run, found, thresholds))
    for theme, lines in themes.items():
        results = Counter(line.result for line in lines)
        counts = ", ".join(f"{results[name]} {name}" for name in (PASSED, UNCHECKED, *SEVERITY_COLORS) if results[name])
        with st.expander(f"{theme}: {counts}", expanded=bool(results.keys() - {PASSED, UNCHECKED})):
            _checks_table(lines)


def _checks_table(lines: Sequence[Checked]) -> None:
    """Show checks with their results."""
    rows = [
        (
            escape_markdown(line.title),
            f":{BADGES.get(line.result, 'gray')}-badge[{line.result}]",
            escape_markdown(line.seen),
        )
        for line in lines
    ]
    st.markdown(markdown_table([("Check", "Result", "Evidence"), *rows]))


@guarded
def next_steps(judgement: Judgement, run: Run, file: RunFile) -> None:
    """Show links to the documented next steps, with what this run has for each."""
    st.subheader("Documented next steps", anchor=False)
    layers = len(run.layers)
    logged = f"{pluralize(layers, 'layer')} logged" if layers else "this file has only the means over layers"
    counts = f"{len(file.histograms):,} rows" if len(file.histograms) else f"not logged; train with {LOG_HISTOGRAMS}"
    for page, label, state in (
        ("pages/3_Layers.py", "Heatmap of gradients by layer, expert and tier", logged),
        ("pages/3_Layers.py", "Histograms of gradient entries by layer", counts),
        ("pages/4_Compare.py", "Comparison of several runs", f"{pluralize(len(judgement.runs), 'run')} chosen"),
    ):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.page_link(page, label=label)
            st.caption(escape_markdown(state))


@guarded
def reading_log(judgement: Judgement, run: Run, file: RunFile) -> None:
    """Show a row for each chosen file: its contents, or the reason why it was rejected."""
    st.subheader("How the files were read", anchor=False)
    read = [
        {
            "file": one.name,
            "result": "read",
            "run": one.id,
            "rows": len(one.wide),
            "experts": one.num_experts,
            "columns": len(one.wide.column_names),
            "not read": len(one.ignored),
            "replaced rows": one.duplicates,
            "notes": "; ".join((*one.damage, *one.notes)),
            "sha256": one.sha256,
        }
        for one in judgement.files
    ]
    columns = dict.fromkeys(read[0]) if read else {}
    refused = [
        {**columns, "file": one.name, "result": one.error.id, "notes": one.error.evidence} for one in judgement.rejected
    ]
    show_table([*refused, *read], key="reading-log", placeholder="", column_config=LOG)
    if file.ignored:
        st.caption("These columns were not read, because no metric has their names:")
        st.text(", ".join(file.ignored))
    if file.events.num_rows:
        st.caption("Events that the logger recorded in this run:")
        show_table(file.events.to_pandas(), key="events")
