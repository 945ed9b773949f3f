"""The Layers page: the heatmap that plays over the steps, one cell of it, and the verdict without each layer."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from prismatic.contract.schema import PACKED_ABOVE, TIERS
from ui.widgets.about import HISTOGRAM_FREQ
from ui.widgets.charts import Described, describe, draw
from ui.widgets.fragments import fragment
from ui.widgets.guard import guarded
from ui.widgets.memo import memoized
from ui.widgets.tables import show_table
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
    meaning_of,
)
from validation.judgement.glance import origin_of_run
from validation.judgement.judge import Judgement
from validation.judgement.layer_ablation import JUDGED, LayerAblation, ablate_layers
from validation.judgement.step import Advice
from validation.method.terms import explain
from validation.verdict.claims import INVALID, Claim
from validation.verdict.groups import POSITIVE
from validation.verdict.words.statuses import shown_claim
from validation.verdict.words.wording import estimated

FRAME_SECONDS = 0.7  # between two frames while it plays
LAYERS_NAMED = 12  # in one sentence
LOG_HISTOGRAMS_IN_LOOP = "DynamicsLoggerCallback(..., histogram_freq=100)"


@st.cache_resource(scope="session", max_entries=12, show_spinner=False)
def cached_frames(sha256: str, source: str, measure: str, _run: Run, _names: list[int]) -> HeatmapFrames:
    """Return the frames of a heatmap, cached by the file's hash, which changes when the file grows."""
    return heatmap_frames(_run, measure, _names)


def choose_measure(run: Run) -> str:
    """Return the chosen measure; of peers not the one that the claim awakening is about.

    A lambda in the page itself would keep all names of the page alive.
    """
    measure: str = st.segmented_control(
        "Show",
        [name for name in MEASURES if not (run.peers and name == "bottom")],
        default="size",
        required=True,
        format_func=lambda name: MEASURES[name].title,
        key="measure",
        wrap=True,
        bind="query-params",
        help=explain("tier", "share", *(() if run.peers else ("clean expert",))),
    )
    return measure


def heatmap_player(judgement: Judgement, run: Run, measure: str, source: str) -> None:
    """Show the heatmap with its slider and play button, and one cell. Only this part of the page reruns."""
    seconds = FRAME_SECONDS if st.session_state.get("playing") else None
    fragment(judgement, run, partial(_heatmap_player, measure=measure, source=source), every=seconds)


def _heatmap_player(judgement: Judgement, run: Run, measure: str, source: str) -> None:
    file = next(file for file in judgement.files if file.id == run.id)
    names, seen = layer_names(file), run.from_source(source)
    table = cached_frames(file.sha256, source, measure, seen, names)
    if not np.isfinite(table.values_KF).any():
        st.info(
            f"There is no value of “{MEASURES[measure].title.lower()}” to draw: this run did not log it by layer, or "
            "its norms are zero. Choose another measure."
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        frame = _choose_frame(table)
        layer, expert = _choose_cell(sorted(table.first_of), names)
    now = table.at(frame)
    left, right = st.columns([3, 2], gap="large")
    with left:
        margin = math.log(judgement.verdict.thresholds.divergence_ratio) if MEASURES[measure].log else 0.05
        ends = color_range(table.values_KF, measure, margin)
        cell, framed = (run.id, source, measure, frame, layer, expert), (layer, table.first_of[expert])
        draw(
            memoized(
                judgement,
                ("heatmap", *cell),
                lambda: describe(layer_heatmap.heatmap(now, measure, ends, framed)),
            ),
            key="heatmap",
            on_select=_pick_cell,
            alt=f"{MEASURES[measure].title} of every layer and expert at one step",
        )
        st.caption(
            f"{meaning_of(measure, run)}. {_shared(table)}Click a cell to see its series. An empty cell has no finite "
            "value. The most extreme 1 % of all cells share the colour at the end of the scale."
        )
    with right:
        span = int(table.first_F[frame]), int(table.last_F[frame])
        chart = memoized(
            judgement, ("cell", *cell), lambda: chart_of_cell(seen, measure, names.index(layer), expert, span)
        )
        series_of_cell(seen, measure, expert, chart)
        histograms_of_cell(judgement, run, file, layer, expert)


def _choose_frame(table: HeatmapFrames) -> int:
    """Return the frame to show; while it plays, the next one. Playing stops at the last frame."""
    last = len(table.first_F) - 1
    if last < 1:
        return 0
    if "frame" not in st.session_state:  # first visit: an earlier page may have left it playing
        st.session_state.playing = False
    elif st.session_state.frame > last:  # a run or source with fewer frames
        st.session_state.frame = last
    labels = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(table.first_F, table.last_F, strict=True)]
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
        format_func=lambda place: labels[place],
        key="frame",
        on_change=_stop,
        help="Each position shows the mean over these logged steps. Colours have the same meaning at every step.",
    )
    return frame


def _toggle_play(last: int) -> None:
    st.session_state.playing = not st.session_state.get("playing")
    if st.session_state.playing and st.session_state.get("frame", last) >= last:
        st.session_state.frame = -1  # playing begins by advancing to frame 0


def _advance(last: int) -> None:
    st.session_state.frame = min(int(st.session_state.get("frame", -1)) + 1, last)
    if st.session_state.frame == last:
        st.session_state.playing = False
        st.rerun()


def _stop() -> None:
    st.session_state.playing = False


def _pick_cell() -> None:
    """Choose layer, expert and tier by a click on the heatmap."""
    cells: list[dict[str, Any]] = st.session_state.heatmap["selection"].get("cell", [])
    if cells:
        st.session_state.layer, st.session_state.expert = int(cells[0]["layer"]), int(cells[0]["expert"])
        if cells[0]["tier"] in TIERS:
            st.session_state.tier = cells[0]["tier"]


def _shared(table: HeatmapFrames) -> str:
    """Return a sentence about cells that several experts share."""
    if table.shared == 1:
        return ""
    return f"A cell is the mean over up to {table.shared} neighbouring experts of one role; choose one for its series. "


def _choose_cell(numbers: list[int], names: list[int]) -> tuple[int, int]:
    """Return the chosen layer and expert."""
    for key, options in (("layer", names), ("expert", numbers)):
        if st.session_state.get(key, options[0]) not in options:  # another run, or a measure that expert 0 lacks
            del st.session_state[key]
    layer: int = st.selectbox("Layer", names, key="layer", width=100, bind="query-params")
    expert: int = st.selectbox("Expert", numbers, key="expert", width=100, bind="query-params")
    return layer, expert


def chart_of_cell(seen: Run, measure: str, place: int, expert: int, span: tuple[int, int]) -> Described | None:
    """Return the chart of one expert in one layer over the run; None if it has no finite value."""
    data = cell_rows(seen, measure, place, expert)
    if not data["value"].notna().any():
        return None
    return describe(layer_heatmap.cell_series(data, measure, seen.experts[expert].role, span))


def series_of_cell(seen: Run, measure: str, expert: int, chart: Described | None) -> None:
    """Show the chart of a cell."""
    if chart is None:
        st.caption("This expert has no finite values in this layer.")
        return
    role = seen.experts[expert].role
    named = "" if seen.peers else f"Expert {expert} is {role}. "
    st.caption(f"{named}{MEASURES[measure].title} over the run; the bar marks the steps shown.")
    draw(chart, key="cell", alt="This expert in this layer over the steps")


def histograms_of_cell(judgement: Judgement, run: Run, file: RunFile, layer: int, expert: int) -> None:
    """Show the histogram of gradient entries over the steps, or how to log it."""
    if not len(file.histograms):
        st.caption("This file has no histograms of gradient entries. To log them, train with:")
        advice = Advice("log_histograms", "", (HISTOGRAM_FREQ,), run=run.id)
        command = advice.command(origin_of_run(judgement, run, portable=True))
        st.code(command if run.by_trainer else LOG_HISTOGRAMS_IN_LOOP, language=None, wrap_lines=True)
        return
    tier = st.segmented_control(
        "Tier of the histogram", ["bottom", "middle", "top"], default="bottom", required=True, key="tier"
    )
    data = histogram_rows(judgement.con, run, layer, expert, tier)
    if data.empty:
        st.caption("This expert has no histogram in this layer.")
        return
    chart = layer_heatmap.cell_histogram(data, "Gradient entry (loss / weight)")
    draw(chart, key="histogram", alt="Share of gradient entries by size, over the steps")


@guarded
def layer_ablation(judgement: Judgement, run: Run, names: list[int]) -> None:
    """Show the verdict of the run, with the other seeds of its group, without each of its layers."""
    st.subheader("Which layers drive the verdict", anchor=False)
    group = judgement.group_of(run.id)
    claims = {claim.name: claim for claim in group.claims}
    if len(names) < 2:
        st.caption("The run has only one layer, so no layer can be removed.")
        return
    if all(claim.status == INVALID for claim in claims.values()):
        st.caption("The run is invalid, so no layer drives its verdict. The Diagnostics page says why.")
        return
    if len(run.experts) > PACKED_ABOVE and not _wanted():
        return
    left = memoized(
        judgement,
        ("left out", group.runs),
        lambda: ablate_layers(judgement.members_of(group), judgement.cohort, judgement.verdict.thresholds),
    )
    if not left:
        st.caption("The runs of this group have different numbers of layers, so none can be left out of all.")
        return
    judged = f"The {len(group.runs)} seeds are" if len(group.runs) > 1 else "The run is"
    st.caption(
        f"{judged} judged again without each layer in turn. This is exploratory: a layer that stands out is a hint, "
        "not a result."
    )
    for column, name in zip(st.columns(len(JUDGED), gap="large"), JUDGED, strict=True):
        with column:
            claim_ablation(left[name], names, claims[name], planted=group.role == POSITIVE)


def _wanted() -> bool:
    """Return whether to judge a run of many experts without each layer: its charts would slow down the page."""
    wanted: bool = st.toggle(
        "Judge again without each layer", key="ablate", bind="query-params", help="It takes seconds the first time."
    )
    return wanted


def ablation_summary(left: list[LayerAblation], names: list[int], claim: Claim, *, planted: bool) -> str:
    """Return the layers without which the claim has another status, in a sentence. planted: see `shown_claim`."""
    status = shown_claim(claim, planted=planted).word
    changed: dict[str, list[str]] = {}
    for ablation in left:
        if (other := shown_claim(ablation.claim, planted=planted).word) != status:
            changed.setdefault(other, []).append(str(names[ablation.layer]))
    if not changed:
        return f"It stays {status} if any one layer is removed."
    parts = [
        f"{other} without {'layer' if len(layers) == 1 else 'any one of layers'} {', '.join(layers[:LAYERS_NAMED])}"
        + (f" and {len(layers) - LAYERS_NAMED} more" if len(layers) > LAYERS_NAMED else "")
        for other, layers in changed.items()
    ]
    return f"It is {status}, but {'; '.join(parts)}."


def claim_ablation(left: list[LayerAblation], names: list[int], claim: Claim, *, planted: bool) -> None:
    """Show one claim without each layer: a sentence, a chart and a table."""
    st.markdown(f"**{claim.name.capitalize()}** without each layer")
    st.write(ablation_summary(left, names, claim, planted=planted))
    if any(ablation.claim.estimate is not None for ablation in left):
        draw(
            layer_heatmap.layer_ablation(left, names, claim),
            key=f"left-out-{claim.name}",
            alt=f"Estimate of {claim.name} without each layer",
        )
        st.caption("Dashed line: threshold; thin line: all layers; diamond: the status changes.")
    with st.expander("Show the numbers"):
        show_table(
            [
                {
                    "without layer": names[ablation.layer],
                    "status": shown_claim(ablation.claim, planted=planted).word,
                    "estimate": estimated(ablation.claim),
                    "this layer alone": estimated(replace(ablation.claim, estimate=ablation.alone), bare=True),
                }
                for ablation in left
            ],
            key=f"left-out-table-{claim.name}",
            alt=f"{claim.name.capitalize()} without each layer",
        )
