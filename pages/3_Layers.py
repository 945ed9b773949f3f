"""The Layers page: gradients of each layer and expert at any step, and the verdict without each layer."""

import streamlit as st

from ui.layout.cards import choose_gradients
from ui.layout.shell import shell
from ui.sections.layers import choose_measure, heatmap_player, layer_ablation
from ui.sections.pairs import pairs_of_experts
from validation.frames.layer_heatmap import layer_names

judgement, run = shell("Layers")
file = next(file for file in judgement.files if file.id == run.id)
if not run.layers:
    st.info("This file has only the means over layers. `prismatic train` logs every layer:")
    st.code("prismatic train --config experiments/per-example.yml", language=None, wrap_lines=True)
    st.caption("In your own loop, `DynamicsLoggerCallback` logs every layer too.")
    st.stop()

with st.container(horizontal=True, vertical_alignment="bottom"):
    measure = choose_measure(run)
    source = choose_gradients(run)
heatmap_player(judgement, run, measure, source)
pairs_of_experts(judgement, run)
if not run.peers:
    layer_ablation(judgement, run, layer_names(file))
