"""The downsampled rows of a chart are those that a slow question in SQL finds."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tests.support import bad_files as hostile
from tests.support.oracles import ask_oracle
from validation.files.sources import read_sources
from validation.frames.downsample import chart_series
from validation.query.database import connect


@pytest.mark.parametrize("points", [2, 7, 64, 101, 5000])
def test_a_chart_is_what_the_question_in_sql_finds(tmp_path: Path, points: int):
    noise = random.Random(points)
    odd = [None, math.inf, -math.inf, 0.0, 1.0, 1.0]  # also twice in a bucket: the first one is drawn
    rows = [
        (7 * step, *(noise.choice(odd) if noise.random() < 0.7 else noise.gauss(0, 1) for _ in range(6)))
        for step in range(501)
    ]
    rows[100:300] = [(step, *values[:2], None, *values[3:]) for step, *values in rows[100:300]]
    path = hostile.database(tmp_path / "a.db", *hostile.dynamics(rows))
    (run,), _ = read_sources([path])
    long = chart_series(run, points)
    assert long.equals(ask_oracle(connect([run]), "chart_series", run=run.run, points=points))
    assert long.num_rows <= 16 * points


def test_a_chart_of_no_rows_has_none(tmp_path: Path):
    path = hostile.database(tmp_path / "a.db", *hostile.dynamics([]))
    (run,), _ = read_sources([path])
    assert chart_series(run, 100).num_rows == 0
