"""Run files in, a judgement out: read, diagnose, decide. The command line and the pages both call this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from validation.claims import Thresholds
from validation.diagnostics import Finding, diagnose, invalidating, of_rejected
from validation.relations import connect
from validation.runs import Rejected, RunFile
from validation.series import Run, load_runs
from validation.verdict import Verdict, decide


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is known of a selection of run files."""

    files: tuple[RunFile, ...]
    rejected: tuple[Rejected, ...]
    runs: tuple[Run, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict
    con: duckdb.DuckDBPyConnection
    """The relations `runs`, `dynamics` and `layers` over all files; take a cursor per thread."""


def judge(
    files: Sequence[RunFile], rejected: Sequence[Rejected] = (), thresholds: Thresholds | None = None
) -> Judgement:
    """Diagnose and judge runs that were read; files that could not be read become findings."""
    con = connect(files)
    runs = load_runs(con, list(files))
    findings = [of_rejected(one) for one in rejected] + [finding for run in runs for finding in diagnose(run)]
    verdict = decide(runs, invalidating(findings), thresholds)
    return Judgement(tuple(files), tuple(rejected), tuple(runs), tuple(findings), verdict, con)
