"""Colours of charts are the same in the app and in reports."""

import tomllib
from pathlib import Path

import pytest

from validation.charts import theme

BACKGROUNDS = {"light": "#ffffff", "dark": "#171614"}
ROOT = Path(__file__).parents[3]


def test_the_colours_of_reports_are_those_of_the_app():
    pages = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]
    for colors, name in ((theme.LIGHT, "light"), (theme.DARK, "dark")):
        assert list(colors) == pages[name]["chartCategoricalColors"]
        assert len(colors) == len(theme.COLORS)


def luminance(color: str) -> float:
    """Return the relative luminance of a colour, by WCAG 2."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("name", "colors"), [("light", theme.LIGHT), ("dark", theme.DARK)])
def test_each_peer_has_a_colour_that_the_page_shows_at_three_to_one(name, colors):
    of_peers = [color for series, color in zip(theme.COLORS, colors, strict=True) if series in theme.PEERS]
    assert len({*of_peers}) == theme.MAX_PEERS
    page = luminance(BACKGROUNDS[name])
    for color in of_peers:
        low, high = sorted((luminance(color), page))
        assert (high + 0.05) / (low + 0.05) >= 3, color


def test_peers_beyond_the_eighth_begin_the_colours_again():
    assert theme.series_of("peer", 9, "whole") == theme.series_of("peer", 1, "top") == "peer 1"
    assert theme.series_of("clean", 0, "top") == "clean top"
