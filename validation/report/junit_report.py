"""The verdict as JUnit XML for build servers: a suite per run and group, a case per claim, check and error.

A supported claim passes and a refuted one fails. Inconclusive and confounded claims are skipped with the reason; with
--strict they fail. Invalid data and unreadable files are errors. A control passes if its check does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from validation.diagnostics import ERROR, WARNING, Finding
from validation.judgement.baseline import Comparison
from validation.judgement.judge import Judgement
from validation.text import spaced
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, Claim
from validation.verdict.decide import Verdict
from validation.verdict.groups import FAILS, NOT_FOUND, PEERS, UNDECIDED, Group
from validation.verdict.registration import threshold_objections
from validation.verdict.words.wording import CHECKS, estimated, replication, threshold

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 forbids, even escaped."""
OUTCOMES = {REFUTED: "failure", INCONCLUSIVE: "skipped", CONFOUNDED: "skipped", INVALID: "error"}
OUTCOMES |= {FAILS: "failure", UNDECIDED: "skipped", NOT_FOUND: "skipped"}
COUNTS = {"failure": "failures", "skipped": "skipped", "error": "errors"}


@dataclass(frozen=True)
class Case:
    """A test case. outcome: failure, skipped, error, or None for a pass."""

    name: str
    outcome: str | None
    kind: str
    message: str


def as_junit(judgement: Judgement, strict: bool = False, comparison: Comparison | None = None) -> str:
    """Return the XML document."""
    root = ET.Element("testsuites", name="prismatic")
    for suite, cases in _suites(judgement, strict, comparison):
        root.append(_suite(suite, cases))
    for attribute in ("tests", *COUNTS.values()):
        root.set(attribute, str(sum(int(suite.get(attribute, 0)) for suite in root)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suites(judgement: Judgement, strict: bool, comparison: Comparison | None) -> Iterable[tuple[str, list[Case]]]:
    verdict, findings = judgement.verdict, judgement.findings_of
    groups, controls = verdict.groups, _controls(verdict)
    unread = [_finding_case(finding, strict) for finding in findings(None)]
    if unread:
        yield "files", [case for case in unread if case]
    for run in judgement.runs:
        claims = [_claim_case(claim, strict, controls.get(run.id)) for claim in verdict.judged(run.id).values()]
        grave = [_finding_case(finding, strict) for finding in findings(run.id)]
        yield f"run {run.id} ({run.name})", [*claims, *(case for case in grave if case)]
    for group in groups if len(groups) > 1 else ():
        yield f"group {group.name}", _group_cases(group, strict)
    if len(judgement.runs) > 1:
        yield "all runs", [_claim_case(claim, strict) for claim in verdict.rows.values()]
    thresholds = threshold_objections(verdict.thresholds, judgement.registrations) if strict else []
    if thresholds:
        yield "thresholds", [Case("thresholds", "failure", "thresholds", objection) for objection in thresholds]
    if comparison is not None:
        yield "baseline", _comparison_cases(comparison)


def _controls(verdict: Verdict) -> dict[str, str]:
    """Return the role of each run that serves as a control of others."""
    controls = [group for group in verdict.groups if group not in verdict.deciding and group.role != PEERS]
    return {run: group.role for group in controls for run in group.runs}


def _claim_case(claim: Claim, strict: bool, control: str | None = None) -> Case:
    """Return the case of a claim. control: the role of the run if it serves as a control of others."""
    measured = f"{estimated(claim)} {replication(claim)}, threshold {threshold(claim)}"
    numbers = [measured] if claim.estimate is not None and claim.threshold is not None else []
    message = "; ".join([f"{claim.status}: {claim.headline}: {claim.because}", *numbers])
    if control is not None and claim.status != INVALID:
        return Case(claim.name, "skipped", control, f"{spaced(control)}, a control for the other runs; {message}")
    return Case(claim.name, _outcome(claim.status, strict), claim.status, message)


def _outcome(result: str, strict: bool) -> str | None:
    outcome = OUTCOMES.get(result)
    return "failure" if strict and outcome == "skipped" else outcome


def _group_cases(group: Group, strict: bool) -> list[Case]:
    """Return the claims of a treated group, or the check of a control; the outcome is a case that always passes."""
    outcome = [Case("outcome", None, "outcome", group.outcome.because)] if group.outcome is not None else []
    if group.check is None:
        return [*(_claim_case(claim, strict) for claim in group.judged), *outcome]
    numbers = "; ".join(f"{claim.name}: {claim.because}" for claim in group.claims)
    return [Case("check", _outcome(group.check, strict), group.check, f"{CHECKS[group.check]}; {numbers}"), *outcome]


def _finding_case(finding: Finding, strict: bool) -> Case | None:
    """Return the case of an error, or of a warning with --strict; None for other findings."""
    if finding.severity != ERROR and not (strict and finding.severity == WARNING):
        return None
    name = finding.id if finding.expert is None else f"{finding.id}, expert {finding.expert}"
    message = f"{finding.symptom}. Seen: {finding.evidence}. Cause: {finding.cause}. Fix: {finding.fix}"
    return Case(name, "error" if finding.severity == ERROR else "failure", finding.id, message)


def _comparison_cases(comparison: Comparison) -> list[Case]:
    cases = [
        Case(f"{change.where}: {change.what}", "failure" if change.worsened else None, "worsened", change.because)
        for change in comparison.all
    ]
    unread = [_finding_case(finding, False) for finding in comparison.baseline.findings if finding.run is None]
    return [*cases, *(case for case in unread if case)]


def _suite(name: str, cases: list[Case]) -> ET.Element:
    suite = ET.Element("testsuite", name=_clean(name), tests=str(len(cases)))
    for outcome, attribute in COUNTS.items():
        suite.set(attribute, str(sum(case.outcome == outcome for case in cases)))
    for case in cases:
        element = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(case.name))
        if case.outcome:
            first = _clean(case.message)
            ET.SubElement(element, case.outcome, type=_clean(case.kind), message=first).text = first
        else:
            ET.SubElement(element, "system-out").text = _clean(case.message)
    return suite


def _clean(text: str) -> str:
    return FORBIDDEN.sub("", text)
