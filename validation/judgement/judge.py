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
    """The findings, verdict, registrations and advice of a selection of run files."""

    files: tuple[RunFile, ...]
    rejected: tuple[Rejected, ...]
    runs: tuple[Run, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict
    registrations: tuple[Registration, ...]
    """One for each run, in the order of `runs`."""
    advice: tuple[Advice, ...]
    """Next steps, the most important first."""

    @cached_property
    def _findings_by_run(self) -> dict[str | None, list[Finding]]:
        found: dict[str | None, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.run, []).append(finding)
        return found

    def findings_of(self, run: str | None) -> list[Finding]:
        """Return the findings about a run; None: those about no run, such as an unreadable file."""
        return self._findings_by_run.get(run, [])

    @cached_property
    def con(self) -> duckdb.DuckDBPyConnection:
        """A connection with the relations `runs`, `dynamics`, `layers` over all files; take one cursor per thread.

        Raises RunFileError if the files do not fit into memory together.
        """
        return connect(self.files)


@dataclass(frozen=True)
class RunJudgement:
    """The findings, claims, registration and advice of one run."""

    findings: tuple[Finding, ...]
    claims: RunClaims
    registration: Registration
    advice: tuple[Advice, ...]


def judge(
    files: Sequence[RunFile], rejected: Sequence[Rejected] = (), changed: Mapping[str, float] | None = None
) -> Judgement:
    """Return the judgement of run files; rejected files become findings.

    The thresholds are those that the runs registered, if they agree, else the defaults; `changed` replaces some by
    name. Raises ConfigError for an unknown threshold or an impossible value.
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
    """Return the judgement of each run. company, spreads: see `claims_of_each`."""
    try:
        findings = [diagnose(run, thresholds) for run in runs]
        each = claims_of_each(runs, invalidating(chain(*findings)), thresholds, company=company, spreads=spreads)
    except Exception:  # a run that breaks our code must not stop the others
        findings = [_unexpected(run, thresholds) or diagnose(run, thresholds) for run in runs]
        each = claims_of_each(runs, invalidating(chain(*findings)), thresholds, company=company, spreads=spreads)
    return [_judgement(*of_run, thresholds) for of_run in zip(runs, findings, each, strict=True)]


def _judgement(run: Run, findings: Sequence[Finding], claims: RunClaims, thresholds: Thresholds) -> RunJudgement:
    whole = {claim.name: claim for claim in claims.controlled if claim.expert is None}
    advice = tuple(advise_run(run, whole, claims.premise, findings, thresholds))
    return RunJudgement(tuple(findings), claims, registration_of(run, thresholds), advice)


def _unexpected(run: Run, thresholds: Thresholds) -> list[Finding]:
    """Return the finding that our code fails on this run; empty if it does not."""
    try:
        claims_of_each([run], invalidating(diagnose(run, thresholds)), thresholds)
    except Exception as error:
        evidence = f"{type(error).__name__}: {printable(error, 200)}"
        cause = "this is a fault of prismatic, or a kind of file that it does not know"
        fix = "report it with the file; the other runs are judged"
        return [Finding("unexpected", ERROR, "this run could not be judged", evidence, cause, fix, run.id)]
    return []


def combine_judgements(
    files: Sequence[RunFile],
    rejected: Sequence[Rejected],
    runs: Sequence[Run],
    each: Sequence[RunJudgement],
    thresholds: Thresholds,
) -> Judgement:
    """Return the judgement over runs from that of each. The runs need no series here, only their facts and steps."""
    verdict = combine_runs(runs, [run.claims for run in each], thresholds)
    findings = (*map(of_rejected, rejected), *(finding for run in each for finding in run.findings))
    advice = deduplicate([*(step for run in each for step in run.advice), *advise_groups(verdict)])
    registrations = tuple(run.registration for run in each)
    return Judgement(tuple(files), tuple(rejected), tuple(runs), findings, verdict, registrations, tuple(advice))
