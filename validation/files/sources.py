"""Whatever runs are kept in, in; runs out: run files, folders and archives of them, and sets, here or in a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from validation.files.cache import Cache
from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.parquet_set import is_set, read_set
from validation.files.read_files import read_files
from validation.files.run_file import Rejected, RunFile, own_id

Source = Path | str | tuple[Path, str]


def read_sources(
    sources: Iterable[Source],
    *,
    limits: ReadLimits | None = None,
    private: Collection[Path] = (),
    cache: Cache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[RunFile], list[Rejected]]:
    """Runs of all sources, each under an id of its own, and what could not be read with the reason.

    A source is a run file, a folder or zip archive of run files, or a set by its folder or s3:// address; a path may
    come with the name to show. A run that several sources hold is read once. private: see `read_files`.
    """
    given = list(sources)
    sets = [source for source in given if not isinstance(source, tuple) and is_set(source)]
    files = [source if isinstance(source, tuple) else Path(source) for source in given if source not in sets]
    runs, rejected = read_files(files, limits=limits, private=private, cache=cache, progress=progress)
    known = {run.sha256 for run in runs}
    taken = {run.run for run in runs}
    for source in sets:
        try:
            for run in read_set(source):
                if run.sha256 not in known:
                    runs.append(replace(run, run=own_id(run.run, taken)))
                    known.add(run.sha256)
                    taken.add(runs[-1].run)
        except RunFileError as error:
            rejected.append(Rejected(str(source), Path(str(source)), error))
    return runs, rejected
