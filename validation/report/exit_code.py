"""The exit code of a verdict: 0 supported, 1 refuted, 2 unreadable, 3 inconclusive or confounded, 4 invalid data."""

from __future__ import annotations

from validation.diagnostics import ERROR, WARNING
from validation.judgement.baseline import Comparison
from validation.judgement.judge import Judgement
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED
from validation.verdict.registration import threshold_objections

EXIT_CODES = {SUPPORTED: 0, REFUTED: 1, INCONCLUSIVE: 3, CONFOUNDED: 3, INVALID: 4}
UNREADABLE, WORSENED, UNSURE = 2, 1, 3


def exit_code(judgement: Judgement, *, strict: bool = False, comparison: Comparison | None = None) -> int:
    """Return 0 supported, 1 refuted, 2 a file could not be read, 3 inconclusive or confounded, 4 invalid data.

    comparison: return 1 also if a claim or a check that the baseline passes is lost. strict: return 3 in place of 0 if
    there is an objection.
    """
    if judgement.rejected or (comparison is not None and comparison.baseline.rejected):
        return UNREADABLE
    if comparison is not None and comparison.worsened:
        return WORSENED
    code = EXIT_CODES[judgement.verdict.status]
    return UNSURE if strict and code == 0 and objections(judgement) else code


def objections(judgement: Judgement) -> list[str]:
    """Return what keeps --strict from accepting a supported verdict: warnings, errors and questionable thresholds."""
    found = [f"{f.id} [{f.run or 'files'}]" for f in judgement.findings if f.severity in (ERROR, WARNING)]
    return found + threshold_objections(judgement.verdict.thresholds, judgement.registrations)
