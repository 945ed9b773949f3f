"""Power of the verdict per effect size: awakenings of 1.1x to 3x, rotations of 0.05 to 0.5, and decays, by seeds.

    python benchmarks/power.py [--quick] [--json FILE] [--jobs N] [--picture]

Draws experiments of known effects (simulated.py) with 6 to 20 seeds, several spreads between seeds (sd of a run's
effect), with and without twins, and counts the statuses of the claims. Twins share as much with their runs as in real
trainings: effects of bottom correlate 0.5, of direction 0.8.

Exits 0 only if more seeds never make a true effect harder to support. Without --quick the table goes to
benchmarks/results/power.json, and the picture of it to docs/power-light.png; `--picture` draws the last table again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import altair as alt
import numpy as np
from common import ROOT, Skips, conclude, judged, options

sys.path.insert(0, str(ROOT))

from simulated import Design, constant, kept, levels_of_group

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort
from validation.analysis.effects import BOTTOM, DIRECTION
from validation.analysis.experiment import measure
from validation.charts.theme import GROUP_DASHES
from validation.verdict.claims import REFUTED, SUPPORTED
from validation.verdict.rules import DECIDE

RESULTS = ROOT / "benchmarks" / "results" / "power.json"
PICTURE = ROOT / "docs" / "power-light.png"
RULES = Thresholds()
FACTORS = (1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0)
ROTATIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
DECAYING = 2.0  # factor of the awakening at the beginning
SEEDS, SPREADS = (6, 8, 10, 20), (0.07, 0.15, 0.3)
EXPERIMENTS, QUICK = 400, 20
TRUE = (1.2, 1.5)  # awakenings whose power must not fall with seeds
TWINS, ALONE = "with twins", "without twins"


def cell(work: tuple[str, int, int, float, bool, int]) -> list[dict[str, Any]]:
    """Return the rows of one cell: how often each status was said of an awakening and a rotation, or of a decay."""
    kind, place, seeds, sd, twins, experiments = work
    dice = np.random.default_rng([*kind.encode(), place, seeds, round(100 * sd), twins])
    if kind == "decay":
        sizes = {"sustainment": SHARES[place]}
        effects = {BOTTOM: kept(float(np.log(DECAYING)), SHARES[place])}
    else:
        sizes = {"awakening": FACTORS[place], "divergence": ROTATIONS[place]}
        effects = {BOTTOM: constant(float(np.log(FACTORS[place]))), DIRECTION: constant(ROTATIONS[place])}
    design = Design(seeds, perturbed=3, controls=3, sd=sd, twins=twins, effects=effects)
    said: Counter[tuple[str, str]] = Counter()
    for _ in range(experiments):
        runs, others = levels_of_group(design, dice)
        m = measure(runs, Cohort([*runs, *others]), RULES, {})
        said.update((claim, DECIDE[claim](m).status) for claim in sizes)
    return [
        {
            "claim": claim,
            "size": size,
            "seeds": seeds,
            "sd": sd,
            "twins": TWINS if twins else ALONE,
            **{status: said[claim, status] / experiments for status in (SUPPORTED, REFUTED)},
        }
        for claim, size in sizes.items()
    ]


def measured(experiments: int, jobs: int | None) -> list[dict[str, Any]]:
    """Return the rows of every cell."""
    places = [("effect", place) for place in range(len(FACTORS))] + [("decay", place) for place in range(len(SHARES))]
    work = [
        (kind, place, seeds, sd, twins, experiments)
        for (kind, place), seeds, sd, twins in product(places, SEEDS[::-1], SPREADS, (False, True))
    ]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return [row for rows in pool.imap_unordered(cell, work) for row in rows]


def goals(rows: Sequence[Mapping[str, Any]], experiments: int) -> list[dict[str, Any]]:
    """Return the goals: power never falls with seeds, beyond what chance does to a share."""
    at_most = []
    for size, twins in product(TRUE, (ALONE, TWINS)):
        falls = []
        for sd in SPREADS:
            of_seeds = [_row(rows, "awakening", size, seeds, sd, twins)[SUPPORTED] for seeds in (6, 10, 20)]
            falls += [few - many for few, many in pairwise(of_seeds)]
        at_most.append((f"largest fall of power with seeds at {size:g}x, {twins}", max(falls), 0.6 / experiments**0.5))
    return judged([], at_most)


def _row(
    rows: Sequence[Mapping[str, Any]], claim: str, size: float, seeds: int, sd: float, twins: str
) -> Mapping[str, Any]:
    wanted = (claim, size, seeds, sd, twins)
    return next(row for row in rows if tuple(row[key] for key in ("claim", "size", "seeds", "sd", "twins")) == wanted)


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table: for each claim, spread and size, the power by seeds."""
    lines = [f"{'claim':<12}{'twins':<15}{'sd':>5}{'size':>6}" + "".join(f"{seeds:>9} seeds" for seeds in SEEDS)]
    for claim, sizes in (("awakening", FACTORS), ("divergence", ROTATIONS), ("sustainment", SHARES)):
        for twins, sd, size in product((ALONE, TWINS), SPREADS, sizes):
            found = [_row(rows, claim, size, seeds, sd, twins) for seeds in SEEDS]
            shares = "".join(f"{row[SUPPORTED]:>8.0%} {row[REFUTED]:>6.0%}" for row in found)
            lines.append(f"{claim:<12}{twins:<15}{sd:>5}{size:>6}{shares}")
    return "\n".join([*lines, "each: supported, refuted"])


def draw(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the picture as PNG: power over the size of an effect, a line for each number of seeds."""
    import vl_convert  # loads a JavaScript engine

    from validation.report.figures import CONFIG

    charts = [
        _chart(rows, "awakening", SUPPORTED, "true gain of the bottom tier", "awakening supported"),
        _chart(rows, "divergence", SUPPORTED, "true rotation, 1 - cosine", "divergence supported"),
        _chart(rows, "sustainment", REFUTED, "share kept of an awakening of 2x", "collapse found"),
    ]
    spec = {**alt.vconcat(*charts).to_dict(), "background": "white"}
    return bytes(vl_convert.vegalite_to_png(spec, scale=2, config=CONFIG, allowed_base_urls=[]))


def _chart(rows: Sequence[Mapping[str, Any]], claim: str, status: str, size: str, title: str) -> alt.FacetChart:
    shown = [
        {
            "size": row["size"],
            "share": row[status],
            "seeds": f"{row['seeds']} seeds",
            "design": f"sd {row['sd']:g}, {row['twins']}",
        }
        for row in sorted(rows, key=lambda row: (row["twins"], row["sd"], row["seeds"]))
        if row["claim"] == claim and row["sd"] != SPREADS[-1]
    ]
    seeds = [f"{number} seeds" for number in SEEDS]
    designs = list(dict.fromkeys(row["design"] for row in shown))
    dashes = alt.Scale(domain=seeds, range=[list(dash) for dash in GROUP_DASHES[: len(seeds)]])
    lines = (
        alt.Chart(alt.Data(values=shown))
        .mark_line(point=True)
        .encode(
            x=alt.X("size:Q", title=size, scale=alt.Scale(zero=False)),
            y=alt.Y("share:Q", title=title, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("seeds:N", title=None, sort=seeds),
            strokeDash=alt.StrokeDash("seeds:N", title=None, sort=seeds, scale=dashes),
        )
        .properties(width=170, height=150)
    )
    return lines.facet(column=alt.Column("design:N", title=None, sort=designs))


def main() -> int:
    """Draw experiments and print; return 0 if every goal holds."""
    parser = options(__doc__, "few experiments, no picture")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes")
    parser.add_argument("--picture", action="store_true", help="draw the last table again")
    chosen = parser.parse_args()
    if chosen.picture:
        PICTURE.write_bytes(draw(json.loads(RESULTS.read_text())["power"]))
        return 0
    experiments, started = QUICK if chosen.quick else EXPERIMENTS, time.perf_counter()
    rows = measured(experiments, chosen.jobs)
    print(as_text(rows))
    if not chosen.quick:
        PICTURE.write_bytes(draw(rows))
    figures = {"seconds": round(time.perf_counter() - started), "experiments": experiments, "power": rows}
    to = chosen.json or (None if chosen.quick else RESULTS)
    return conclude(goals(rows, experiments), figures, Skips(), quick=chosen.quick, to=to)


if __name__ == "__main__":
    sys.exit(main())
