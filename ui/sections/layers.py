"""Pieces of the Layers page: the heatmap with its steps, one cell of it, and what each layer does to the verdict."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from ui.layout.cards import number
from ui.widgets.charts import Described, describe, draw
from ui.widgets.fragments import fragment
from ui.widgets.hints import LOG_HISTOGRAMS
from ui.widgets.memo import memoized
from ui.widgets.tables import show_table
from validation.analysis.controls import Cohort
from validation.analysis.run import Run
from validation.charts import layer_heatmap
from validation.files.run_file import RunFile
from validation.frames.layer_heatmap import (
    MEASURES,
    HeatmapFrames,
    cell_rows,
    color_range,
    heatmap_frames,
    histogram_rows,
    layer_names,
)
from validation.frames.run_dynamics import gradients_of
from validation.judgement.judge import Judgement
from validation.verdict.claims import INVALID, Claim
from validation.verdict.decide import Verdict
from validation.verdict.layer_ablation import JUDGED, LayerAblation, ablate_layers

FRAME_SECONDS = 0.7  # seconds for a frame while it plays
LAYERS_NAMED = 12
MAX_WITHOUT_ASKING = 1500  # layers² x experts that are judged without asking: about two seconds
LOG_HISTOGRAMS_IN_LOOP = "DynamicsLoggerCallback(..., histogram_freq=100)"


@st.cache_resource(scope="session", max_entries=12, show_spinner=False)
def cached_frames(sha256: str, source: str, measure: str, _run: Run, _names: list[int]) -> HeatmapFrames:
    """The frames of a heatmap; a file that has grown has another hash."""
    return heatmap_frames(_run, measure, _names)


def choose_measure() -> str:
    """What the cells show. Not in the page itself, all of whose names a session would keep with the function below."""
    measure: str = st.segmented_control(
        "Show",
        list(MEASURES),
        default="size",
        required=True,
        format_func=lambda name: MEASURES[name].title,
        key="measure",
        wrap=True,
        bind="query-params",
    )
    return measure


def heatmap_player(judgement: Judgement, run: Run, measure: str, source: str) -> None:
    """The heatmap at one step, which can be moved and played, and one cell of it. Only this part is drawn anew."""
    tick = FRAME_SECONDS if st.session_state.get("playing") else None
    fragment(judgement, run, partial(_heatmap_player, measure=measure, source=source), every=tick)


def _heatmap_player(judgement: Judgement, run: Run, measure: str, source: str) -> None:
    file = next(file for file in judgement.files if file.run == run.id)
    names, seen = layer_names(file), gradients_of(run, source)
    table = cached_frames(file.sha256, source, measure, seen, names)
    if not np.isfinite(table.values_KF).any():
        st.info(f"This file does not log what “{MEASURES[measure].title.lower()}” needs in its layers.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        frame = _choose_frame(table)
        layer, expert = _choose_cell(table.cells, names)
    now = table.at(frame)
    left, right = st.columns([3, 2], gap="large")
    with left:
        margin = math.log(judgement.verdict.thresholds.divergence_ratio) if MEASURES[measure].log else 0.05
        ends = color_range(table.values_KF, measure, margin)
        look = (run.id, source, measure, frame, layer, expert)
        draw(
            memoized(
                judgement,
                ("heatmap", *look),
                lambda: describe(layer_heatmap.heatmap(now, measure, ends, (layer, expert))),
            ),
            key="heatmap",
            on_select=_pick_cell,
            alt=f"{MEASURES[measure].title} of every layer and expert at one step",
        )
        st.caption(
            f"{MEASURES[measure].meaning}. Click a cell to see its series. An empty cell has no finite value; the most "
            "extreme hundredth of all cells has the colour of the end."
        )
    with right:
        span = int(table.first_F[frame]), int(table.last_F[frame])
        chart = memoized(
            judgement, ("cell", *look), lambda: chart_of_cell(seen, measure, names.index(layer), expert, span)
        )
        series_of_cell(seen, measure, expert, chart)
        histograms_of_cell(judgement, run, file, layer, expert)


def _choose_frame(table: HeatmapFrames) -> int:
    """Which frame is shown; while it plays, one further than before. It starts when asked to, and stops at the end."""
    last = len(table.first_F) - 1
    if last < 1:
        return 0
    if "frame" not in st.session_state:  # just arrived: nothing plays that nobody has started here
        st.session_state.playing = False
    elif st.session_state.frame > last:  # another run, or another source, with fewer steps
        st.session_state.frame = last
    told = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(table.first_F, table.last_F, strict=True)]
    playing = bool(st.session_state.get("playing"))
    icon = ":material/pause:" if playing else ":material/play_arrow:"
    if st.button("Pause" if playing else "Play", key="play", icon=icon, width=110, on_click=_toggle_play, args=(last,)):
        st.rerun()
    if playing:
        _advance(last)
    frame: int = st.select_slider(
        "Training steps shown",
        range(last + 1),
        value=last if "frame" not in st.session_state else None,
        format_func=lambda place: told[place],
        key="frame",
        on_change=_stop,
        help="Each position shows the mean over these logged steps. The colours mean the same at every step.",
    )
    return frame


def _toggle_play(last: int) -> None:
    st.session_state.playing = not st.session_state.get("playing")
    if st.session_state.playing and st.session_state.get("frame", last) >= last:
        st.session_state.frame = -1  # the first thing that playing does is to move on


def _advance(last: int) -> None:
    st.session_state.frame = min(int(st.session_state.get("frame", -1)) + 1, last)
    if st.session_state.frame == last:
        st.session_state.playing = False
        st.rerun()


def _stop() -> None:
    st.session_state.playing = False


def _pick_cell() -> None:
    """A click on the heatmap chooses what the two fields beside it would."""
    cells: list[dict[str, Any]] = st.session_state.heatmap["selection"].get("cell", [])
    if cells:
        st.session_state.layer, st.session_state.expert = int(cells[0]["layer"]), int(cells[0]["expert"])
        if cells[0]["tier"] in TIERS:
            st.session_state.tier = cells[0]["tier"]


def _choose_cell(cells: pd.DataFrame, names: list[int]) -> tuple[int, int]:
    """The layer and the expert that are looked at closely."""
    numbers = sorted(cells["expert"].unique().tolist())
    for key, options in (("layer", names), ("expert", numbers)):
        if st.session_state.get(key, options[0]) not in options:  # another run, or a measure that expert 0 lacks
            del st.session_state[key]
    layer: int = st.selectbox("Layer", names, key="layer", width=100, bind="query-params")
    expert: int = st.selectbox("Expert", numbers, key="expert", width=100, bind="query-params")
    return layer, expert


def chart_of_cell(seen: Run, measure: str, place: int, expert: int, span: tuple[int, int]) -> Described | None:
    """One expert in one layer over the whole run; None where nothing of it is finite."""
    data = cell_rows(seen, measure, place, expert)
    if not data["value"].notna().any():
        return None
    return describe(layer_heatmap.cell_series(data, measure, seen.experts[expert].role, span))


def series_of_cell(seen: Run, measure: str, expert: int, chart: Described | None) -> None:
    """The chart of a cell, and what it is."""
    if chart is None:
        st.caption("Nothing finite was logged for this expert in this layer.")
        return
    role = seen.experts[expert].role
    st.caption(f"Expert {expert} is {role}. {MEASURES[measure].title} over the run; the bar marks the steps shown.")
    draw(chart, key="cell", alt="This expert in this layer over the steps")


def histograms_of_cell(judgement: Judgement, run: Run, file: RunFile, layer: int, expert: int) -> None:
    """How large the entries of its gradient are, over time, where the run has counted them."""
    if not len(file.histograms):
        st.caption("No histograms of gradient sizes in this file. To log them, add:")
        st.code(LOG_HISTOGRAMS if run.by_trainer else LOG_HISTOGRAMS_IN_LOOP, language=None, wrap_lines=True)
        return
    tier = st.segmented_control(
        "Gradient sizes of the tier", ["bottom", "middle", "top"], default="bottom", required=True, key="tier"
    )
    data = histogram_rows(judgement.con, run, layer, expert, tier)
    if data.empty:
        st.caption("No histogram of this expert in this layer.")
        return
    chart = layer_heatmap.cell_histogram(data, "Size of an entry (loss / weight)")
    draw(chart, key="histogram", alt="Share of gradient entries by size, over the steps")


def layer_ablation(judgement: Judgement, run: Run, names: list[int]) -> None:
    """Which layers the verdict rests on: the run judged without each of them."""
    st.subheader("Which layers drive the verdict", anchor=False)
    own = judgement.verdict.controlled.whole(run.id)
    if len(names) < 2:
        st.caption("The run has one layer, so there is nothing to leave out.")
        return
    if all(claim.status == INVALID for claim in own.values()):
        st.caption("The data carries no verdict, so no layer drives one. The Diagnostics page says why.")
        return
    st.caption(
        "The run judged again by the same rules without each layer in turn. Exploratory: a layer that stands out was "
        "looked for, so take it as a hint where to look."
    )
    file = next(file for file in judgement.files if file.run == run.id)
    heavy = len(names) ** 2 * len(run.experts) > MAX_WITHOUT_ASKING
    if heavy and st.button("Leave out each layer", help="With so many layers this takes a minute or more."):
        st.session_state.leaving_out = file.sha256
    if heavy and st.session_state.get("leaving_out") != file.sha256:
        return
    shams = Cohort(judgement.runs, judgement.verdict.thresholds).shams_of(run)
    left = ablations(
        file.sha256, judgement.verdict.thresholds, tuple(sham.id for sham in shams), judgement.verdict, run, shams
    )
    for column, name in zip(st.columns(len(JUDGED), gap="large"), JUDGED, strict=True):
        with column:
            claim_ablation(judgement, run, left[name], names, own[name])


@st.cache_resource(scope="session", max_entries=8, show_spinner="Judging without each layer…")
def ablations(
    sha256: str, thresholds: Thresholds, of_shams: tuple[str, ...], _verdict: Verdict, _run: Run, _shams: list[Run]
) -> dict[str, list[LayerAblation]]:
    """Every claim without each layer; with other thresholds or other runs beside it, it is another verdict."""
    claims = [claim for claim in _verdict.controlled.claims if claim.run == _run.id]
    return ablate_layers(_run, _shams, claims, thresholds)


def ablation_summary(left: list[LayerAblation], names: list[int], status: str) -> str:
    """Which layers turn a claim, and into what."""
    turned: dict[str, list[str]] = {}
    for one in left:
        if one.claim.status != status:
            turned.setdefault(one.claim.status, []).append(str(names[one.layer]))
    if not turned:
        return f"It is {status}, whichever layer is left out."
    each = [
        f"{other} without {'layer' if len(some) == 1 else 'any one of the layers'} {', '.join(some[:LAYERS_NAMED])}"
        + (f" and {len(some) - LAYERS_NAMED} more" if len(some) > LAYERS_NAMED else "")
        for other, some in turned.items()
    ]
    return f"It is {status}, but {'; '.join(each)}."


def claim_ablation(judgement: Judgement, run: Run, left: list[LayerAblation], names: list[int], own: Claim) -> None:
    """One claim: its chart, what turns it, and the numbers behind it."""
    st.markdown(f"**{own.name.capitalize()}** without each layer")
    st.write(ablation_summary(left, names, own.status))
    if any(one.claim.estimate is not None for one in left):
        chart = memoized(
            judgement,
            ("left out", run.id, own.name),
            lambda: describe(layer_heatmap.layer_ablation(left, names, own.status, own.estimate)),
        )
        draw(
            chart,
            key=f"left-out-{own.name}",
            alt=f"Estimate of {own.name} without each layer",
        )
        st.caption("Dashed: the threshold. Thin line: the whole run. Diamond: the status changes.")
    with st.expander("The numbers"):
        show_table(
            [
                {
                    "without layer": names[one.layer],
                    "status": one.claim.status,
                    "estimate": number(one.claim.estimate, one.claim) if one.claim.estimate is not None else "",
                    "low": number(one.claim.low, one.claim),
                    "high": number(one.claim.high, one.claim),
                    "this layer alone": number(one.alone, one.claim) if one.alone is not None else "",
                    "p": one.p,
                    "adjusted p": one.adjusted_p,
                }
                for one in left
            ],
            key=f"left-out-table-{own.name}",
            alt=f"{own.name.capitalize()} without each layer",
            column_config={
                "low": st.column_config.TextColumn(help="Lower bound of the estimate's 95 % interval"),
                "high": st.column_config.TextColumn(help="Upper bound of the estimate's 95 % interval"),
                "this layer alone": st.column_config.TextColumn(help="Mean over the perturbed experts in this layer"),
                "p": st.column_config.NumberColumn(
                    format="%.2g", help="That the layer differs from the others by chance, over this run's steps"
                ),
                "adjusted p": st.column_config.NumberColumn(
                    format="%.2g", help="For having looked at every layer (Benjamini-Yekutieli). Exploratory."
                ),
            },
        )
