"""The tools: check, gate, query and plan, as functions of plain values that return plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prismatic.contract.power import SPREADS
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from validation.agents.results import rows_of, shortened
from validation.agents.root import Root
from validation.files.cache import Cache
from validation.files.run_file import Rejected, RunFile
from validation.files.set_manifest import is_set
from validation.files.sources import read_sources
from validation.judgement.gate.decision import gate
from validation.judgement.judge import judge, without_failing_runs
from validation.judgement.planning import plan_seeds, spread_of
from validation.query.database import relations_of
from validation.query.set_database import relations_of_sets
from validation.query.user_sql import run_query
from validation.report.gate_report import as_gate_json
from validation.report.json_report import as_json

SECONDS = 30.0  # of a query


class Tools:
    """The questions that an agent may ask about the runs in a folder. Nothing is written but the cache of read runs."""

    def __init__(self, folder: Path, *, cached: bool = True) -> None:
        """Raises RefusedPathError if there is no such folder."""
        self.root = Root(folder)
        self._cached = cached

    def check(self, runs: Sequence[str], claim: str | None = None) -> dict[str, Any]:
        """Return the verdict on runs, as `check --json` prints it, without what is about single runs."""
        judgement = judge(*self._read(runs), claim=claim)
        return without_failing_runs(judgement, lambda shown: shortened(as_json(shown)))

    def gate(self, runs: Sequence[str], claim: str) -> dict[str, Any]:
        """Return if a claim is to be kept, as `gate --json` prints it."""
        judgement = judge(*self._read(runs), claim=claim)
        return without_failing_runs(judgement, lambda shown: shortened(as_gate_json(gate(shown, claim), shown)))

    def query(self, sql: str, runs: Sequence[str], rows: int = 100) -> dict[str, Any]:
        """Return the rows of one SELECT, which a confined process answers."""
        sources, skipped = self.root.sources(runs), list[Rejected]()
        if all(map(is_set, sources)):
            relations = relations_of_sets(sources)
        else:
            files, skipped = self._read(runs)
            relations = relations_of(files)
        found = run_query(relations, sql, rows=rows, seconds=SECONDS)
        return rows_of(found.table, [*found.notes(), *(f"skipped: {rejected.error}" for rejected in skipped)])

    def plan(
        self,
        effect: str,
        true_effect: float,
        *,
        spread: float | None = None,
        runs: Sequence[str] = (),
        seeds: int = 6,
    ) -> dict[str, Any]:
        """Return how many seeds decide an effect. spread: over seeds; by default that of the runs, or usual ones.

        Raises ConfigError for a spread that is given twice or unknown.
        """
        thresholds, source = Thresholds(), "usual"
        spreads: Sequence[float] = SPREADS
        if spread is not None and runs:
            raise ConfigError("spread and runs are both given; name one of them.")
        if spread is not None:
            spreads, source = (spread,), "given"
        if runs:
            judgement = judge(*self._read(runs))
            known = spread_of(judgement, effect)
            if known is None:
                raise ConfigError(f"these runs do not show how {effect} varies: three seeds of one experiment do.")
            thresholds, spreads, source = judgement.verdict.thresholds, (known,), "runs"
        plan = plan_seeds(effect, true_effect, spreads=spreads, seeds=seeds, thresholds=thresholds)
        return {**asdict(plan), "spread_from": source}

    def _read(self, runs: Sequence[str]) -> tuple[list[RunFile], list[Rejected]]:
        return read_sources(self.root.sources(runs), cache=Cache() if self._cached else None)
