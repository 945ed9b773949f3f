"""Run files in, a judgement out: read, diagnose, decide. The command line and the pages both call this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import duckdb

from prismatic.thresholds import Thresholds
from validation.advice import Advice, advise
from validation.diagnostics import ERROR, Finding, diagnose, invalidating, of_rejected
from validation.errors import shown
from validation.registration import Registration, registration_of, thresholds_of
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
    registrations: tuple[Registration, ...]
    """Of every run: whether it is judged by the thresholds that it registered."""
    advice: tuple[Advice, ...]
    """What to do next, the most important first."""

    @cached_property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The relations `runs`, `dynamics`, `layers` over all files; take a cursor per thread.

        Raises RunFileError if they do not fit into memory together.
        """
        return connect(self.files)


def judge(
    files: Sequence[RunFile], rejected: Sequence[Rejected] = (), changed: Mapping[str, float] | None = None
) -> Judgement:
    """Diagnose and judge runs that were read; files that could not be read become findings.

    Runs are judged by the thresholds that they registered, if they agree, else by the defaults; `changed` by name lays
    others over them. Raises ConfigError for a threshold that does not exist or cannot be.
    """
    runs = load_runs(files)
    thresholds = thresholds_of(runs).changed(changed or {})
    try:
        findings, verdict = _judged(runs, thresholds)
    except Exception:  # a run that breaks our own code must not take the others with it
        broken = {run.run: finding for run in runs for finding in _breaks(run, thresholds)}
        findings = [f for run in runs for f in ([broken[run.run]] if run.run in broken else diagnose(run, thresholds))]
        verdict = decide(runs, invalidating(findings), thresholds)
    findings = [*map(of_rejected, rejected), *findings]
    registrations = tuple(registration_of(run, thresholds) for run in runs)
    advice = tuple(advise(runs, verdict, findings))
    return Judgement(tuple(files), tuple(rejected), tuple(runs), tuple(findings), verdict, registrations, advice)


def _judged(runs: Sequence[Run], thresholds: Thresholds) -> tuple[list[Finding], Verdict]:
    findings = [finding for run in runs for finding in diagnose(run, thresholds)]
    return findings, decide(runs, invalidating(findings), thresholds)


def _breaks(run: Run, thresholds: Thresholds) -> list[Finding]:
    """Empty, or the finding that this run cannot be judged because our own code fails on it."""
    try:
        _judged([run], thresholds)
    except Exception as error:
        seen = f"{type(error).__name__}: {shown(error, 200)}"
        cause = "this is a mistake of this program, or a file that it has never met"
        fix = "please report it with the file; the other runs are judged"
        return [Finding("unexpected", ERROR, "this run could not be judged", seen, cause, fix, run.run)]
    return []
