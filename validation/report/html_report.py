"""A judgement as a document that stands alone: one HTML file that opens without a network, or Markdown.

Words from run files are data. The HTML template escapes every one of them, the Markdown one quotes all that could be
markup, and neither page holds a script or names an address.
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
from validation.charts.interval_bar import bar as interval_bar
from validation.charts.theme import dark_colors
from validation.diagnostics import Finding
from validation.files.run_file import RunFile
from validation.judgement.baseline import Comparison
from validation.judgement.judge import Judgement
from validation.report import figures
from validation.report.json_report import alike, options, versions
from validation.report.text_report import LONGEST, SHOWN
from validation.text import pluralize, printable, sentence, spaced
from validation.verdict.claims import CLAIMS, Claim, combine
from validation.verdict.decide import Reading
from validation.verdict.groups import Group
from validation.verdict.registration import ALTERED, NOT_REGISTERED, Registration
from validation.verdict.wording import MEANING, QUESTIONS, estimated, has_interval, threshold

SYMBOLS = {"supported": "✓", "refuted": "✗", "inconclusive": "?", "confounded": "≈", "invalid": "∅"}
DETAILED = 4  # runs that have a section and charts of their own; of more, a table has all
TRAINED = ("prismatic", "torch", "python", "git_commit", "git_dirty", "device", "precision", "world_size")
MARKUP = re.compile(r"([\\`*_\[\]<>#|~&$])")
ADDRESS = re.compile(r"(?<=@)|(?<=#)(?=\d)|(?<=www)(?=\.)|(?<=:)(?=//)", re.IGNORECASE)
"""Where GitHub would begin a mention, a reference or a link, also in quoted words; broken there by a word joiner."""


def as_html(judgement: Judgement, *, now: datetime, command: str = "", comparison: Comparison | None = None) -> str:
    """One page without any script, address or file beside it.

    command: what wrote it, to be repeated. comparison: the judgement beside a baseline's, which gets a section.
    """
    content = _content(judgement, now, command, draw=True) | {"baseline": _baseline(comparison)}
    return _environment(html=True).get_template("report.html").render(content)


def as_markdown(judgement: Judgement, *, now: datetime, command: str = "", comparison: Comparison | None = None) -> str:
    """The same for a comment on a pull request or the appendix of a paper."""
    content = _content(judgement, now, command, draw=False) | {"baseline": _baseline(comparison)}
    text = _environment(html=False).get_template("report.md").render(content)
    return re.sub(r"\n{3,}", "\n\n", text)


def _environment(*, html: bool) -> Environment:
    def clean(value: object) -> object:
        """Neither control nor direction characters, whatever a file says; our own markup as it is."""
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return printable(value, LONGEST) if html else _quoted(printable(value, LONGEST))

    # Markup is what the HTML template must not escape; in Markdown the finalizer does what escaping does there.
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
    environment.globals["symbols"] = SYMBOLS
    return environment


def _quoted(text: str) -> str:
    """Words as Markdown shows them as they are: no emphasis, link, mention or cell begins in them."""
    return ADDRESS.sub("\u2060", MARKUP.sub(r"\\\1", text))


def _code(text: object) -> Markup:
    """Words in Markdown's own quotes, also in a cell."""
    return Markup("`" + printable(text, LONGEST).replace("`", "'").replace("|", "¦") + "`")


def _content(judgement: Judgement, now: datetime, command: str, *, draw: bool) -> dict[str, Any]:
    """Everything that a report says, in words and numbers that are ready to be shown."""
    verdict, drawable = judgement.verdict, draw and figures.can_draw()
    chosen = list(zip(judgement.runs, judgement.files, judgement.registrations, strict=True))
    return {
        "status": verdict.status,
        "meaning": MEANING[verdict.status],
        "because": verdict.controlled.because,
        "written": verdict.as_written.status,
        "generated": now.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "rules": RULES,
        "count": pluralize(len(judgement.runs), "run"),
        "several": len(judgement.runs) > 1,
        "across": _cards(verdict.controlled, verdict.as_written, None),
        "groups": [_group(group) for group in verdict.groups],
        "doses": [dose.because for dose in verdict.doses],
        "dose_charts": _figures(figures.dose_response(verdict, judgement.runs) if drawable else [], "dose"),
        "claims": CLAIMS,
        "table": [_row(judgement, run, file) for run, file, _ in chosen],
        "runs": [_section(judgement, *one, draw=drawable) for one in chosen[:DETAILED]],
        "left_out": max(0, len(chosen) - DETAILED),
        "undrawn": draw and not drawable,
        "findings": [_finding(several) for several in alike(judgement.findings)],
        "advice": [_advice(judgement, one) for one in judgement.advice],
        "registrations": _grouped_registrations(judgement.registrations),
        "thresholds": _thresholds(judgement),
        "versions": versions(),
        "recoloured": dark_colors(),
    }


def _baseline(comparison: Comparison | None) -> dict[str, Any] | None:
    """What changed since the baseline, claim by claim; None without one."""
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
                "claim": change.after.name,
                "expert": "all" if change.after.expert is None else str(change.after.expert),
                "because": change.because,
                "worsened": change.worsened,
            }
            for change in comparison.changes
        ],
        "unmatched": comparison.unmatched,
        "findings": [_finding(several) for several in alike(other.findings)],
    }


def _cards(controlled: Reading, written: Reading, run: str | None) -> list[dict[str, Any]]:
    """The three claims about a run, or over all of them, controlled with as written beside it."""
    own, other = (reading.whole(run) for reading in (controlled, written))
    return [
        {**_claim(own[name]), "question": QUESTIONS[name], "written": _claim(other[name])}
        for name in CLAIMS
        if name in own and name in other
    ]


def _claim(claim: Claim) -> dict[str, Any]:
    bar = interval_bar(claim) if has_interval(claim) else None
    return {
        "claim": claim.name,
        "status": claim.status,
        "expert": claim.expert,
        "estimate": estimated(claim),
        "threshold": threshold(claim),
        "because": claim.because,
        "decided": _decided(claim),
        "path": " → ".join(claim.path),
        "bar": Markup(bar) if bar else "",
    }


def _decided(claim: Claim) -> str:
    """What it was decided from; nothing for what came to no estimate."""
    if claim.estimate is None:
        return ""
    steps = pluralize(claim.points, "logged step") if claim.points and claim.run else ""
    worth = f"worth {claim.effective:.0f} independent batches" if claim.effective and claim.run else ""
    source = "isolated gradients" if claim.source == "isolated" else "the optimizer's gradients"
    control = f"compared to {spaced(claim.control)}" if claim.control else ""
    look = f"decided at {claim.look:,} logged steps, provisional" if claim.look else ""
    return ", ".join(filter(None, (steps, worth, source if claim.run else "", control, look)))


def _group(group: Group) -> dict[str, Any]:
    claims = {claim.name: _claim(claim) for claim in group.claims}
    return {"name": group.name, "role": spaced(group.role), "runs": len(group.runs), "claims": claims}


def _row(judgement: Judgement, run: Run, file: RunFile) -> dict[str, Any]:
    own = {name: _claim(claim) for name, claim in judgement.verdict.controlled.whole(run.id).items()}
    return {
        "run": run.id,
        "file": run.name,
        "status": combine([claim["status"] for claim in own.values()]),
        "claims": own,
        "steps": len(run.steps),
        "seed": "" if run.seed is None else run.seed,
        "scale": _general(run.number("config.perturbation_scale")),
        "sha256": file.sha256,
    }


def _section(
    judgement: Judgement, run: Run, file: RunFile, registration: Registration, *, draw: bool
) -> dict[str, Any]:
    """All that is said of one run."""
    verdict = judgement.verdict
    return {
        **_row(judgement, run, file),
        "experts": len(run.experts),
        "provisional": not run.finished,
        "positive_control": run.is_positive_control,
        "premises": [premise for premise in (verdict.premise_of.get(run.id),) if premise],
        "cards": _cards(verdict.controlled, verdict.as_written, run.id),
        "per_expert": [
            {"reading": name, **_claim(claim)}
            for name, reading in (("controlled", verdict.controlled), ("as written", verdict.as_written))
            for claim in reading.of(run.id)
            if claim.expert is not None
        ],
        "charts": _figures(figures.evidence(run, file, judgement.runs, verdict) if draw else [], run.id),
        "registration": registration.because,
        "events": [f"{name}: {count}" for name, count in sorted(run.events.items())],
        "options": [f"{name}: {json.dumps(value)}" for name, value in options(run).items()],
        "trained": [(name, printable(run.facts[name], 200)) for name in TRAINED if run.facts.get(name) is not None],
    }


def _figures(pictures: Sequence[tuple[str, str]], owner: str) -> list[dict[str, Any]]:
    """Each under names of its own: parts of several pictures on one page would answer to the same name."""
    found = []
    for number, (title, picture) in enumerate(pictures):
        own = re.sub(r'(\bid="|url\(#)', rf"\g<1>p{number}-{owner}-", picture)
        found.append({"title": title, "svg": Markup(own)})
    return found


def _finding(several: Sequence[Finding]) -> dict[str, Any]:
    """One finding, and what was seen in each of the runs that it is about."""
    seen = [{"evidence": one.evidence, "run": one.run or ""} for one in several]
    return {**asdict(several[0]), "seen": seen[:SHOWN], "more": max(0, len(seen) - SHOWN)}


def _advice(judgement: Judgement, advice: Any) -> dict[str, Any]:
    """One advice with the command that follows it, on the options of the run that it is about."""
    run = next((run for run in judgement.runs if run.id == advice.run), None)
    config = f"{run.id}.yml" if run is not None and run.config else "experiments/prismatic.yml"
    line = f"python -m prismatic train --config {config} {advice.line}" if advice.line else ""
    return {"id": advice.id, "text": advice.text, "run": advice.run or "", "line": line}


def _grouped_registrations(registrations: Sequence[Registration]) -> list[str]:
    told = Counter(one.because for one in registrations)
    many = len(registrations) > 1
    return [f"{because} ({pluralize(count, 'run')})" if many else because for because, count in told.items()]


def _thresholds(judgement: Judgement) -> list[dict[str, str]]:
    """Each threshold, and how it stands to what the runs registered."""
    rows = []
    for name, value in asdict(judgement.verdict.thresholds).items():
        told = Counter(_registered(name, one) for one in judgement.registrations)
        many = len(judgement.registrations) > 1
        words = [f"{words} ({pluralize(count, 'run')})" if many else words for words, count in told.items()]
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
