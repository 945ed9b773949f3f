"""Canonical names and orientations of an expert's tensors, so that noise does not depend on how a model stores them.

One matrix is `w1`, `gate_proj.weight` or a part of `gate_up_proj`, and some models store it transposed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from prismatic.experts.tiers import Tiers

PARTS = {
    "gate": ("gate", "gate_proj", "w1", "wi_0"),
    "up": ("up", "up_proj", "w3", "v1", "wi_1"),
    "down": ("down", "down_proj", "w2", "wo"),
}
_CANONICAL = {name: part for part, names in PARTS.items() for name in names}
_KIND = re.compile(r"(?P<name>.+?)(?:[._](?P<kind>weight|bias))?")


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Return the canonical name of each tensor of an expert; its own where two would have the same."""
    found = {name: canonical_name(name) for name in names}
    counts = Counter(found.values())
    return {name: own if counts[own] == 1 else name for name, own in found.items()}


def canonical_name(name: str) -> str:
    """Return one name for a tensor that models call differently, such as "gate" for "mlp.w1.weight"; else its own."""
    match = _KIND.fullmatch(name)
    assert match is not None, "any name matches"
    last = match["name"].rpartition(".")[2]
    own = _CANONICAL.get(last, match["name"])
    return f"{own}.bias" if match["kind"] == "bias" else own


def is_turned(weight: Tensor) -> bool:
    """Return whether the canonical matrix is the transposed one: its longer side comes first.

    A square matrix stays as it is stored.
    """
    return weight.dim() == 2 and weight.shape[0] < weight.shape[1]


def turned(weight: Tensor) -> Tensor:
    """Return a tensor in its canonical orientation, or one in that orientation as it is stored: a view."""
    return weight.T


def turned_tiers(tiers: Tiers, shape: torch.Size) -> Tiers:
    """Return the tiers of a matrix of this shape as tiers of the transposed one."""
    rows, columns = shape
    return Tiers(*((indices % columns * rows + indices // columns).sort().values for indices in tiers))
