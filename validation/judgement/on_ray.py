"""Judging on a Ray cluster: `prismatic check --ray` reads and judges a share of the runs on each machine.

There are two rounds of tasks over shares of the runs: read the files, then measure each run. The rows stay in the
cluster's object store; only levels and facts come back. The tasks call the functions of `judge`, so the numbers are the
same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import SweepError
from prismatic.ray_cluster import MAX_RETRIES, connected
from validation.analysis.load import load_runs
from validation.analysis.run import Run
from validation.files.cache import Cache
from validation.files.errors import NotASet, RunFileError
from validation.files.limits import ReadLimits
from validation.files.read_files import find_files, has_wal, read_files
from validation.files.read_sets import read_parts
from validation.files.run_file import RUN_TABLES, Rejected, RunFile, arrow_schema, unique_id
from validation.files.set_manifest import Part, SetLocation, damaged_set, is_set, read_manifest
from validation.judgement.judge import Judgement, RunJudgement, combine_judgements, judge_each
from validation.verdict.registration import thresholds_of

FILES_PER_SHARE = 20
ROOT = Path(__file__).parents[2]
INHERITED = ("PRISMATIC_CACHE",)  # environment variables that the tasks need
Facts = tuple[RunFile, Run]
"""A run file without its tables, and its run without the series."""


@dataclass(frozen=True)
class Share:
    """Runs that one task reads: some files, or a part of a set."""

    files: tuple[Path, ...] = ()
    part: tuple[str, Part] | None = None
    """The address of the set, and the part."""


@dataclass(frozen=True)
class PlacedRun:
    """The place of a run: the index of its share, its index there, and its file and run under a unique id."""

    share: int
    place: int
    file: RunFile
    run: Run


def check(
    sources: Sequence[str],
    address: str,
    *,
    limits: ReadLimits | None = None,
    cached: bool = True,
    changed: Mapping[str, float] | None = None,
    claim: str | None = None,
) -> Judgement:
    """Return the judgement of the runs of these sources, computed on the Ray cluster at the address, or a `local` one.

    Its runs have no series and its files no tables. Every machine must reach the sources: a shared folder, or an object
    store. Raises SweepError if Ray is not installed, cannot be reached or loses the work; ConfigError as `judge`.
    """
    known = os.environ.get("PYTHONPATH")
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])])}
    environment |= {name: os.environ[name] for name in INHERITED if name in os.environ}
    with connected(address, environment) as ray:
        try:
            return _RayJudge(ray, sources, limits or ReadLimits(), cached).judge(changed or {}, claim)
        except ray.exceptions.RayError as error:
            raise SweepError(f"Ray could not finish: {str(error).strip().splitlines()[-1]}") from error


class _RayJudge:
    """The runs of one `check`, placed on a cluster. Creating it reads the sources."""

    def __init__(self, ray: Any, sources: Sequence[str], limits: ReadLimits, cached: bool):
        self.ray = ray
        self._promised: dict[str, int] = {}
        self._not_sets: dict[str, RunFileError] = {}
        shares = [*self._files(sources), *self._parts(sources)]
        read = ray.remote(num_returns=2, max_retries=MAX_RETRIES)(_read)
        results = [read.remote(share, limits, cached) for share in shares]
        self.shares = [runs for _, runs in results]
        self.rejected: list[Rejected] = []
        self.placed_runs = list(self._placed_runs(shares, [facts for facts, _ in results]))
        self.runs = [placed.run for placed in self.placed_runs]
        self.rejected += [
            Rejected(name, Path(name), self._not_sets[name]) for name in sources if name in self._not_sets
        ]

    def _files(self, sources: Sequence[str]) -> Iterator[Share]:
        files = (file.path for file in find_files([source for source in sources if not is_set(source)]))
        while batch := tuple(islice(files, FILES_PER_SHARE)):
            yield Share(files=batch)

    def _parts(self, sources: Sequence[str]) -> Iterator[Share]:
        for source in filter(is_set, sources):
            try:
                location = SetLocation.parse(source)
                manifest = read_manifest(location)
                self._promised[source] = manifest.runs
                yield from (Share(part=(source, part)) for part in manifest.parts)
            except NotASet as error:
                self._not_sets[source] = error

    def _placed_runs(self, shares: Sequence[Share], results: Sequence[Any]) -> Iterator[PlacedRun]:
        """Yield each run once, under a unique id, in the order of `read_sources`. results: references of `_read`."""
        known: dict[str, RunFile] = {}
        taken: set[str] = set()
        found = Counter[str]()
        for number, (share, reference) in enumerate(zip(shares, results, strict=True)):
            facts: list[Facts]
            facts, rejected = self.ray.get(reference)
            source = share.part[0] if share.part else ""
            if source in self._not_sets:  # a set is read up to its first damage
                continue
            found[source] += len(facts)
            if not source:
                self.rejected += rejected
            elif rejected:
                self._not_sets[source] = rejected[0].error
            for place, (file, run) in enumerate(facts):
                same = known.get(file.sha256)
                if same is not None and (source or not (has_wal(file.path) or has_wal(same.path))):
                    continue
                unique = unique_id(run.id, taken)
                known.setdefault(file.sha256, file)
                taken.add(unique)
                yield PlacedRun(number, place, replace(file, id=unique), _with_id(run, unique))
        for source, promised in self._promised.items():
            if found[source] != promised and source not in self._not_sets:
                problem = f"expected {promised} runs, found {found[source]}"
                self._not_sets[source] = damaged_set(SetLocation.parse(source), problem)

    def judge(self, changed: Mapping[str, float], claim: str | None = None) -> Judgement:
        """Return the judgement of all runs."""
        thresholds = thresholds_of(self.runs).changed(changed)
        measure = self.ray.remote(max_retries=MAX_RETRIES)(_judge)
        results = [
            (placed, measure.remote(self.shares[share], [(each.place, each.run.id) for each in placed], thresholds))
            for share, placed in self._by_share()
        ]
        found = {
            each.run.id: judgement
            for placed, result in results
            for each, judgement in zip(placed, self.ray.get(result), strict=True)
        }
        files = [placed.file for placed in self.placed_runs]
        return combine_judgements(files, self.rejected, [found[run.id] for run in self.runs], thresholds, claim)

    def _by_share(self) -> Iterator[tuple[int, list[PlacedRun]]]:
        """Return the runs by the index of their share."""
        found: dict[int, list[PlacedRun]] = {}
        for placed in self.placed_runs:
            found.setdefault(placed.share, []).append(placed)
        return iter(found.items())


def _read(share: Share, limits: ReadLimits, cached: bool) -> tuple[tuple[list[Facts], list[Rejected]], list[Run]]:
    """Read a share: return the facts of its runs with the rejected files, and the whole runs."""
    if share.part:
        address, part = share.part
        files, error = read_parts(SetLocation.parse(address), [part], limits)
        rejected = [Rejected(address, Path(address), error.renamed(address))] if error else []
    else:
        files, rejected = read_files(share.files, limits=limits, cache=Cache() if cached else None)
    runs = load_runs(files)
    facts = [(_without_tables(file), run.without_rows()) for file, run in zip(files, runs, strict=True)]
    return (facts, rejected), runs


def _judge(runs: list[Run], places: Sequence[tuple[int, str]], thresholds: Thresholds) -> list[RunJudgement]:
    """Return what the runs at these places show by themselves, without their rows."""
    each = judge_each([_with_id(runs[place], run) for place, run in places], thresholds)
    return [replace(one, measured=one.measured.without_rows()) for one in each]


def _with_id(run: Run, unique: str) -> Run:
    if run.id == unique:
        return run
    return replace(run, id=unique, isolated=replace(run.isolated, id=unique) if run.isolated is not None else None)


def _without_tables(file: RunFile) -> RunFile:
    # All files share the same empty tables, which are then sent once. A slice would be sent with its whole table.
    return replace(file, wide=_empty(file.wide.schema), **{table: _empty(arrow_schema(table)) for table in RUN_TABLES})


@cache
def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()
