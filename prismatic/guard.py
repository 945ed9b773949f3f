"""What every hook in a training loop promises: a failure of the log is said, and costs no training run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def harmless(*but: type[Exception]) -> Iterator[None]:
    """What fails while logging is said, and training goes on; `but` is raised all the same."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        say(f"dynamics were not logged ({type(error).__name__}: {error}); training goes on.", stacklevel=5)


def say(message: str, *, stacklevel: int = 4) -> None:
    """A warning; where warnings are errors, a line on stderr, since it must not end a training."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)
    except RuntimeWarning:
        print(f"warning: {message}", file=sys.stderr)
