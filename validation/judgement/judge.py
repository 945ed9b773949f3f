"""The judgement of run files: diagnostics, verdict, registered thresholds and advice, for the CLI and the pages.

`judge_each` judges every run by itself; `combine_judgements` then adds what the runs show together. Runs on many
machines are judged by the same two functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import duckdb

from prismatic.contract.thresholds import Thresholds
from validation.analysis.controls import Spreads
from validation.analysis.load import load_runs
from validation.analysis.run import Run
from validation.diagnostics import ERROR, Finding, diagnose, invalidating, of_rejected
from validation.files.run_file import Rejected, RunFile
from validation.judgement.advice import Advice, advise_groups, advise_run, deduplicate
from validation.query.database import connect
from validation.text import printable
from validation.verdict.decide import RunClaims, Verdict, claims_of_each, combine_runs
from validation.verdict.registration import Registration, registration_of, thresholds_of


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
    def _findings_by_run(self) -> dict[str | None, list[Finding]]:
        found: dict[str | None, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.run, []).append(finding)
        return found

    def findings_of(self, run: str | None) -> list[Finding]:
        """What is wrong with a run; with None what is about no run, such as a file that is none."""
        return self._findings_by_run.get(run, [])

    @cached_property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The relations `runs`, `dynamics`, `layers` over all files; take a cursor per thread.

        Raises RunFileError if they do not fit into memory together.
        """
        return connect(self.files)


@dataclass(frozen=True)
class RunJudgement:
    """Everything that is known of one run, beside its sham runs."""

    findings: tuple[Finding, ...]
    own: RunClaims
    registration: Registration
    advice: tuple[Advice, ...]


def judge(
    files: Sequence[RunFile], rejected: Sequence[Rejected] = (), changed: Mapping[str, float] | None = None
) -> Judgement:
    """Diagnose and judge runs that were read; files that could not be read become findings.

    Runs are judged by the thresholds that they registered, if they agree, else by the defaults; `changed` by name lays
    others over them. Raises ConfigError for a threshold that does not exist or cannot be.
    """
    runs = load_runs(files)
    thresholds = thresholds_of(runs).changed(changed or {})
    return combine_judgements(files, rejected, runs, judge_each(runs, thresholds), thresholds)


def judge_each(
    runs: Sequence[Run],
    thresholds: Thresholds,
    *,
    company: Sequence[Run] | None = None,
    spreads: Spreads | None = None,
) -> list[RunJudgement]:
    """Each run diagnosed and judged. company, spreads: see `claims_of_each`."""
    try:
        findings = [diagnose(run, thresholds) for run in runs]
        each = claims_of_each(runs, invalidating(chain(*findings)), thresholds, company=company, spreads=spreads)
    except Exception:  # a run that breaks our own code must not take the others with it
        findings = [_breaks(run, thresholds) or diagnose(run, thresholds) for run in runs]
        each = claims_of_each(runs, invalidating(chain(*findings)), thresholds, company=company, spreads=spreads)
    return [_single(run, found, own, thresholds) for run, found, own in zip(runs, findings, each, strict=True)]


def _single(run: Run, findings: Sequence[Finding], own: RunClaims, thresholds: Thresholds) -> RunJudgement:
    whole = {claim.name: claim for claim in own.controlled if claim.expert is None}
    advice = tuple(advise_run(run, whole, own.premise, findings, thresholds))
    return RunJudgement(tuple(findings), own, registration_of(run, thresholds), advice)


def _breaks(run: Run, thresholds: Thresholds) -> list[Finding]:
    """Empty, or the finding that this run cannot be judged because our own code fails on it."""
    try:
        claims_of_each([run], invalidating(diagnose(run, thresholds)), thresholds)
    except Exception as error:
        seen = f"{type(error).__name__}: {printable(error, 200)}"
        cause = "this is a mistake of this program, or a file that it has never met"
        fix = "please report it with the file; the other runs are judged"
        return [Finding("unexpected", ERROR, "this run could not be judged", seen, cause, fix, run.id)]
    return []


def combine_judgements(
    files: Sequence[RunFile],
    rejected: Sequence[Rejected],
    runs: Sequence[Run],
    singles: Sequence[RunJudgement],
    thresholds: Thresholds,
) -> Judgement:
    """What is known of each run, together. Of the runs only what they say of themselves is needed, and their steps."""
    verdict = combine_runs(runs, [single.own for single in singles], thresholds)
    findings = (*map(of_rejected, rejected), *(finding for single in singles for finding in single.findings))
    advice = deduplicate([*(one for single in singles for one in single.advice), *advise_groups(verdict)])
    registrations = tuple(single.registration for single in singles)
    return Judgement(tuple(files), tuple(rejected), tuple(runs), findings, verdict, registrations, tuple(advice))
