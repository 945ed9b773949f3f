"""Grey pictures of what an empty page would show, drawn here as SVG; they suit both themes."""

from __future__ import annotations

import math
from collections.abc import Callable

import streamlit as st

GREY = "#8a919b"
WIDTH, HEIGHT = 640, 200


def placeholder(page: str) -> None:
    """Show a picture of what this page shows for a run."""
    draw, words = PICTURES[page]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" fill="{GREY}" stroke="{GREY}" '
        f'stroke-width="3" stroke-linecap="round" opacity="0.5">{draw()}</svg>'
    )
    st.image(svg, width=WIDTH, alt=f"Placeholder: {words}")


def _curves() -> str:
    """Return four falling lines, as of gradient norms over the steps."""
    lines = []
    for number in range(4):
        points = (
            (x, 24 + 30 * number + 55 * (1 - math.exp(-x / 90)) + 7 * math.sin(x / (9 + 3 * number) + number))
            for x in range(30, WIDTH - 20, 6)
        )
        path = " ".join(f"{x},{y:.0f}" for x, y in points)
        lines.append(f'<polyline points="{path}" fill="none" {_dashed(number % 2 == 1)}/>')
    return _axes() + "".join(lines)


def _intervals() -> str:
    """Return three intervals beside a dashed threshold."""
    rows = ((90, 300, 420), (150, 190, 330), (50, 250, 400))
    bars = [_interval(45 + 55 * place, *row) for place, row in enumerate(rows)]
    return f'<path d="M300 15 V185" {_dashed(True)}/>' + "".join(bars)


def _forest() -> str:
    """Return a forest plot: an interval for each seed, and the pooled one below."""
    rows = ((210, 330, 450), (250, 350, 470), (190, 300, 420), (260, 390, 500), (240, 340, 430))
    bars = [_interval(25 + 28 * place, *row) for place, row in enumerate(rows)]
    pooled = '<path d="M280 172 L342 162 L404 172 L342 182 Z"/>'
    return f'<rect x="240" y="8" width="60" height="184" stroke="none" opacity="0.3"/>{"".join(bars)}{pooled}'


def _interval(y: int, low: int, mid: int, high: int) -> str:
    return f'<path d="M{low} {y} H{high}"/><circle cx="{mid}" cy="{y}" r="6"/>'


def _cells() -> str:
    """Return a heatmap of layers and experts."""
    return "".join(
        f'<rect x="{40 + 56 * column}" y="{10 + 36 * row}" width="52" height="32" stroke="none" '
        f'opacity="{0.25 + 0.7 * abs(math.sin(1.7 * column + 2.3 * row)):.2f}"/>'
        for column in range(10)
        for row in range(5)
    )


def _list() -> str:
    """Return a list of checks."""
    lines = [(30 + 36 * row, 320 - 40 * (row % 3)) for row in range(5)]
    return "".join(f'<circle cx="44" cy="{y}" r="9" fill="none"/><path d="M72 {y} h{width}"/>' for y, width in lines)


def _table() -> str:
    """Return a table with a head."""
    lines = "".join(f'<path d="M30 {20 + 32 * row} H610" opacity="{1 if row < 2 else 0.4}"/>' for row in range(6))
    return lines + "".join(
        f'<path d="M{50 + 145 * column} {36 + 32 * row} h{90 - 20 * ((row + column) % 3)}" opacity="0.7"/>'
        for column in range(4)
        for row in range(5)
    )


def _axes() -> str:
    return '<path d="M20 10 V190 H625" fill="none" opacity="0.6"/>'


def _dashed(yes: bool) -> str:
    return 'stroke-dasharray="9 8"' if yes else ""


PICTURES: dict[str, tuple[Callable[[], str], str]] = {
    "Dynamics": (_curves, "lines of gradient norms over the steps"),
    "Verdict": (_intervals, "intervals of three claims beside their thresholds"),
    "Layers": (_cells, "a heatmap of layers and experts"),
    "Compare": (_forest, "an interval for each seed and for all together"),
    "Diagnostics": (_list, "a list of checks with their results"),
    "Runs": (_table, "a table of what a file records"),
}
