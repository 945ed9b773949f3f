"""Rows that charts draw: the same as a slow query in SQL finds, from files and from arrays, with gaps and ranges."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from tests.support import bad_files
from tests.support.oracles import ask_oracle
from tests.support.simulated_runs import write_spiked_run
from validation.analysis.load import load_runs
from validation.files.read_files import read_files
from validation.files.sources import read_sources
from validation.frames.downsample import chart_series, gaps, min_max_rows
from validation.query.database import connect


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Return the file and the arrays of a run with one spike."""
    files, _ = read_files([write_spiked_run(tmp_path_factory.mktemp("runs") / "dynamics.db")])
    return files[0], load_runs(files)[0]


def test_a_range_of_steps_is_drawn_at_full_resolution(read):
    run, _ = read
    part = chart_series(run, 2000, (1700.0, 1800.0)).to_pandas()
    one = part[(part["expert"] == 1) & (part["metric"] == "bottom_norm")]
    assert one["step"].tolist() == list(range(1700, 1801))
    whole = chart_series(run, 200).to_pandas()
    assert whole["value"].max() == one["value"].max()  # the spike, however little is drawn


def test_a_range_without_a_row_is_empty(read):
    assert chart_series(read[0], 2000, (5000.0, 6000.0)).num_rows == 0


def test_what_is_drawn_of_a_run_is_what_is_drawn_of_its_file(read):
    file, run = read
    long = chart_series(file, 400).to_pandas()
    own = min_max_rows(run, 400)
    for metric in ("bottom_norm", "divergence", "routing_weight"):
        a, b = (one[(one["expert"] == 1) & (one["metric"] == metric)] for one in (long, own))
        assert a["step"].tolist() == b["step"].tolist()
        np.testing.assert_allclose(b["value"], a["value"], rtol=1e-6)


def test_a_run_that_is_logged_more_rarely_later_has_no_gap():
    assert not len(gaps(np.r_[0:100, 100:10_000:100]))
    assert gaps(np.r_[0:100, 105:200]).tolist() == [99]
    assert not len(gaps(np.array([0, 10])))


@pytest.mark.parametrize("points", [2, 7, 64, 101, 5000])
def test_a_chart_is_what_the_question_in_sql_finds(tmp_path: Path, points: int):
    noise = random.Random(points)
    odd = [None, math.inf, -math.inf, 0.0, 1.0, 1.0]  # also twice in a bucket: the first one is drawn
    rows = [
        (7 * step, *(noise.choice(odd) if noise.random() < 0.7 else noise.gauss(0, 1) for _ in range(6)))
        for step in range(501)
    ]
    rows[100:300] = [(step, *values[:2], None, *values[3:]) for step, *values in rows[100:300]]
    path = bad_files.database(tmp_path / "a.db", *bad_files.dynamics(rows))
    (run,), _ = read_sources([path])
    long = chart_series(run, points)
    expected = ask_oracle(connect([run]), "chart_series", run=run.id, points=points)
    assert long.cast(expected.schema).equals(expected)  # names are stored once, not once for each row
    assert long.num_rows <= 16 * points


def test_a_chart_of_no_rows_has_none(tmp_path: Path):
    path = bad_files.database(tmp_path / "a.db", *bad_files.dynamics([]))
    (run,), _ = read_sources([path])
    assert chart_series(run, 100).num_rows == 0
