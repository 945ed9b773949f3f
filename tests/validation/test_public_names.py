"""The names that `validation` promises to other code."""

from __future__ import annotations

from pathlib import Path

import pytest

import validation

EXAMPLE = Path(__file__).parents[2] / "examples" / "as-is.db"


def test_the_public_names_read_judge_and_report_a_run():
    runs, rejected = validation.read_sources([EXAMPLE])
    assert validation.as_json(validation.judge(runs, rejected))["runs"][0]["run"] == runs[0].id
    assert validation.connect(runs).sql("SELECT count(*) FROM runs").fetchall() == [(1,)]
    assert dir(validation) == sorted(validation.__all__)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'read'; it has as_html, as_json"):
        _ = validation.read
