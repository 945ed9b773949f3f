"""The tables of figures in docs/ are those of the results files, so that a new measurement renews the pages, too."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.source_tree import ROOT

GIB = 1024**3


def results(name: str) -> dict[str, Any]:
    """Return the last results of a benchmark."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


def reading_rows() -> Iterator[str]:
    """Yield the rows of the table in docs/reading.md: seconds to read, compute medians and draw a chart of each run."""
    names = {
        "1 run x 1,000,000 rows": "1 run of 1,000,000 rows x 16 values",
        "200 runs x 5,000 rows": "200 runs of 5,000 rows x 16 values",
    }
    for work, name in names.items():
        found = results("reading")["work"][work]
        readers = ("ours, cold", "ours, warm", "DuckDB's scanner", "pandas.read_sql")
        seconds = (found[reader]["seconds"] for reader in readers)
        yield f"| {name} | {' | '.join(f'{number:.1f}' for number in seconds)} |"


def judging_rows() -> Iterator[str]:
    """Yield the rows of the table in docs/scale.md: seconds and memory of whole commands."""
    figures = results("judging")["figures"]
    for runs in ("2500", "10000"):
        one, ray = figures["one process"][runs], figures["Ray, 2 workers"][runs]
        cells = (f"{way['seconds']:.0f} s, {way['peak'] / GIB:.1f} GiB" for way in (one, ray))
        yield f"| {int(runs):,} runs | {' | '.join(cells)} in all |"


def logging_rows() -> Iterator[str]:
    """Yield the rows of the table in docs/logging.md: a logged step as a multiple of one read of all gradients."""
    models = results("logging_overhead")["models"]
    for name, (first, second) in {
        "a logged step in reads: 28 M expert weights, 1.2 M": ("28 M", "1.2 M"),
        "the same for 8 M stacked as in Mixtral, as in gpt-oss": (
            "8 M, stacked as in Mixtral",
            "8 M, interleaved as in gpt-oss",
        ),
    }.items():
        cells = [
            ", ".join(f"{models[one][way] / models[one]['one read (foreach norm)']:.2f}" for one in (first, second))
            for way in ("ours: measured and logged", "ours, numpy: measured and logged")
        ]
        yield f"| {name} | {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("page", "rows"), [("reading", reading_rows), ("scale", judging_rows), ("logging", logging_rows)]
)
def test_the_table_of_a_page_is_that_of_the_last_results(page, rows):
    lines = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
    expected = [*rows()]
    assert expected
    assert [row for row in expected if row not in lines] == []
