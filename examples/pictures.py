"""Draw the small picture of each example that the first page shows: `python -m examples.pictures`, in seconds.

A run is drawn as the bottom-tier gradient norm of each expert over the steps, on a logarithmic axis: blue the clean
expert, red the perturbed ones, grey the controls. The study is drawn as a forest plot of its seeds and scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from validation import judge, read_sources
from validation.analysis.run import Run
from validation.charts.theme import GREY
from validation.frames.comparison.forest import HEADING, POOLED, Forest, forest, in_order
from validation.judgement.judge import Judgement

HERE = Path(__file__).parent
WIDTH, HEIGHT, PAD = 240, 72, 4
STUDY_WIDTH, STUDY_HEIGHT = 500, 69  # as high as the others on its card, which is more than twice as wide
POINTS = 30  # of a line
COLORS = {"clean": "#2f7fe0", "perturbed": "#e0534f", "control": GREY}  # 3:1 on a light and on a dark page
ESTIMATE = "#3f7fe0"


def main() -> None:
    """Draw every example."""
    for path in [*sorted(HERE.glob("*.db")), HERE / "study"]:
        (HERE / f"{path.stem}.svg").write_text(picture(judge(*read_sources([path]))))


def picture(judgement: Judgement) -> str:
    """Return the picture of a run, or of a study, as SVG that fits a light and a dark page."""
    several = len(judgement.runs) > 1
    width, height = (STUDY_WIDTH, STUDY_HEIGHT) if several else (WIDTH, HEIGHT)
    shapes = _study(judgement) if several else _run(judgement.runs[0])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    return "\n".join([head, *shapes, "</svg>\n"])


def _run(run: Run) -> Iterator[str]:
    """Yield a line for each expert; norms of zero lie on the bottom of the picture."""
    lines = {e: _downsampled(expert["bottom_norm"]) for e, expert in run.experts.items()}
    known = np.concatenate([line[line > 0] for line in lines.values()])
    low, high = (np.log(known.min()), np.log(known.max())) if len(known) else (0.0, 1.0)
    for e, line in sorted(lines.items(), key=lambda pair: run.experts[pair[0]].role):
        share = np.where(line > 0, (np.log(np.maximum(line, 1e-300)) - low) / max(high - low, 1e-9), 0.0)
        yield _polyline(share, COLORS[run.experts[e].role])


def _downsampled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([part.mean() for part in np.array_split(values, min(POINTS, len(values)))])


def _polyline(share: NDArray[np.float64], color: str) -> str:
    x = np.linspace(PAD, WIDTH - PAD, len(share))
    y = HEIGHT - PAD - share * (HEIGHT - 2 * PAD)
    points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.4" stroke-linejoin="round"/>'


def _study(judgement: Judgement) -> Iterator[str]:
    """Yield the forest plot of awakening: the margin, a dot for each seed, and a diamond for each group."""
    plot = forest(judgement, in_order(judgement.verdict.groups), "awakening", "bottom")
    limit = _x(plot, plot.margin)
    yield f'<rect x="0" y="0" width="{limit:.1f}" height="{STUDY_HEIGHT}" fill="{GREY}" opacity="0.16"/>'
    yield _rule(limit, 'stroke-dasharray="3 2"')
    yield _rule(_x(plot, 0.0))
    rows = plot.rows[plot.rows["kind"] != HEADING]
    step = (STUDY_HEIGHT - 2 * PAD) / max(len(rows) - 1, 1)
    for place, row in enumerate(rows.to_dict("records")):
        y = PAD + place * step
        color = GREY if row["role"] == "sham" else ESTIMATE
        x, low, high = (_x(plot, float(row[name])) for name in ("value", "low", "high"))
        if row["kind"] == POOLED:
            corners = f"{low:.1f},{y:.1f} {x:.1f},{y - 3.2:.1f} {high:.1f},{y:.1f} {x:.1f},{y + 3.2:.1f}"
            yield f'<polygon points="{corners}" fill="{color}"/>'
        else:
            yield f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{color}" stroke-width="0.7" opacity="0.6"/>'
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5" fill="{color}"/>'


def _x(plot: Forest, value: float) -> float:
    return PAD + (value + plot.edge) / (2 * plot.edge) * (STUDY_WIDTH - 2 * PAD)


def _rule(x: float, dash: str = "") -> str:
    return f'<path d="M{x:.1f} 0V{STUDY_HEIGHT}" stroke="{GREY}" stroke-width="0.8" {dash}/>'


if __name__ == "__main__":
    main()
