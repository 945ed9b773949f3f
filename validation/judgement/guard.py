"""The guard around each run: an error of this program on one run becomes its finding, and the others are judged.

A judgement or an output that raises is made again, with the runs emptied that make it raise alone. The error is also a
warning, CaughtError, which nobody sees unless asked for: tests turn it into an error, so the guard hides no mistake.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from prismatic.errors import PrismaticError
from validation.files.errors import RunFileError
from validation.files.run_file import RUN_TABLES, RunFile, empty_table
from validation.text import printable

T = TypeVar("T")


class CaughtError(Warning):
    """An error of this program on one run, which the guard has turned into a finding."""


warnings.simplefilter("ignore", CaughtError, append=True)


def each_guarded(
    make: Callable[[Sequence[RunFile]], T], files: Sequence[RunFile], *, meant: tuple[type[Exception], ...] = ()
) -> T:
    """Return make(files); if it raises, make it without the contents of each file that makes it raise alone.

    Raises PrismaticError, RunFileError and what is `meant`, and an error that no file causes alone.
    """
    raised: tuple[type[Exception], ...] = (PrismaticError, RunFileError, MemoryError, *meant)
    try:
        return make(files)
    except raised:
        raise
    except Exception as error:
        report(error)
        failures = [_failure(make, file) for file in files]
        if not any(failures):
            raise
        pairs = zip(files, failures, strict=True)
        return make([without_contents(file, failure) if failure else file for file, failure in pairs])


def report(error: Exception) -> str:
    """Warn of a caught error and return it in words."""
    words = f"{type(error).__name__}: {printable(error, 200)}"
    warnings.warn(CaughtError(words), stacklevel=2)
    return words


def without_contents(file: RunFile, failure: str) -> RunFile:
    """Return the file with its name alone, and the reason why nothing else of it can be used."""
    empty = {table: empty_table(table) for table in RUN_TABLES}
    return replace(file, wide=file.wide.slice(0, 0).select(["step"]), facts={}, failure=failure, **empty)


def _failure(make: Callable[[Sequence[RunFile]], object], file: RunFile) -> str:
    """Return the error that the file alone causes, in words; an empty text if there is none."""
    try:
        make([file])
    except Exception as error:
        return f"{type(error).__name__}: {printable(error, 200)}"
    return ""
