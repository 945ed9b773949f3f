"""Text for a terminal: colours and aligned tables for people, the same words as plain lines for a pipe."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 10_000  # columns: a line in a pipe is never wrapped


def console(stream: TextIO | None = None) -> Console:
    """Return a console for a stream, standard output by default.

    Text is data: markup, emoji codes and words that look like numbers are printed as they are.
    """
    stream = stream or sys.stdout
    return Console(
        file=stream, markup=False, emoji=False, highlight=False, width=None if stream.isatty() else PIPE_WIDTH
    )


def table(rows: Sequence[Mapping[str, object]], *, wrap: bool = True, whole: Sequence[str] = ()) -> Table:
    """Return rows under their column names. Cells that are `Text` keep their style.

    wrap: break long cells into several lines where the terminal is narrow; otherwise cut them with an ellipsis.
    whole: names of columns, such as those of numbers, whose cells stay whole while others can be broken.
    """
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for name in rows[0] if rows else ():
        cells = [_cell(cell, wrap) for cell in (name, *(row[name] for row in rows))]
        # A column of a given width, and not one that may not wrap: that would be cropped where all are too wide.
        width = max(cell.cell_len for cell in cells) if name in whole else None
        drawn.add_column(cells[0], overflow="fold" if wrap else "ellipsis", width=width)
    for row in rows:
        drawn.add_row(*(_cell(cell, wrap) for cell in row.values()))
    return drawn


def _cell(content: object, wrap: bool) -> Text:
    text = content.copy() if isinstance(content, Text) else Text(str(content))
    if not wrap:
        # Set here and not for the column: rich shortens the widest columns first only if they may wrap.
        text.no_wrap, text.overflow = True, "ellipsis"
    return text


def plain_text(*renderables: RenderableType) -> str:
    """Return the text that a pipe gets: no colours, no wrapping, no spaces at the end of a line."""
    stream = io.StringIO()
    Console(file=stream, markup=False, emoji=False, highlight=False, width=PIPE_WIDTH, no_color=True).print(
        *renderables, sep="\n"
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def print_out(*renderables: RenderableType, stream: TextIO | None = None) -> None:
    """Print to a stream, standard output by default: colours on a terminal, plain lines in a pipe."""
    stream = stream or sys.stdout
    if stream.isatty():
        console(stream).print(*renderables, sep="\n")
    else:
        print(plain_text(*renderables), file=stream, flush=True)


def format_duration(seconds: float) -> str:
    """Return a duration in words, such as 40 s, 12 min or 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
