"""The verdict as one HTML file that opens without a network, or as Markdown. The words are in templates/.

Text from run files is data: it is escaped in HTML and quoted in Markdown. No page holds a script or an address.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prismatic.contract.thresholds import RULES
from validation.analysis.run import Run
from validation.charts.interval_bar import interval_bar
from validation.charts.theme import dark_colors
from validation.diagnostics import Finding
from validation.diagnostics.finding import group_same
from validation.files.run_file import RunFile
from validation.judgement.baseline import Comparison
from validation.judgement.glance import glance_of, step_of
from validation.judgement.judge import Judgement
from validation.judgement.step import Advice
from validation.judgement.study import study_of
from validation.report import figures
from validation.report.json_report import options, versions
from validation.report.study_report import numbers_sha256
from validation.report.text_report import LONGEST, SHOWN
from validation.text import pluralize, printable, sentence, spaced
from validation.verdict.claims import INCONCLUSIVE, REFUTED, SUPPORTED, Claim
from validation.verdict.groups import PEERS, Group
from validation.verdict.hypotheses import CONFIRMED, CONTRADICTED, EXPLAINED, OPEN
from validation.verdict.registration import ALTERED, NOT_REGISTERED, Registration
from validation.verdict.words.statuses import ICONS
from validation.verdict.words.wording import (
    CHECKS,
    estimated,
    has_interval,
    parts_of,
    quantity,
    replication,
    threshold,
)

KINDS = {CONFIRMED: SUPPORTED, CONTRADICTED: REFUTED, OPEN: INCONCLUSIVE}
"""The status whose colours an answer to a hypothesis has."""
DETAILED = 4  # runs with a section and charts; a table lists all
FACTS = ("prismatic", "torch", "python", "git_commit", "git_dirty", "device", "precision", "world_size")
MARKUP = re.compile(r"([\\`*_\[\]<>#|~&$])")
ADDRESS = re.compile(r"(?<=@)|(?<=#)(?=\d)|(?<=www)(?=\.)|(?<=:)(?=//)", re.IGNORECASE)
"""Places where GitHub would begin a mention, a reference or a link, even in quoted text. A word joiner prevents it."""


def as_html(
    judgement: Judgement,
    *,
    now: datetime,
    command: str = "",
    comparison: Comparison | None = None,
    repeatable: bool = False,
) -> str:
    """Return the report as one HTML page.

    command: the command line that writes it again; without one the reader is elsewhere, see `origin_of`. comparison:
    adds a section about the baseline. repeatable: the same page, but for its date, for the same runs trained again:
    hashes of numbers in place of files, and no events.
    """
    content = _content(judgement, now, command, draw=True, repeatable=repeatable) | {"baseline": _baseline(comparison)}
    return _environment(html=True).get_template("report.html").render(content)


def as_markdown(
    judgement: Judgement,
    *,
    now: datetime,
    command: str = "",
    comparison: Comparison | None = None,
    repeatable: bool = False,
) -> str:
    """Return the report as Markdown, for a pull request or the appendix of a paper. Parameters: see `as_html`."""
    content = _content(judgement, now, command, draw=False, repeatable=repeatable)
    content |= {"baseline": _baseline(comparison)}
    text = _environment(html=False).get_template("report.md").render(content)
    return re.sub(r"\n{3,}", "\n\n", text)


def _environment(*, html: bool) -> Environment:
    def clean(value: object) -> object:
        """Return text without control and direction characters, and our own markup unchanged."""
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return printable(value, LONGEST) if html else _quoted(printable(value, LONGEST))

    # In HTML, autoescape escapes all but Markup. In Markdown, the finalizer quotes all but Markup.
    environment = Environment(
        loader=PackageLoader("validation.report"),
        autoescape=html,
        finalize=clean,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _code
    environment.filters["verbatim"] = lambda text: Markup(printable(text, LONGEST))
    environment.filters["sentence"] = sentence
    environment.filters["spaced"] = spaced
    environment.globals["icons"] = ICONS
    return environment


def _quoted(text: str) -> str:
    """Return text that Markdown shows unchanged: without emphasis, links, mentions and table cells."""
    return ADDRESS.sub("\u2060", MARKUP.sub(r"\\\1", text))


def _code(text: object) -> Markup:
    """Return text as Markdown code that a table cell can hold."""
    return Markup("`" + printable(text, LONGEST).replace("`", "'").replace("|", "¦") + "`")


def _content(judgement: Judgement, now: datetime, command: str, *, draw: bool, repeatable: bool) -> dict[str, Any]:
    """Return the values that the templates show."""
    verdict, drawable = judgement.verdict, draw and figures.can_draw()
    deciding = verdict.deciding
    decides = {name for group in deciding for name in group.runs}
    runs = list(zip(judgement.runs, judgement.files, judgement.registrations, strict=True))
    detailed = sorted(runs, key=lambda each: each[0].id not in decides)[:DETAILED]
    return {
        "status": verdict.status,
        "glance": _glance(judgement, portable=repeatable or not command),
        "study": _study(judgement),
        "repeatable": repeatable,
        "generated": now.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "rules": RULES,
        "count": pluralize(len(runs), "run"),
        "several": len(runs) > 1,
        "groups": [_group(group) for group in verdict.groups],
        "group_charts": _group_charts(judgement) if drawable else [],
        "doses": [dose.because for dose in verdict.doses],
        "dose_charts": _figures(figures.dose_response(verdict) if drawable else [], "dose"),
        "outcomes": _outcomes(judgement),
        "outcome_charts": _figures(figures.outcomes(verdict) if drawable else [], "outcome"),
        "claims": list(dict.fromkeys(claim.name for group in verdict.groups for claim in group.judged)),
        "peers": all(group.role == PEERS for group in verdict.groups),
        "table": [_row(judgement, run, file) for run, file, _ in runs],
        "runs": [_section(judgement, *run, draw=drawable) for run in detailed],
        "more_runs": max(0, len(runs) - DETAILED),
        "without_charts": draw and not drawable,
        "findings": [_finding(same) for same in group_same(judgement.findings)],
        "advice": [_advice(judgement, advice, portable=repeatable or not command) for advice in judgement.advice],
        "registrations": _grouped_registrations(judgement.registrations),
        "thresholds": _thresholds(judgement),
        "versions": versions(),
        "dark_colors": dark_colors(),
    }


def _study(judgement: Judgement) -> dict[str, Any] | None:
    """Return the study of the runs with the answers to its hypotheses; None if they are not those of one study."""
    study = study_of(judgement)
    if study is None:
        return None
    hashes = {run.id: numbers_sha256(run) or "" for run in judgement.runs}
    return {
        "name": study.plan.name,
        "question": study.plan.question,
        "sha256": study.plan.sha256,
        "because": study.because,
        "complete": not study.missing,
        "answers": [
            {
                "sentence": each.hypothesis.sentence,
                "kind": KINDS[each.status],
                "word": EXPLAINED[each.status],
                "because": each.because,
            }
            for each in study.answers
        ],
        "runs": [
            {"name": run.name, "run": run.run or "missing", "numbers": hashes.get(run.run or "", "")}
            for run in study.runs
        ],
    }


def _baseline(comparison: Comparison | None) -> dict[str, Any] | None:
    """Return the changes since the baseline; None without a baseline."""
    if comparison is None:
        return None
    other = comparison.baseline
    return {
        "status": other.verdict.status,
        "worsened": comparison.worsened,
        "files": [
            {"run": run.id, "file": run.name, "sha256": file.sha256}
            for run, file in zip(other.runs, other.files, strict=True)
        ],
        "changes": [
            {
                "where": change.where,
                "what": change.what,
                "because": change.because,
                "worsened": change.worsened,
            }
            for change in comparison.all
        ],
        "unmatched": comparison.unmatched,
        "findings": [_finding(same) for same in group_same(other.findings)],
    }


def _glance(judgement: Judgement, *, portable: bool) -> dict[str, Any]:
    """Return the verdict at a glance, with a row for each claim over all runs."""
    glance = glance_of(judgement, portable=portable)
    rows = [
        {
            **_claim(row.claim),
            "question": row.question,
            "kind": row.shown.kind,
            "word": row.shown.word,
            "reason": row.reason,
            "groups": [(name, shown.word, estimated(claim)) for name, claim, shown in row.groups],
        }
        for row in glance.rows
    ]
    return {**vars(glance), "rows": rows, "sentence": glance.sentence}


def _claim(claim: Claim) -> dict[str, Any]:
    bar = interval_bar(claim) if has_interval(claim) else None
    return {
        "claim": claim.name,
        "status": claim.status,
        "headline": claim.headline,
        "expert": claim.expert,
        "estimate": estimated(claim),
        "over": replication(claim),
        "threshold": threshold(claim),
        "quantity": quantity(claim),
        "because": claim.because,
        "parts": [f"{spaced(part.name)} {estimated(part)}, threshold {threshold(part)}" for part in parts_of(claim)],
        "bar": Markup(bar) if bar else "",
    }


def _group(group: Group) -> dict[str, Any]:
    claims = {claim.name: _claim(claim) for claim in group.judged}
    return {
        "name": group.name,
        "role": spaced(group.role),
        "check": CHECKS[group.check] if group.check else "",
        "runs": len(group.runs),
        "premise": spaced(group.premise.status) if group.premise is not None else "",
        "claims": claims,
    }


def _group_charts(judgement: Judgement) -> list[dict[str, Any]]:
    """Return the evidence over seeds of the first groups that the verdict is about."""
    groups = judgement.verdict.deciding[:DETAILED]
    return _figures([chart for group in groups for chart in figures.evidence_over_seeds(judgement, group)], "group")


def _outcomes(judgement: Judgement) -> list[dict[str, str]]:
    """Return how the runs end against their twins, by experiment; a single one needs no name."""
    several = len(judgement.verdict.deciding) > 1
    return [{"name": name if several else "", "because": found.because} for name, found in judgement.verdict.outcomes]


def _row(judgement: Judgement, run: Run, file: RunFile) -> dict[str, Any]:
    """Return the values of one run's line in a table. Controls have a role in place of a status."""
    claims, group = judgement.verdict.judged(run.id), judgement.group_of(run.id)
    return {
        "run": run.id,
        "file": run.name,
        "role": spaced(group.role) if group.check else "",
        "status": judgement.verdict.status_of(run.id),
        "claims": {name: _claim(claim) for name, claim in claims.items()},
        "steps": len(run.steps),
        "seed": "" if run.seed is None else run.seed,
        "scale": _general(run.option("perturbation_scale")),
        "sha256": file.sha256,
    }


def _section(
    judgement: Judgement, run: Run, file: RunFile, registration: Registration, *, draw: bool
) -> dict[str, Any]:
    """Return the values of one run's section."""
    verdict = judgement.verdict
    return {
        **_row(judgement, run, file),
        "experts": len(run.experts),
        "provisional": not run.finished,
        "positive_control": run.is_positive_control,
        "premise": verdict.premise_of.get(run.id),
        "per_expert": [_claim(claim) for claim in verdict.as_written.of(run.id) if claim.expert is not None],
        "charts": _figures(figures.evidence(judgement, run, file) if draw else [], run.id),
        "registration": registration.because,
        "events": [f"{name}: {count}" for name, count in sorted(run.events.items())],
        "options": [f"{name}: {json.dumps(value)}" for name, value in options(run).items()],
        "trained": [(name, printable(run.facts[name], 200)) for name in FACTS if run.facts.get(name) is not None],
    }


def _figures(pictures: Sequence[tuple[str, str]], owner: str) -> list[dict[str, Any]]:
    """Return (title, SVG) pictures with element ids that are unique on the page."""
    found = []
    for number, (title, picture) in enumerate(pictures):
        unique = re.sub(r'(\bid="|url\(#)', rf"\g<1>p{number}-{owner}-", picture)
        found.append({"title": title, "svg": Markup(unique)})
    return found


def _finding(same: Sequence[Finding]) -> dict[str, Any]:
    """Return one finding with the evidence from each run that has it."""
    seen = [{"evidence": finding.evidence, "run": finding.run or ""} for finding in same]
    return {**asdict(same[0]), "seen": seen[:SHOWN], "more": max(0, len(seen) - SHOWN)}


def _advice(judgement: Judgement, advice: Advice, *, portable: bool) -> dict[str, Any]:
    """Return one advice with its command."""
    step = step_of(advice, judgement, portable=portable)
    return {"id": advice.id, "text": step.text, "run": advice.run or "", "line": step.command}


def _grouped_registrations(registrations: Sequence[Registration]) -> list[str]:
    counts = Counter(registration.because for registration in registrations)
    many = len(registrations) > 1
    return [f"{because} ({pluralize(count, 'run')})" if many else because for because, count in counts.items()]


def _thresholds(judgement: Judgement) -> list[dict[str, str]]:
    """Return each threshold and what the runs registered for it."""
    rows = []
    for name, value in asdict(judgement.verdict.thresholds).items():
        counts = Counter(_registered(name, registration) for registration in judgement.registrations)
        many = len(judgement.registrations) > 1
        words = [f"{words} ({pluralize(count, 'run')})" if many else words for words, count in counts.items()]
        rows.append({"name": name, "value": f"{value:g}", "registered": "; ".join(words)})
    return rows


def _registered(name: str, registration: Registration) -> str:
    if registration.status == NOT_REGISTERED:
        return "not registered"
    if registration.status == ALTERED:
        return "registration altered"
    if name not in registration.differences:
        return "as registered"
    old, new = registration.differences[name]
    return f"changed after the fact, from {_general(old) or 'nothing'} to {_general(new) or 'nothing'}"


def _general(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
