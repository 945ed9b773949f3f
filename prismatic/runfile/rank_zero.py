"""The only writer among several processes: rank_zero_logger(), and the NullLogger of the other processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from prismatic.collectives import world
from prismatic.runfile.logger import DynamicsLogger


def rank_zero_logger(logger: DynamicsLogger | Path | str, *, mirror: object = None, **options: Any) -> DynamicsLogger:
    """Return a DynamicsLogger in the process of rank 0 and a NullLogger in the others. A collective.

    logger: the path of the run file, or an open logger, which is returned. Raises LoggerError in all processes if the
    file cannot be written, and ConfigError for a mirror that is not a tracker.
    """
    processes = world()
    kind = NullLogger if processes.rank else DynamicsLogger

    def open_logger() -> DynamicsLogger:
        if not isinstance(logger, DynamicsLogger):
            return kind(logger, mirror=mirror, **options)
        if mirror is not None:
            logger.mirror_to(mirror)
        return logger

    return processes.all_or_raise(open_logger)


class NullLogger(DynamicsLogger):
    """Has the interface of a DynamicsLogger and writes nothing."""

    def __init__(self, db_path: Path | str, num_experts: int = 0, **_: Any):
        self.db_path = Path(db_path)

    @property
    def last_step(self) -> int | None:
        """None: nothing is logged in this process."""
        return None

    def mirror_to(self, tracker: object) -> None:
        """Do nothing."""

    @property
    def dropped(self) -> int:
        """Zero: nothing is logged in this process, so nothing is lost."""
        return 0

    def log(self, step: int, dynamics: Mapping[str, Any] | None, **metrics: SupportsFloat) -> None:
        """Do nothing."""

    def flush(self) -> bool:
        """Return True: nothing waits."""
        return True

    def close(self) -> None:
        """Do nothing."""

    def _accepts_records(self) -> bool:
        return False
