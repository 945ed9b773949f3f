"""How far a sweep is: a table that is drawn anew where a person is looking, a line for each event where none is."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

EVERY_SECONDS = 1.0
HEARTBEAT_SECONDS = 300.0  # between lines that say no more than how far it is

Row = Mapping[str, str]


class Progress:
    """What is shown while runs are trained."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self.live = self._stream.isatty()
        self._drawn = 0
        self._last = 0.0

    def say(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(line, file=self._stream, flush=True)
        self._last = 0.0 if self.live else time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to show again how far it is."""
        return time.monotonic() - self._last >= (EVERY_SECONDS if self.live else HEARTBEAT_SECONDS)

    def show(self, headline: str, rows: Sequence[Row]) -> None:
        """The headline, and where it can be drawn anew a row for each run that is being trained."""
        self._clear()
        self._last = time.monotonic()
        if not self.live:
            print(headline, file=self._stream, flush=True)
            return
        width, height = shutil.get_terminal_size()
        lines = [headline, *table(rows)]
        if len(lines) > height - 1:
            lines = [*lines[: height - 2], f"... and {len(lines) - height + 2} more"]
        print("\n".join(line[: width - 1] for line in lines), file=self._stream, flush=True)
        self._drawn = len(lines)

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[J")  # up so many lines, and away with what is below
            self._drawn = 0


def table(rows: Sequence[Row]) -> list[str]:
    """Rows under their column names, aligned; nothing where there is no row."""
    if not rows:
        return []
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def lasting(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
