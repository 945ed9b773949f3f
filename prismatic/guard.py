"""Logging never stops a training: a failure while logging becomes a warning, and training goes on."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def log_failures(*reraise: type[Exception]) -> Iterator[None]:
    """Turn any exception in the block into a warning, except those of the types in `reraise`."""
    try:
        yield
    except reraise:
        raise
    except Exception as error:
        warn(f"dynamics were not logged ({type(error).__name__}: {error}); training goes on.", stacklevel=5)


def warn(message: str, *, stacklevel: int = 4) -> None:
    """Issue a warning, or print it to stderr where warnings are errors: a log must not end a training."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)
    except RuntimeWarning:
        print(f"warning: {message}", file=sys.stderr)
