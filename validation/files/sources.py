"""The one way to read runs: `read_sources`, for files, folders, zip archives and sets, on this machine or in S3."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from validation.files.cache import Cache
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.files.read_sets import read_set
from validation.files.run_file import Rejected, RunFile, unique_id
from validation.files.sandbox.incremental_read import IncrementalReader
from validation.files.sandbox.zip_worker import RUN_SUFFIXES
from validation.files.set_manifest import is_set

Source = Path | str | tuple[Path, str]
FILE_SUFFIXES = (*RUN_SUFFIXES, ".zip")
"""The endings of a file that holds runs."""


def read_sources(
    sources: Iterable[Source],
    *,
    limits: ReadLimits | None = None,
    private: Collection[Path] = (),
    cache: Cache | None = None,
    growing: IncrementalReader | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[RunFile], list[Rejected]]:
    """Return the runs of all sources, each with a unique id, and the files that could not be read.

    A source is a run file, a folder or zip archive of run files, or a set by its folder or s3:// address; a path may
    come with the name to show. A run that several sources hold is read once. private, cache, growing: see `read_files`.
    progress: called with the number of files read and the number of all files.
    """
    given = list(sources)
    sets = [source for source in given if not isinstance(source, tuple) and is_set(source)]
    files = [source for source in given if source not in sets]
    limits = limits or ReadLimits()
    runs, rejected = read_files(files, limits=limits, private=private, cache=cache, growing=growing, progress=progress)
    known = {run.sha256: run for run in reversed(runs)}
    taken = {run.id for run in runs}
    for source in sets:
        found, error = read_set(source, limits)
        for run in found:
            # A set says itself what the hash of a run's file was.
            if run.sha256 not in known or not known[run.sha256].wide.equals(run.wide):
                runs.append(replace(run, id=unique_id(run.id, taken)))
                known.setdefault(run.sha256, run)
                taken.add(runs[-1].id)
        if error:
            rejected.append(Rejected(str(source), Path(str(source)), error.renamed(str(source))))
    return runs, rejected
