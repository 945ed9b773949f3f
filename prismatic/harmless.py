"""What every hook in a training loop promises: a failure of the log is said, and costs no training run."""

from __future__ import annotations

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
        message = f"dynamics were not logged ({type(error).__name__}: {error}); training goes on."
        warnings.warn(message, RuntimeWarning, stacklevel=4)
