"""Where in the model it happens: every layer and expert at any step, and which layers the verdict rests on."""

import streamlit as st

from ui.layout.cards import choose_gradients
from ui.layout.shell import shell
from ui.sections.layers import choose_measure, heatmap_player, layer_ablation
from validation.frames.layer_heatmap import layer_names

judgement, run = shell("Layers")
file = next(file for file in judgement.files if file.run == run.id)
if not run.layers:
    st.info("This file has only the means over layers. Files of `python -m prismatic train` have every layer:")
    st.code("python -m prismatic train --config experiments/per-example.yml", language=None, wrap_lines=True)
    st.caption("In a loop of your own, `DynamicsLoggerCallback` writes them too.")
    st.stop()

with st.container(horizontal=True, vertical_alignment="bottom"):
    measure = choose_measure()
    source = choose_gradients(run)
heatmap_player(judgement, run, measure, source)
layer_ablation(judgement, run, layer_names(file))
