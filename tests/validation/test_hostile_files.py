"""One bad file harms nobody: beside each kind of hostile file, twenty good runs are judged as without it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.hostile_kinds import companions, kinds, template
from validation import judge, read_sources
from validation.files.cache import Cache
from validation.files.limits import ReadLimits
from validation.judgement.judge import Judgement
from validation.report.html_report import as_markdown
from validation.report.json_report import as_json
from validation.report.junit_report import as_junit
from validation.report.text_report import render

# `make fuzz` reads each kind by itself beside the good runs, every test run a quarter of the kinds at once.
EACH = bool(os.environ.get("PRISMATIC_EACH_KIND"))
LIMITS = ReadLimits(seconds=8)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def good(folder: Path) -> list[Path]:
    (folder / "good").mkdir()
    return companions(folder / "good")


@pytest.fixture(scope="module")
def cache(folder: Path) -> Cache:
    return Cache(folder / "cache")


@pytest.fixture(scope="module")
def alone(good: list[Path], cache: Cache) -> dict[str, Any]:
    """The words about the good runs without any other file."""
    files, rejected = read_sources(good, cache=cache)
    assert (len(files), rejected) == (20, [])
    judgement = judge(files)
    return said_of_good_runs(judgement, {run.id for run in judgement.runs})


def said_of_good_runs(judgement: Judgement, ids: set[str]) -> dict[str, Any]:
    """Return everything that the JSON says of these runs, with every digit."""
    written: dict[str, Any] = json.loads(json.dumps(as_json(judgement), allow_nan=False))
    return {
        "runs": [run for run in written["runs"] if run["run"] in ids],
        "claims": [
            claim
            for reading in ("controlled", "as_written")
            for claim in written[reading]["claims"]
            if claim["run"] in ids
        ],
        # A group is named after the options in which it differs from the others.
        "groups": [
            {key: value for key, value in group.items() if key not in ("name", "options")}
            for group in written["groups"]
            if {*group["runs"]} <= ids
        ],
        "diagnostics": [finding for finding in written["diagnostics"] if finding["run"] in ids],
    }


def everything_said(judgement: Judgement) -> str:
    """Return every output without charts, each of which must be made without an error."""
    with StringIO() as out:
        Console(file=out, width=120).print(*render(judgement, verbose=True))
        return f"{out.getvalue()}{as_junit(judgement, True)}{as_markdown(judgement, now=NOW)}"


def in_parts(names: list[str]) -> list[list[str]]:
    return [[name] for name in names] if EACH else [names[::4]]


NAMES = [*kinds(Path())]


def test_there_are_250_kinds() -> None:
    assert len(NAMES) >= 250


@pytest.mark.parametrize("names", in_parts(NAMES), ids=lambda names: names[0] if EACH else str(len(names)))
def test_good_runs_are_judged_beside_hostile_files_as_without_them(
    folder: Path, tmp_path: Path, good: list[Path], cache: Cache, alone: dict[str, Any], names: list[str]
) -> None:
    source = folder / "template.db"
    made = kinds(source if source.exists() else template(folder))
    sources: list[Path] = [*good]
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()
        sources.append(made[name](tmp_path / str(number)))
    files, rejected = read_sources(sources, limits=LIMITS, cache=cache)
    assert len(files) + len(rejected) >= len(good) + 0.9 * len(names)
    assert all(file.error.evidence.startswith("expected") for file in rejected)
    judgement = judge(files, rejected)
    assert said_of_good_runs(judgement, {run["run"] for run in alone["runs"]}) == alone
    assert not set("\x00\x07\x08\x1b\u202e\u2066") & set(everything_said(judgement))
