"""Treatment: what was done to the experts of one layer before training, as `perturb` and `upcycle` record it.

It lies beside the layer's weights as a plain attribute: a copy of the model takes it along, and `state_dict`,
`named_modules` and checkpoints do not know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prismatic.experts.found import FoundExperts
from prismatic.experts.tiers import TierIndices

RECORDED = "_prismatic_treatment"  # attribute of a layer's module

Option = bool | int | float | str


@dataclass(frozen=True, eq=False)
class Treatment:
    """The changes made to the experts of one layer. Sequences have an entry for each expert."""

    roles: tuple[str, ...]
    seeds: tuple[int | None, ...]
    scales: tuple[float | None, ...]
    """The largest change of a weight, as a share of its magnitude; None where the change is not of that kind."""
    changed: tuple[Mapping[str, float], ...]
    """By tier, the share of its weights that changed."""
    tiers: tuple[TierIndices, ...]
    """Of the weights before the change: one object for experts that began as copies. Empty for peers."""
    options: Mapping[str, Option]
    """The options of the experiment, which every layer has alike."""

    @property
    def began_as_copies(self) -> bool:
        """True if all experts had the same weights before the change."""
        return all(tiers is self.tiers[0] for tiers in self.tiers)


def record(router: Any, treatment: Treatment) -> None:
    """Record what was done to a layer's experts, whose roles it then knows."""
    vars(_module(router))[RECORDED] = treatment
    if isinstance(router, FoundExperts):
        router.roles = treatment.roles


def treatment_of(router: Any) -> Treatment | None:
    """Return what was done to a layer's experts; None if nothing was recorded."""
    treatment: Treatment | None = vars(_module(router)).get(RECORDED)
    return treatment


def base_tiers(treatment: Treatment, expert: int, device: torch.device) -> TierIndices:
    """Return the tiers of an expert's weights before the change, on the device where its weights are now."""
    tiers = treatment.tiers[expert]
    own = next(tiers.buffers(), None)
    return tiers if own is None or own.device == device else tiers.to(device)


def _module(router: Any) -> nn.Module:
    module: nn.Module = router.module if isinstance(router, FoundExperts) else router
    return module
