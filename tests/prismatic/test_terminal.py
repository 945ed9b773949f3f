"""Tables and durations for a terminal, and the same words as plain lines in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from prismatic.terminal import format_duration, print_out, table

ROWS = [{"run": "a", "file": "[bold]:x: 1"}, {"run": "bcd", "file": Text("long " * 40, style="red")}]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_in_a_pipe_is_plain_aligned_lines():
    stream = io.StringIO()
    print_out(table(ROWS), stream=stream)
    assert stream.getvalue().splitlines() == ["run  file", "a    [bold]:x: 1", f"bcd  {'long ' * 40}".rstrip()]


@pytest.mark.parametrize(("wrap", "lines"), [(True, 7), (False, 3)])
def test_a_table_on_a_terminal_fits_its_width(monkeypatch, wrap: bool, lines: int):
    for name, value in {"COLUMNS": "50", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    print_out(table(ROWS, wrap=wrap), stream=stream)
    shown = stream.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert len(shown) == lines
    assert max(map(len, shown)) <= 50
    assert shown[2].startswith("bcd")
    assert shown[2].rstrip().endswith("…") != wrap


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (119, "2 min"), (3600 * 3 + 1200, "3 h 20 min")])
def test_durations_in_words(seconds: float, text: str):
    assert format_duration(seconds) == text
