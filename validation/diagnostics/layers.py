"""Checks of table `layers`: experts and values that one source of gradients lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Expert, Run
from validation.diagnostics.finding import ERROR, WARNING, Finding, sources

EXCEPTIONS = 0.01  # of the rows
NORMS = (*(f"{tier}_norm" for tier in TIERS), "norm")
OPTIONAL = ("bottom_to_middle", "direction", "half_product", "half_product_clean")
"""Columns that count if most rows have a value; the other rows then do not."""
OF_OTHERS = ("direction", "half_product_clean")  # comparisons with expert 0, which has none of them


def incomplete_layers(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find experts that a layer has, and that one source of gradients lacks in it."""
    for source in sources(run):
        if evidence := _absent_experts(run, source):
            yield Finding(
                "incomplete_layers",
                ERROR,
                "experts are missing in a layer",
                evidence,
                "rows of the file were removed, or the logger did not write them",
                "judge the whole file of the training, as the logger wrote it",
                run.id,
            )


def _absent_experts(run: Run, source: Run) -> str:
    for number, layer in enumerate(source.layers):
        # Layers of other trainers may have different numbers of experts.
        known: Mapping[int, Expert] = run.layers[number] if number < len(run.layers) else {}
        absent = sorted({*(run.experts if run.reproducible else known)} - {*layer})
        if absent:
            return f"layer {number} has no {source.source} rows of expert {', '.join(map(str, absent[:20]))}"
    return ""


def missing_values(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find columns of a layer that have a value in some rows and none in others; see `nonfinite` for merged norms.

    Where an expert has no gradient there is no ratio and no direction either, which `zero_tier` finds.
    """
    for source in sources(run):
        rows, name, number, layer = max(_holes(source, of_norms=source is not run), default=(0, "", 0, 0))
        if rows > EXCEPTIONS * len(source.steps):
            yield Finding(
                "missing_values",
                WARNING,
                f"column {name} has no value in some rows, which the verdict skips",
                f"of expert {number} in layer {layer}: {rows} of {len(source.steps)} {source.source} rows",
                "the gradient overflowed, or values were removed",
                "look at these steps in the file; lower the learning rate or clip with max_grad_norm",
                run.id,
                number or None,
            )


def _holes(source: Run, *, of_norms: bool) -> Iterator[tuple[int, str, int, int]]:
    """Yield the rows without a value, the column, the expert and the layer, for columns that have a value elsewhere."""
    for layer, place in enumerate(source.layers):
        alive_T = np.all([expert["norm"] > 0 for expert in place.values()], axis=0)
        for number, expert in place.items():
            for name in (*NORMS, *OPTIONAL) if of_norms else OPTIONAL:
                there_T = np.isfinite(expert[name])
                if there_T.all() or not there_T.any():
                    continue
                empty_T = ~there_T if name in NORMS else ~there_T & alive_T
                if number or name not in OF_OTHERS:
                    yield int(empty_T.sum()), name, number, layer
