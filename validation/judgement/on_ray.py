"""Judging on a Ray cluster: `prismatic check --ray` reads and judges a share of the runs on each machine.

There are three rounds of tasks over shares of the runs: read the files, measure the sham runs, judge. The series stay
in the cluster's object store; only claims and facts come back. The tasks call the functions of `judge`, so the numbers
are the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import SweepError
from prismatic.ray_cluster import MAX_RETRIES, connected
from validation.analysis.controls import Cohort, Spreads, spread_of
from validation.analysis.interim import interim_look
from validation.analysis.load import load_runs
from validation.analysis.run import Expert, Run
from validation.files.cache import Cache
from validation.files.errors import NotASet, RunFileError
from validation.files.limits import ReadLimits
from validation.files.parquet_set import SetLocation, damaged_set, is_set, list_parts, read_manifest, read_part
from validation.files.read_files import find_files, has_wal, read_files
from validation.files.run_file import RUN_TABLES, Rejected, RunFile, arrow_schema, unique_id
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
    part: tuple[str, str] | None = None
    """The address of the set, and the name of the part."""


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
            return _RayJudge(ray, sources, limits or ReadLimits(), cached).judge(changed or {})
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
                self._promised[source] = read_manifest(location)
                yield from (Share(part=(source, part)) for part in list_parts(location))
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

    def judge(self, changed: Mapping[str, float]) -> Judgement:
        """Return the judgement of all runs."""
        thresholds = thresholds_of(self.runs).changed(changed)
        shams, spreads = self._shams(thresholds)
        each = self._judge_each(thresholds, shams, spreads)
        files = [placed.file for placed in self.placed_runs]
        return combine_judgements(files, self.rejected, self.runs, each, thresholds)

    def _shams(self, thresholds: Thresholds) -> tuple[dict[str, Any], Spreads]:
        """Return references to the sham runs that are controls, by id, and the spreads between all of them."""
        measure = self.ray.remote(max_retries=MAX_RETRIES)(_measure_shams)
        cohort = Cohort(self.runs, thresholds)
        wanted = {sham.id for run in self.runs for sham in cohort.shams_of(run)}
        shams: dict[str, Any] = {}
        measured: dict[str, Any] = {}
        for share, placed in self._by_share(wanted):
            places = [(member.place, member.run.id) for member in placed]
            values, *runs = measure.options(num_returns=1 + len(places)).remote(self.shares[share], places, thresholds)
            shams |= {run: reference for (_, run), reference in zip(places, runs, strict=True)}
            measured |= {run: (values, number) for number, (_, run) in enumerate(places)}
        pooled: dict[Any, list[float]] = {}
        results = {reference: self.ray.get(reference) for reference in {values for values, _ in measured.values()}}
        for run in (run.id for run in self.runs if run.id in measured):
            values, number = measured[run]
            for key, means in results[values][number].items():
                pooled.setdefault(key, []).extend(means)
        return shams, {key: spread_of(values) for key, values in pooled.items()}

    def _judge_each(self, thresholds: Thresholds, shams: Mapping[str, Any], spreads: Spreads) -> list[RunJudgement]:
        """Return the judgement of each run, in order."""
        judge = self.ray.remote(max_retries=MAX_RETRIES)(_judge)
        cohort, everywhere = Cohort(self.runs, thresholds), self.ray.put(dict(spreads))
        order = {run.id: number for number, run in enumerate(self.runs)}
        results: list[tuple[list[PlacedRun], Any]] = []
        for share, placed in self._by_share(order):
            controls = {*chain(*(_shams_compared_to(cohort, member.run) for member in placed))}
            elsewhere = sorted(controls - {member.run.id for member in placed}, key=order.__getitem__)
            places = [(member.place, member.run.id, order[member.run.id]) for member in placed]
            positions, references = [order[sham] for sham in elsewhere], [shams[sham] for sham in elsewhere]
            result = judge.remote(self.shares[share], places, thresholds, everywhere, positions, *references)
            results.append((placed, result))
        found = {
            member.run.id: judgement
            for placed, result in results
            for member, judgement in zip(placed, self.ray.get(result), strict=True)
        }
        return [found[run.id] for run in self.runs]

    def _by_share(self, wanted: Iterable[str]) -> Iterator[tuple[int, list[PlacedRun]]]:
        """Return the wanted runs by the index of their share."""
        known = set(wanted)
        found: dict[int, list[PlacedRun]] = {}
        for placed in self.placed_runs:
            if placed.run.id in known:
                found.setdefault(placed.share, []).append(placed)
        return iter(found.items())


def _shams_compared_to(cohort: Cohort, run: Run) -> Iterator[str]:
    """Yield the ids of the sham runs that control a run, for its merged and its isolated gradients."""
    for measured in (run, run.isolated):
        sham = cohort.sham_of(measured) if measured is not None else None
        if sham is not None:
            yield sham.id


def _read(share: Share, limits: ReadLimits, cached: bool) -> tuple[tuple[list[Facts], list[Rejected]], list[Run]]:
    """Read a share: return the facts of its runs with the rejected files, and the whole runs."""
    if share.part:
        files, rejected = _read_part(*share.part)
    else:
        files, rejected = read_files(share.files, limits=limits, cache=Cache() if cached else None)
    runs = load_runs(files)
    facts = [(_without_tables(file), _without_series(run)) for file, run in zip(files, runs, strict=True)]
    return (facts, rejected), runs


def _read_part(address: str, part: str) -> tuple[list[RunFile], list[Rejected]]:
    files: list[RunFile] = []
    try:
        for file in read_part(SetLocation.parse(address), part):
            files.append(file)
    except RunFileError as error:
        return files, [Rejected(address, Path(address), error)]
    return files, []


def _measure_shams(runs: list[Run], places: Sequence[tuple[int, str]], thresholds: Thresholds) -> Any:
    """Return the values that each sham run adds to the spreads, followed by each sham run."""
    shams = [_with_id(runs[place], run) for place, run in places]
    judged = [interim_look(run, thresholds).run for run in shams]
    values = [Cohort([run], thresholds).spread_values(run) for run in judged]
    return (values, *shams)


def _judge(
    runs: list[Run],
    places: Sequence[tuple[int, str, int]],
    thresholds: Thresholds,
    spreads: Spreads,
    positions: Sequence[int],
    *shams: Run,
) -> list[RunJudgement]:
    """Return the judgements of the runs at these places. positions: of the sham runs among all runs."""
    judged = {number: _with_id(runs[place], run) for place, run, number in places}
    company = judged | dict(zip(positions, shams, strict=True))
    in_order = [company[number] for number in sorted(company)]
    return judge_each([*judged.values()], thresholds, company=in_order, spreads=spreads)


def _with_id(run: Run, unique: str) -> Run:
    if run.id == unique:
        return run
    return replace(run, id=unique, isolated=replace(run.isolated, id=unique) if run.isolated is not None else None)


def _without_series(run: Run) -> Run:
    experts = {number: Expert(number, expert.role, {}) for number, expert in run.experts.items()}
    isolated = _without_series(run.isolated) if run.isolated is not None else None
    return replace(run, experts=experts, layers=(), isolated=isolated, step_columns={})


def _without_tables(file: RunFile) -> RunFile:
    # All files share the same empty tables, which are then sent once. A slice would be sent with its whole table.
    return replace(file, wide=_empty(file.wide.schema), **{table: _empty(arrow_schema(table)) for table in RUN_TABLES})


@cache
def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()
