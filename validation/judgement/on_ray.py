"""Runs judged on a Ray cluster: each machine reads and judges its share, and what comes back is what is said of runs.

Three rounds of tasks, each over shares of the runs: read them; look at the sham runs, which others are compared to;
judge. The runs themselves stay in the cluster's object store, where they were read. Nothing is decided here that
`judge` does not decide: the same functions are called with the same runs, so that the numbers are the same.
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

FILES_AT_ONCE = 20  # of one share
ROOT = Path(__file__).parents[2]
INHERITED = ("PRISMATIC_CACHE",)
About = tuple[RunFile, Run]
"""A run file without its tables, and the run without its series: what a run says of itself."""


@dataclass(frozen=True)
class Share:
    """Runs that are read together: some files, or a part of a set."""

    files: tuple[Path, ...] = ()
    part: tuple[str, str] | None = None
    """The set's address, and the name of the part."""


@dataclass(frozen=True)
class PlacedRun:
    """Where a run is: in which share, at which place, and under which id of its own."""

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
    """What `judge` says of the runs of these sources, worked out on the cluster at the address, or a `local` one.

    Its runs and files are without series and tables. Every machine must reach the sources: a folder that all see, or an
    object store. Raises SweepError where Ray is not installed, cannot be reached or loses the work; ConfigError as
    `judge`.
    """
    known = os.environ.get("PYTHONPATH")
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])])}
    environment |= {name: os.environ[name] for name in INHERITED if name in os.environ}
    with connected(address, environment) as ray:
        try:
            return _Check(ray, sources, limits or ReadLimits(), cached).judge(changed or {})
        except ray.exceptions.RayError as error:
            raise SweepError(f"Ray could not finish: {str(error).strip().splitlines()[-1]}") from error


class _Check:
    def __init__(self, ray: Any, sources: Sequence[str], limits: ReadLimits, cached: bool):
        self.ray = ray
        self._promised: dict[str, int] = {}
        self._no_sets: dict[str, RunFileError] = {}
        shares = [*self._files(sources), *self._parts(sources)]
        read = ray.remote(num_returns=2, max_retries=MAX_RETRIES)(_read)
        told = [read.remote(share, limits, cached) for share in shares]
        self.shares = [runs for _, runs in told]
        self.rejected: list[Rejected] = []
        self.placed_runs = list(self._placed_runs(shares, [about for about, _ in told]))
        self.runs = [member.run for member in self.placed_runs]
        self.rejected += [Rejected(one, Path(one), self._no_sets[one]) for one in sources if one in self._no_sets]

    def _files(self, sources: Sequence[str]) -> Iterator[Share]:
        files = (file.path for file in find_files([one for one in sources if not is_set(one)]))
        while some := tuple(islice(files, FILES_AT_ONCE)):
            yield Share(files=some)

    def _parts(self, sources: Sequence[str]) -> Iterator[Share]:
        for source in filter(is_set, sources):
            try:
                place = SetLocation.parse(source)
                self._promised[source] = read_manifest(place)
                yield from (Share(part=(source, part)) for part in list_parts(place))
            except NotASet as error:
                self._no_sets[source] = error

    def _placed_runs(self, shares: Sequence[Share], told: Sequence[Any]) -> Iterator[PlacedRun]:
        """Each run once, under an id of its own, as `read_sources` gives them."""
        known: dict[str, RunFile] = {}
        taken: set[str] = set()
        found = Counter[str]()
        for number, (share, reference) in enumerate(zip(shares, told, strict=True)):
            abouts, rejected = self.ray.get(reference)
            source = share.part[0] if share.part else ""
            if source in self._no_sets:  # whatever comes after the first damage of a set is not read
                continue
            found[source] += len(abouts)
            if not source:
                self.rejected += rejected
            elif rejected:
                self._no_sets[source] = rejected[0].error
            for place, (file, run) in enumerate(abouts):
                twin = known.get(file.sha256)
                if twin is not None and (source or not (has_wal(file.path) or has_wal(twin.path))):
                    continue
                own = unique_id(run.id, taken)
                known.setdefault(file.sha256, file)
                taken.add(own)
                yield PlacedRun(number, place, replace(file, id=own), _named(run, own))
        for source, promised in self._promised.items():
            if found[source] != promised and source not in self._no_sets:
                problem = f"expected {promised} runs, found {found[source]}"
                self._no_sets[source] = damaged_set(SetLocation.parse(source), problem)

    def judge(self, changed: Mapping[str, float]) -> Judgement:
        thresholds = thresholds_of(self.runs).changed(changed)
        shams, spreads = self._shams(thresholds)
        singles = self._singles(thresholds, shams, spreads)
        return combine_judgements(
            [member.file for member in self.placed_runs], self.rejected, self.runs, singles, thresholds
        )

    def _shams(self, thresholds: Thresholds) -> tuple[dict[str, Any], Spreads]:
        """The sham runs that others are compared to, by id, as references; and the spreads between all of them."""
        look = self.ray.remote(max_retries=MAX_RETRIES)(_look)
        selection = Cohort(self.runs, thresholds)
        wanted = {sham.id for run in self.runs for sham in selection.shams_of(run)}
        found: dict[str, Any] = {}
        shown: dict[str, Any] = {}
        for share, members in self._by_share(wanted):
            places = [(member.place, member.run.id) for member in members]
            told, *runs = look.options(num_returns=1 + len(places)).remote(self.shares[share], places, thresholds)
            found |= {run: reference for (_, run), reference in zip(places, runs, strict=True)}
            shown |= {run: (told, number) for number, (_, run) in enumerate(places)}
        values: dict[Any, list[float]] = {}
        answers = {reference: self.ray.get(reference) for reference in {told for told, _ in shown.values()}}
        for run in (run.id for run in self.runs if run.id in shown):
            told, number = shown[run]
            for key, some in answers[told][number].items():
                values.setdefault(key, []).extend(some)
        return found, {key: spread_of(some) for key, some in values.items()}

    def _singles(self, thresholds: Thresholds, shams: Mapping[str, Any], spreads: Spreads) -> list[RunJudgement]:
        """Every run judged, in the order of the selection."""
        judge = self.ray.remote(max_retries=MAX_RETRIES)(_judge)
        selection, everywhere = Cohort(self.runs, thresholds), self.ray.put(dict(spreads))
        order = {run.id: number for number, run in enumerate(self.runs)}
        answers: list[tuple[list[PlacedRun], Any]] = []
        for share, members in self._by_share(order):
            compared_to = {*chain(*(_twins(selection, member.run) for member in members))}
            twins = sorted(compared_to - {member.run.id for member in members}, key=order.__getitem__)
            places = [(member.place, member.run.id, order[member.run.id]) for member in members]
            references = [shams[twin] for twin in twins]
            beside = [order[twin] for twin in twins]
            answer = judge.remote(self.shares[share], places, thresholds, everywhere, beside, *references)
            answers.append((members, answer))
        found = {
            member.run.id: single
            for members, answer in answers
            for member, single in zip(members, self.ray.get(answer), strict=True)
        }
        return [found[run.id] for run in self.runs]

    def _by_share(self, wanted: Iterable[str]) -> Iterator[tuple[int, list[PlacedRun]]]:
        """The shares that hold any of these runs, with those."""
        known = set(wanted)
        found: dict[int, list[PlacedRun]] = {}
        for member in self.placed_runs:
            if member.run.id in known:
                found.setdefault(member.share, []).append(member)
        return iter(found.items())


def _twins(selection: Cohort, run: Run) -> Iterator[str]:
    """The sham runs that a run is compared to: by its merged gradients, and by those measured alone."""
    for seen in (run, run.isolated):
        twin = selection.sham_of(seen) if seen is not None else None
        if twin is not None:
            yield twin.id


def _read(share: Share, limits: ReadLimits, cached: bool) -> tuple[tuple[list[About], list[Rejected]], list[Run]]:
    """What the runs of a share say of themselves, what of it is no run; and the runs."""
    if share.part:
        files, rejected = _read_part(*share.part)
    else:
        files, rejected = read_files(share.files, limits=limits, cache=Cache() if cached else None)
    runs = load_runs(files)
    return (
        [(_without_tables(file), _without_series(run)) for file, run in zip(files, runs, strict=True)],
        rejected,
    ), runs


def _read_part(address: str, part: str) -> tuple[list[RunFile], list[Rejected]]:
    files: list[RunFile] = []
    try:
        for file in read_part(SetLocation.parse(address), part):
            files.append(file)
    except RunFileError as error:
        return files, [Rejected(address, Path(address), error)]
    return files, []


def _look(runs: list[Run], places: Sequence[tuple[int, str]], thresholds: Thresholds) -> Any:
    """What each sham run adds to the spreads; and each sham run by itself, for those that are compared to it."""
    own = [_named(runs[place], run) for place, run in places]
    looks = [interim_look(run, thresholds).run for run in own]
    shown = [Cohort([look], thresholds).spread_values(look) for look in looks]
    return (shown, *own)


def _judge(
    runs: list[Run],
    places: Sequence[tuple[int, str, int]],
    thresholds: Thresholds,
    spreads: Spreads,
    beside: Sequence[int],
    *shams: Run,
) -> list[RunJudgement]:
    """The runs at these places, judged. beside: where in the selection the sham runs are that come with them."""
    own = {number: _named(runs[place], run) for place, run, number in places}
    company = own | dict(zip(beside, shams, strict=True))
    return judge_each(
        [*own.values()], thresholds, company=[company[number] for number in sorted(company)], spreads=spreads
    )


def _named(run: Run, name: str) -> Run:
    """The same run under the id that it has in the selection."""
    if run.id == name:
        return run
    return replace(run, id=name, isolated=replace(run.isolated, id=name) if run.isolated is not None else None)


def _without_series(run: Run) -> Run:
    experts = {number: Expert(number, expert.role, {}) for number, expert in run.experts.items()}
    isolated = _without_series(run.isolated) if run.isolated is not None else None
    return replace(run, experts=experts, layers=(), isolated=isolated, step_columns={})


def _without_tables(file: RunFile) -> RunFile:
    # The same empty tables for all, which then travel once; and no slice, which travels with all that it is a slice of.
    return replace(file, wide=_empty(file.wide.schema), **{table: _empty(arrow_schema(table)) for table in RUN_TABLES})


@cache
def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()
