"""The norms in the heatmap of layers are those that a slow question in SQL finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prismatic import DynamicsLogger
from prismatic.contract.schema import TIERS
from tests.support.oracles import ask_oracle
from validation.files.sources import read_sources
from validation.frames.layer_heatmap import heatmap_frames
from validation.judgement.judge import judge
from validation.query.database import connect


def test_the_heatmap_has_the_norm_of_each_layer_expert_and_tier(tmp_path: Path):
    layers = [
        {"layer": layer, "expert": expert, "source": source, **{f"{tier}_norm": 1.0 for tier in TIERS}}
        for layer in range(3)
        for expert in range(2)
        for source in ("merged", "isolated")
    ]
    norms = {f"expert_{expert}": {"top_norm": 1.0} for expert in range(2)}
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        for step in range(1, 11):
            rows = [row | {"top_norm": step + row["layer"] + row["expert"] / 2} for row in layers]
            logger.log(step, {"expert_gradients": norms, "layers": rows})
    (run,), rejected = read_sources([tmp_path / "dynamics.db"])
    frames = heatmap_frames(judge([run], rejected).runs[0], "norm", [0, 1, 2])
    keys = ["layer", "expert", "tier"]
    for frame, step in enumerate(frames.first_F.tolist()):
        found = ask_oracle(connect([run]), "layer_norms", run=run.run, first_step=step, last_step=step).to_pandas()
        shown = frames.at(frame).merge(found, on=keys, how="outer")
        assert len(shown) == 3 * 2 * 3
        assert np.exp(shown["value"]).to_numpy() == pytest.approx(shown["norm"].to_numpy())
        top = shown[shown["tier"] == "top"]
        assert top["norm"].tolist() == (step + top["layer"] + top["expert"] / 2).tolist()
