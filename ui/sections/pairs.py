"""The experts of a layer beside each other, on the Layers page: the matrix of their pairs, their load, its evenness."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from ui.widgets.charts import describe, draw
from ui.widgets.fragments import fragment
from ui.widgets.memo import memoized
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.charts import expert_pairs
from validation.files.run_file import RunFile
from validation.frames.expert_pairs import (
    PAIR_MEASURES,
    PairFrames,
    has_pairs,
    pair_frames,
    pair_range,
)
from validation.frames.layer_heatmap import layer_names
from validation.frames.routing_load import RoutingLoad, is_packed, packed_load, routing_load
from validation.judgement.judge import Judgement
from validation.text import pluralize

ALL_LAYERS = "all"
MOST_AT_ONCE = 1000  # experts of all layers together


@st.cache_resource(scope="session", max_entries=12, show_spinner=False)
def cached_pair_frames(
    sha256: str, measure: str, place: int | None, reliability: float, _run: Run
) -> PairFrames | None:
    """Return the frames of a matrix, cached by the file's hash, which changes when the file grows."""
    return pair_frames(_run, measure, place, reliability=reliability)


@st.cache_resource(scope="session", max_entries=12, show_spinner=False)
def cached_loads(sha256: str, layer: int | None, _judgement: Judgement, _file: RunFile) -> RoutingLoad | None:
    """Return the loads of the experts, cached in the same way."""
    return packed_load(_file, layer) if is_packed(_file) else routing_load(_judgement.con, _file, layer)


def pairs_of_experts(judgement: Judgement, run: Run) -> None:
    """Show how far the experts of a layer are from each other, if the probe compared them."""
    if not has_pairs(run):
        return
    st.subheader("Experts beside each other", anchor=False)
    names = layer_names(next(file for file in judgement.files if file.id == run.id))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        measure: str = st.segmented_control(
            "Compare",
            [*PAIR_MEASURES],
            default=next(iter(PAIR_MEASURES)),
            required=True,
            format_func=lambda name: PAIR_MEASURES[name].title,
            key="pairs",
            wrap=True,
            bind="query-params",
        )
        options = _layers(names, len(run.experts))
        if st.session_state.get("pair-layer", options[0]) not in options:  # another run
            del st.session_state["pair-layer"]
        layer: str = st.selectbox("Layer of the experts", options, key="pair-layer", width=160)
    fragment(judgement, run, partial(_matrix_and_load, measure=measure, layer=layer))


def _layers(names: list[int], experts: int) -> list[str]:
    """Return the layers to choose from, the first one at first. All together come last where that takes seconds."""
    each = [*map(str, names)]
    if len(names) < 2:
        return each
    return [ALL_LAYERS, *each] if len(names) * experts <= MOST_AT_ONCE else [*each, ALL_LAYERS]


def _matrix_and_load(judgement: Judgement, run: Run, measure: str, layer: str) -> None:
    file = next(file for file in judgement.files if file.id == run.id)
    names, isolated = layer_names(file), run.isolated
    assert isolated is not None, "has_pairs"
    place = None if layer == ALL_LAYERS else names.index(int(layer))
    reliability = judgement.verdict.thresholds.reliability
    frames = cached_pair_frames(file.sha256, measure, place, reliability, isolated)
    if frames is None:
        st.info("This run compared no experts in this layer. Choose another layer.")
        return
    frame = _choose_frame(frames)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _matrix(judgement, run, frames, frame, measure, place)
    with right:
        _load(judgement, run, file, frames, frame, None if place is None else names[place])


def _choose_frame(frames: PairFrames) -> int:
    """Return the frame to show, the last one at first."""
    last = len(frames.first_F) - 1
    if last < 1:
        return 0
    if st.session_state.get("pair-frame", 0) > last:  # a run with fewer frames
        st.session_state["pair-frame"] = last
    labels = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(frames.first_F, frames.last_F, strict=True)]
    frame: int = st.select_slider(
        "Training steps of the comparison",
        range(last + 1),
        value=last if "pair-frame" not in st.session_state else None,
        format_func=lambda place: labels[place],
        key="pair-frame",
        help="Each position shows the mean over these probes. Colours and order are the same at every position.",
    )
    return frame


def _matrix(judgement: Judgement, run: Run, frames: PairFrames, frame: int, measure: str, place: int | None) -> None:
    about = PAIR_MEASURES[measure]
    high = pair_range(frames, judgement.verdict.thresholds.divergence_direction)[1]
    rows = frames.pairs_at(frame)
    told = _in_words(frames, frame, rows)
    draw(
        memoized(
            judgement,
            ("pairs", run.id, measure, place, frame),
            lambda: describe(expert_pairs.pair_matrix(frames.at(frame), frames.experts, measure, high)),
        ),
        key="pair-matrix",
        alt=f"{about.title} of each two experts: {told}",
    )
    noise, once = bool(frames.noisy_EF.any()), len(frames.experts) > expert_pairs.TWICE
    st.caption(
        f"{about.meaning}. {told} Similar experts are neighbours: the order is that of the means "
        "over all steps. "
        + ("Each pair is drawn once. " if once else "")
        + (
            "Grey with a cross: two halves of a batch hardly agree on that gradient, so no direction is measured. "
            if noise
            else ""
        )
        + _of_sample(frames, run)
    )
    with st.expander("Show the numbers"):
        show_table(
            rows[["expert", "other", "value"]].rename(columns={"other": "other expert", "value": about.unit}),
            key="pair-table",
            alt=f"{about.title} of each two experts, the closest first",
        )


def _in_words(frames: PairFrames, frame: int, rows: pd.DataFrame) -> str:
    """Return a sentence with the mean, the closest and the farthest pair. rows: of `pairs_at`."""
    steps = f"{frames.first_F[frame]:,} to {frames.last_F[frame]:,}"
    if rows.empty:
        return f"Steps {steps}: no pair has a value."
    near, far = rows.iloc[0], rows.iloc[-1]
    return (
        f"Steps {steps}: {rows['value'].mean():.3f} on average over {pluralize(len(rows), 'pair')}, from "
        f"{near['value']:.3f} (experts {int(near['expert'])} and {int(near['other'])}) to {far['value']:.3f} (experts "
        f"{int(far['expert'])} and {int(far['other'])})."
    )


def _of_sample(frames: PairFrames, run: Run) -> str:
    compared, every = len(frames.experts), len(run.experts)
    return f"The probe compared {compared} of {every} experts." if compared < every else ""


def _load(judgement: Judgement, run: Run, file: RunFile, frames: PairFrames, frame: int, layer: int | None) -> None:
    """Show how much each expert is used, and how even that is."""
    load = cached_loads(file.sha256, layer, judgement, file)
    if load is None:
        st.caption("This run logged no routing shares.")
        return
    experts = sorted(load.shares["expert"].unique().tolist())
    order = [*frames.experts] if {*frames.experts} == {*experts} else experts
    shown = int(frames.first_F[frame]), int(frames.last_F[frame])
    of = "tokens" if load.of_tokens else "the router's weight"
    st.caption(f"Load of each expert: its share of {of} over an even share. The frame marks the steps shown.")
    drawn = (run.id, layer, shown, tuple(order))
    draw(
        memoized(judgement, ("loads", *drawn), lambda: describe(expert_pairs.expert_loads(load, order, shown))),
        key="expert-loads",
        alt=f"Share of {of} of each expert over the steps",
    )
    if load.evenness.empty:
        st.caption("Entropy is computed from shares of tokens, which this run did not count.")
        return
    last, where = load.evenness.iloc[-1], " of all layers" if layer is None else ""
    st.caption(
        f"Entropy of the shares: 1 is even. At the end it is {last['entropy']:.2f}, the largest share is "
        f"{1 + last['violation']:.2g} times an even one, and {last['unused']:.3g} experts{where} have no token."
    )
    chart = memoized(judgement, ("evenness", *drawn), lambda: describe(expert_pairs.routing_evenness(load, shown)))
    draw(chart, key="evenness", alt="Entropy of the routing shares over the steps")
