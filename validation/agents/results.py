"""Results that fit into the context of an agent: the parts that decide, and how much was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from prismatic.errors import PrismaticError
from validation.query.result import python_rows
from validation.report.json_report import finite_values

MOST_CHARACTERS = 100_000  # of a result as JSON
MOST_ENTRIES = {"runs": 100, "groups": 50, "experiments": 50, "diagnostics": 30, "advice": 10, "dose": 20, "premise": 0}
"""The longest lists of an object, by its keys; the object says how many entries were left out."""
OF_GROUPS = ("values", "p", "distinct", "premise")
OF_RUNS = ("options", "events")


class TooLargeError(PrismaticError, ValueError):
    """A result that no agent can read."""


def shortened(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of `check` or `gate` without what is about single runs, and with shorter lists.

    `left_out` counts the entries that are missing. Raises TooLargeError if that is not enough.
    """
    found, left_out = dict(report), {}
    for reading in ("as_written", "controlled", "distinct"):
        if reading in found:
            claims = found[reading]["claims"]
            kept = [claim for claim in claims if claim["run"] is None and claim["expert"] is None]
            found[reading] = {**found[reading], "claims": kept}
            left_out[f"{reading}.claims"] = len(claims) - len(kept)
    for key, most in MOST_ENTRIES.items():
        if key in found:
            left_out[key] = max(0, len(found[key]) - most)
            found[key] = found[key][:most]
    found["groups"] = [_without(group, OF_GROUPS) for group in found.get("groups", ())]
    found["runs"] = [_without(run, OF_RUNS) for run in found["runs"]]
    found["left_out"] = {key: count for key, count in left_out.items() if count}
    if len(json.dumps(found)) > MOST_CHARACTERS:
        raise TooLargeError(
            f"the answer has more than {MOST_CHARACTERS:,} characters; name fewer runs, or ask `query`."
        )
    return found


def _without(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


def rows_of(table: pa.Table, notes: Sequence[str]) -> dict[str, Any]:
    """Return the rows of a query, as many as fit, with notes on what is missing."""
    rows = [finite_values([*row.values()]) for row in python_rows(table)]
    kept, size = 0, 0
    while kept < len(rows) and (size := size + len(json.dumps(rows[kept]))) <= MOST_CHARACTERS:
        kept += 1
    notes = [*notes, *([f"These are the first {kept} rows, which is all that fits."] if kept < len(rows) else [])]
    return {"columns": table.column_names, "rows": rows[:kept], "notes": notes}
