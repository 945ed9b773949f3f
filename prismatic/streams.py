"""The standard streams of a command: closed ones discard, and each character can be written.

They are replaced while a command runs, because the error of a write does not say which file it was about.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from prismatic.errors import OutputClosed, OutputError


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replace the standard streams by safe ones: standard output raises OutputError, standard error never fails."""
    # Also standard input: the lowest free file descriptor would else become that of a file.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the whole program
    output, errors = _Output(_usable(sys.stdout)), _Stream(_usable(sys.stderr))
    module: Any = sys  # which is typed for files
    module.stdout, module.stderr = output, errors
    try:
        yield
    finally:
        sys.stdout, sys.stderr = output.stream, errors.stream


def _usable(stream: TextIO | None) -> TextIO:
    """Return the stream, with an escape for characters that it lacks; one that discards if the caller has closed it."""
    if stream is None:
        return _discarding()
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _discarding() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


class _Stream:
    """A text stream that goes on without its file if that cannot be written: also when Python flushes it at exit."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._failures():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._failures():
            self.stream.flush()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.stream = _discarding()
            self.report(error)

    def report(self, error: OSError) -> None:
        """Do nothing: without standard error there is nobody to tell."""


class _Output(_Stream):
    """Standard output, whose failures end the command."""

    def report(self, error: OSError) -> None:
        """Raise an OutputError."""
        if isinstance(error, BrokenPipeError):
            raise OutputClosed("the reader of the output has closed it") from error
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"the output cannot be written ({reason}). Make room or send it elsewhere, and run the command again."
        ) from error
