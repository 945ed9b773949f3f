"""Colours, dashes and sizes of every chart: clean expert blue, perturbed experts red, control expert grey, others.

The app takes the colours of experts and groups from `.streamlit/config.toml`, in the order of COLORS. Reports take them
from LIGHT and DARK, because an installed package lacks that file. Change both; a test compares them.
"""

from __future__ import annotations

PARTS = ("middle", "bottom", "top", "whole")
MAX_PEERS = 8  # peers with a colour each; those of more repeat
PEERS = [f"peer {place}" for place in range(MAX_PEERS)]
SERIES = [*(f"{role} {part}" for role in ("clean", "perturbed", "control") for part in PARTS), *PEERS]
MAX_GROUPS = 6  # groups of runs with a colour each, and the most that one plot can show
GROUPS = [f"group {place}" for place in range(MAX_GROUPS)]
COLORS = [*SERIES, *GROUPS]
"""Domain of the colour scale of experts and groups. The colours themselves come from the page or from the report."""

LIGHT = (
    *("#2c3d6c", "#064ca0", "#0266d6", "#40709a"),  # clean expert
    *("#6f2120", "#b04d54", "#fb605d", "#83400a"),  # perturbed experts
    *("#4a4f57", "#6b727c", "#8a919b", "#5a6069"),  # control expert
    *("#3393ed", "#ee5a1c", "#12a085", "#6b1208", "#7d3cf0", "#046379", "#b3261c", "#1c1690"),  # peers
    *("#0072b2", "#c2500a", "#00795c", "#a8408a", "#7a6200", "#3a3a3a"),  # groups of runs
)
DARK = (
    *("#3e7cd4", "#159bf7", "#7ebde4", "#5997bc"),  # clean expert
    *("#c74150", "#eb5a26", "#f99da0", "#f38651"),  # perturbed experts
    *("#7d848e", "#9aa1ab", "#bcc2ca", "#8b929c"),  # control expert
    *("#4f9ff0", "#f07c45", "#35d6c4", "#f5dc6b", "#8450f5", "#d9589f", "#8f7a2a", "#d4e4ff"),  # peers
    *("#56b4e9", "#f0923c", "#2fbf92", "#e08cc4", "#d8c84e", "#d0d0d0"),  # groups of runs
)
REPORT_RAMP = ("#dce8f5", "#93bfe6", "#4f8fd0", "#1f5fae", "#0b3c7d")  # cells of a heatmap, pale is none
TEXT, GRID = "#31333f", "#d5d8de"  # of a report on a light page
DARK_TEXT, DARK_GRID = "#e2e4e9", "#3a3f49"

# The same on a light and on a dark page.
GREY = "#737b87"  # lines at no difference and at thresholds, faint dots; 3:1 against both backgrounds
BAD = "#c2500a"  # the fault that a finding reports; 3:1 against both backgrounds
ESTIMATE = "#3266c2"  # the mean and the interval of a claim; 4.5:1 against both backgrounds
STATUSES = {
    "supported": "#1b7f4d",
    "refuted": "#c93a32",
    "inconclusive": "#687587",
    "confounded": "#b45309",
    "invalid": "#7c3aed",
    "self_test": "#1d6fd1",
}
"""The colour of each status; 3:1 against both backgrounds."""
POSITIVE_CONTROL = "#0f8a7d"  # runs whose effect was put in by hand; 3:1 against both backgrounds
TAG, ON_TAG = "#5a6069", "#ffffff"  # the name of a threshold, read across lines
DIVERGING, RAMP = "diverging", "ramp"  # names of the page's colours for cells of a heatmap

SOLID = [1, 0]
THRESHOLD_DASH, ZERO_DASH, FIT_DASH = [5, 4], [4, 4], [6, 4]
EXPERT_DASHES = (SOLID, [6, 3], [2, 2], [8, 2, 2, 2], [10, 4], [1, 3])
GROUP_DASHES = (SOLID, [8, 3], [2, 2], [8, 2, 2, 2], [12, 4], [4, 4])

# Heights in pixels.
LINES_HEIGHT, STACKED_HEIGHT, SMALL_HEIGHT = 480, 150, 310
OVERVIEW_HEIGHT, EVIDENCE_HEIGHT, FINDING_HEIGHT, BULLET_HEIGHT = 150, 310, 210, 120
CELL_HEIGHT, HISTOGRAM_HEIGHT, ABLATION_HEIGHT = 290, 270, 240
GROUP_HEIGHT, DOSE_HEIGHT = 300, 340
REPORT_SIZE = (440, 240)  # width and height
REPORT_LINES_WIDTH = 330  # of lines with labels beside them


def series_of(role: str, expert: int, part: str) -> str:
    """Return the name in SERIES of a line, for its colour: of its role and part, or of a peer."""
    return PEERS[expert % MAX_PEERS] if role == "peer" else f"{role} {part}"


def dark_colors() -> dict[str, str]:
    """Return the colour on a dark page by the colour of a report's picture on a light page."""
    return {**dict(zip(LIGHT, DARK, strict=True)), TEXT: DARK_TEXT, GRID: DARK_GRID}
