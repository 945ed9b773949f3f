"""The memory of a server that runs for weeks: what closed sessions have freed goes back to the system.

The C library gives each thread an arena of its own, and the pages of a visitor run in a thread of their own: after
twenty visitors there are dozens of arenas, each with a few bytes in use. Arrow's allocator keeps a gigabyte of
addresses in the same way. So few arenas serve all threads, and Arrow takes its memory from them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

ARENAS = 2
ARENA_MAX = -8  # of mallopt
ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"


def limit_arenas() -> None:
    """Have few arenas serve all threads, and Arrow use them, too. Call it before threads start and Arrow is loaded."""
    os.environ.setdefault(ARROW_POOL, "system")
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(ARENA_MAX, ARENAS)


def return_memory() -> None:
    """Return to the system what was freed: cycles, and what Arrow's pool and the C library keep."""
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
