"""Hostile questions in SQL: what they end, how long they stay and how much memory they take.

    python benchmarks/questions.py [--quick] [--json FILE]

Each question of tests/support/hostile_sql.py (files, settings, writes at any depth, endless joins, gigabytes, nesting
of 200,000, answers that are hard to send) is asked as the Runs page asks, with two seconds for each. This process
stands for the server. The seconds of a simple question, which are those of starting a process and of loading the run,
do not count. Memory is the largest resident size of a process that answered.

Exits 0 only if every goal holds. Without --quick the figures go to benchmarks/results/questions.json. `--quick` asks
every tenth question.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, Skips, arguments, conclude, judged

sys.path.insert(0, str(ROOT))

from tests.support.hostile_sql import Question, hostile_questions
from validation.files.sources import read_sources
from validation.query.database import relations_of
from validation.query.relations import Relations
from validation.query.user_sql import BadQuery, run_query

RESULTS = ROOT / "benchmarks" / "results" / "questions.json"
RUN = ROOT / "examples" / "as-is.db"
LEFT = ("/tmp/prismatic-sql", "/tmp/prismatic-sql.db", "/tmp/prismatic-sql.csv", "/tmp/prismatic-sql.parquet")
SECONDS = 2.0


@dataclass
class Report(Skips):
    """The outcome of the questions, by kind."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    start: float = 0.0
    peak: int = 0
    read: list[str] = field(default_factory=list)
    """Questions of the kinds "reach" and "change" that were answered with something of the server."""
    raised: list[str] = field(default_factory=list)
    """Questions that raised anything but BadQuery."""


def main() -> int:
    """Ask all questions, print the table, and return the exit code."""
    chosen = arguments(__doc__, "every tenth question")
    relations = relations_of(read_sources([RUN])[0])
    report = Report()
    questions = list(hostile_questions(str(RUN)))[:: 10 if chosen.quick else 1]
    report.start = statistics.median(seconds_of(relations, "SELECT 1") for _ in range(5))
    for question in questions:
        ask(relations, question, report)
    report.peak = peak_of_children()
    for kind, counts in report.outcomes.items():
        print(f"{kind:<8}" + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    print(f"start and loading: {report.start:.2f} s")
    for line in (*report.read[:10], *report.raised[:10]):
        print(f"wrong: {line}")
    figures = {name: value for name, value in vars(report).items() if name not in ("skipped", "versions")}
    target = chosen.json or (None if chosen.quick else RESULTS)
    return conclude(goals(questions, report), figures, report, quick=chosen.quick, to=target)


def seconds_of(relations: Relations, sql: str) -> float:
    """Return the seconds that a whole question takes."""
    started = time.perf_counter()
    run_query(relations, sql)
    return time.perf_counter() - started


def ask(relations: Relations, question: Question, report: Report) -> None:
    """Ask one question, and record what came of it."""
    kind, sql = question
    outcomes = report.outcomes.setdefault(kind, Counter())
    started = time.perf_counter()
    try:
        found = run_query(relations, sql, seconds=SECONDS)
        outcomes["answered"] += 1
        if kind == "change" or (kind == "reach" and shows_the_server(str(found.table.to_pylist()))):
            report.read.append(sql[:100])
    except BadQuery as error:
        outcomes[outcome_of(str(error))] += 1
    except Exception as error:
        report.raised.append(f"{sql[:100]}: {type(error).__name__}: {error}"[:300])
    report.seconds.append(time.perf_counter() - started - report.start)


def outcome_of(error: str) -> str:
    """Return the kind of a refusal."""
    words = {"took longer": "stopped in time", "memory": "out of memory", "broke the process": "ended its own process"}
    return next((outcome for part, outcome in words.items() if part in error), "refused")


def shows_the_server(answer: str) -> bool:
    """Return whether an answer contains something of this machine's files or environment."""
    return any(part in answer for part in ("root:", "PATH=", "SQLite format", str(Path.home()) + "/"))


def peak_of_children() -> int:
    """Return the largest resident size of a child, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def goals(questions: list[Question], report: Report) -> list[dict[str, Any]]:
    """Return the goals with their measured values."""
    at_most = [
        (f"of {len(questions)} questions, those that raise in the server", len(report.raised), 0),
        ("those that reach or change something", len(report.read), 0),
        ("files that they left", sum(Path(path).exists() for path in LEFT), 0),
        ("seconds of the slowest beyond its limit", max(report.seconds) - SECONDS, 1.0),
        ("MiB of the largest process", report.peak / 2**20, 1024),
    ]
    return judged([], at_most)


if __name__ == "__main__":
    sys.exit(main())
