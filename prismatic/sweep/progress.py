"""The progress of a sweep: a live table of the running runs on a terminal, a line for each event in a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Self, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from prismatic.terminal import console, table

REFRESH_SECONDS = 1.0
HEARTBEAT_SECONDS = 300.0  # between headlines in a pipe

Row = Mapping[str, str]


class Progress:
    """Shows the progress of a sweep. As a context manager, it removes the live table at the end."""

    def __init__(self, stream: TextIO | None = None):
        self._console = console(stream)
        self.is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._last_shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def print(self, line: str) -> None:
        """Print a line that stays, above the live table."""
        self._console.print(Text(line), soft_wrap=True)
        self._last_shown = 0.0 if self.is_live else time.monotonic()

    @property
    def is_due(self) -> bool:
        """True when `show` should be called again."""
        return time.monotonic() - self._last_shown >= (REFRESH_SECONDS if self.is_live else HEARTBEAT_SECONDS)

    def show(self, headline: str, rows: Sequence[Row]) -> None:
        """Show the headline and, on a terminal, a row for each running run, as many as the window holds."""
        if not self.is_live:
            self.print(headline)
            return
        self._last_shown = time.monotonic()
        room = max(0, self._console.size.height - 3)  # besides the headline, the header and the last line
        shown = rows if len(rows) <= room else rows[: max(0, room - 1)]
        parts: list[RenderableType] = [Text(headline, no_wrap=True, overflow="ellipsis")]
        if shown:
            parts.append(table(shown, wrap=False))
        if len(shown) < len(rows):
            parts.append(Text(f"... and {len(rows) - len(shown)} more"))
        self._live.start()
        self._live.update(Group(*parts), refresh=True)
