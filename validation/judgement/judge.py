"""The judgement of run files: diagnostics, verdict, registered thresholds and advice, for the CLI and the pages.

`judge_each` measures every run by itself; `combine_judgements` decides what the runs show. Runs on many machines are
judged by the same two functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from operator import is_
from typing import TypeVar

import duckdb

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort, MeasuredRun, measure_run
from validation.analysis.load import load_runs
from validation.analysis.run import Run
from validation.diagnostics import ERROR, Finding, diagnose, errors_first, invalidating, of_rejected
from validation.diagnostics.consistency import expert_hashes, find_copies
from validation.diagnostics.rows import rows_missing
from validation.files.run_file import Rejected, RunFile
from validation.judgement.advice import advise
from validation.judgement.guard import each_guarded, report
from validation.judgement.step import Advice
from validation.query.database import connect
from validation.verdict.as_written import as_written
from validation.verdict.claims import Claim
from validation.verdict.decide import Verdict, decide
from validation.verdict.groups import Group
from validation.verdict.registration import Registration, registration_of, thresholds_of

T = TypeVar("T")

EXPLAIN_MISSING_ROWS = {"no_data", "missing_columns", "missing_experts", "zero_norms"}
"""Errors that leave no usable row, so that a finding of missing rows would only repeat them."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """The findings, verdict, registrations and advice of a selection of run files."""

    files: tuple[RunFile, ...]
    rejected: tuple[Rejected, ...]
    measured: tuple[MeasuredRun, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict
    registrations: tuple[Registration, ...]
    """One for each run, in the order of `runs`."""
    advice: tuple[Advice, ...]
    """Next steps, the most important first."""

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The runs, in the order of the files."""
        return tuple(each.run for each in self.measured)

    @cached_property
    def cohort(self) -> Cohort:
        """The runs with the sham runs that control others."""
        return Cohort(self.measured, [*invalidating(self.findings)])

    @cached_property
    def _groups(self) -> dict[str, Group]:
        return {run: group for group in self.verdict.groups for run in group.runs}

    def group_of(self, run: str) -> Group:
        """Return the group of a run."""
        return self._groups[run]

    def members_of(self, group: Group) -> list[MeasuredRun]:
        """Return the runs of a group."""
        return [each for each in self.measured if each.run.id in group.runs]

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


@dataclass(frozen=True, eq=False)
class RunJudgement:
    """One run by itself: its findings, levels, claims as written and registration."""

    findings: tuple[Finding, ...]
    measured: MeasuredRun
    as_written: tuple[Claim, ...]
    registration: Registration
    numbers: Mapping[str, int | None]
    """Experts by the hash of their gradient norms, by which copies are found."""


def judge(
    files: Sequence[RunFile],
    rejected: Sequence[Rejected] = (),
    changed: Mapping[str, float] | None = None,
    claim: str | None = None,
) -> Judgement:
    """Return the judgement of run files; rejected files become findings.

    The thresholds are those that the runs registered, if they agree, else the defaults; `changed` replaces some by
    name. claim: the claim that the status and the headline are about, see `decide`. Raises ConfigError for an unknown
    threshold or a value outside of its bounds.
    """
    return each_guarded(lambda files: _judge(files, rejected, changed or {}, claim), files)


def _judge(
    files: Sequence[RunFile], rejected: Sequence[Rejected], changed: Mapping[str, float], claim: str | None
) -> Judgement:
    runs = load_runs(files)
    thresholds = thresholds_of(runs).changed(changed)
    return combine_judgements(files, rejected, judge_each(runs, thresholds), thresholds, claim)


def without_failing_runs(judgement: Judgement, write: Callable[[Judgement], T]) -> T:
    """Return write(judgement), an output; if it raises on some runs, that of the judgement in which these are errors.

    A judgement whose files have no tables, as of a cluster, is written as it is.
    """
    thresholds = asdict(judgement.verdict.thresholds)

    def make(files: Sequence[RunFile]) -> T:
        same = len(files) == len(judgement.files) and all(map(is_, files, judgement.files))
        return write(judgement if same else judge(files, judgement.rejected, thresholds, judgement.verdict.claim))

    return each_guarded(make, judgement.files)


def judge_each(runs: Sequence[Run], thresholds: Thresholds) -> list[RunJudgement]:
    """Return what each run shows by itself, which is all that a verdict over runs needs."""
    return [_judge_run(run, thresholds) for run in runs]


def _judge_run(run: Run, thresholds: Thresholds) -> RunJudgement:
    if run.failure:
        return _without_verdict(run, thresholds)
    try:
        registration = registration_of(run, thresholds)
        measured = measure_run(run, thresholds)
        found = diagnose(run, thresholds)
        findings = errors_first([*found, *_missing_rows(measured, found)])
        written = as_written(run, thresholds, invalidating(findings).get(run.id))
        return RunJudgement(tuple(findings), measured, written, registration, expert_hashes(run))
    except Exception as error:  # a run that breaks our code must not stop the others
        return _without_verdict(replace(run, failure=report(error)), thresholds)


def _without_verdict(run: Run, thresholds: Thresholds) -> RunJudgement:
    """Return the judgement of a run on which this program fails, by its facts alone."""
    finding = _unexpected(run)
    written = as_written(run, thresholds, finding.symptom)
    return RunJudgement(
        (finding,), MeasuredRun.without_levels(run), written, registration_of(run, thresholds), expert_hashes(run)
    )


def _missing_rows(measured: MeasuredRun, known: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the finding of too few rows, unless an expert or a column that is absent altogether explains it."""
    if EXPLAIN_MISSING_ROWS & {finding.id for finding in known if finding.severity == ERROR}:
        return
    # Merged gradients lack a row where an expert received no token. Nothing is claimed about those of peers, nor about
    # those of a run of hard routing that is judged by its probe.
    probed = measured.run.mixture == "top_k" and measured.source == "isolated"
    merged = [] if measured.run.peers or probed else [(measured.run, measured.merged)]
    for run, levels in (*merged, (measured.run.isolated, measured.isolated)):
        if run is not None and levels is not None:
            found = rows_missing(run, levels.bins)
            # A few rows of the gradients that decide nothing are no reason to doubt.
            yield from (each for each in found if each.severity == ERROR or run.source == measured.source)


def _unexpected(run: Run) -> Finding:
    """Return the finding that our code fails on this run."""
    cause = "this is a fault of prismatic, or a kind of file that it does not know"
    fix = "report it with the file; the other runs are judged"
    return Finding("unexpected", ERROR, "this run could not be judged", run.failure, cause, fix, run.id)


def combine_judgements(
    files: Sequence[RunFile],
    rejected: Sequence[Rejected],
    each: Sequence[RunJudgement],
    thresholds: Thresholds,
    claim: str | None = None,
) -> Judgement:
    """Return the judgement over runs from what each shows by itself. The runs need no rows here. claim: see `judge`."""
    measured = tuple(run.measured for run in each)
    copies = find_copies([run.measured.run for run in each], [run.numbers for run in each])
    findings = (*map(of_rejected, rejected), *chain(*(run.findings for run in each)), *copies)
    verdict = decide(measured, [run.as_written for run in each], invalidating(findings), thresholds, claim)
    return Judgement(
        tuple(files),
        tuple(rejected),
        measured,
        findings,
        verdict,
        tuple(run.registration for run in each),
        tuple(advise(measured, verdict, findings)),
    )
