"""Colours of charts are the same in the app and in reports."""

import tomllib
from pathlib import Path

from validation.charts import theme

ROOT = Path(__file__).parents[3]


def test_the_colours_of_reports_are_those_of_the_app():
    pages = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]
    for colors, name in ((theme.LIGHT, "light"), (theme.DARK, "dark")):
        assert list(colors) == pages[name]["chartCategoricalColors"]
        assert len(colors) == len(theme.COLORS)
