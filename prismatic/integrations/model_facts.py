"""The facts about a model in a run file: router options, experts, tiers, precision, and DDP or FSDP2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from prismatic.collectives import world
from prismatic.contract.schema import TIERS
from prismatic.experts.discovery import find_routers
from prismatic.experts.protocol import mixture_of, num_experts, roles_of, tiers_of, views_of
from prismatic.experts.tiers import is_sharded
from prismatic.experts.treatment import treatment_of
from prismatic.experts.views import count
from prismatic.layer.router import Prismatic


def options_of(routers: list[Any]) -> dict[str, Any]:
    """Return the routers' options as facts for the verdict: scale, merge, seed, positive control; how upcycled."""
    config = next((router.config for router in routers if isinstance(router, Prismatic)), None)
    treatment = next(filter(None, map(treatment_of, routers)), None)
    known = dict(treatment.options) if treatment is not None else {}
    known |= {} if config is None else config.model_dump(mode="json", exclude={"thresholds"})  # registered separately
    return {f"config.{name}": value for name, value in known.items()}


def facts_of(routers: list[Any]) -> dict[str, Any]:
    """Return the facts about a model's layers of experts."""
    # Constant or very small tensors have no tiers: all of their weights are middle.
    tiers = [tiers_of(router) for router in routers]
    untiered = sum(not len(each[name].bottom) for each in tiers for name in each.names)
    mixture = mixture_of(routers)
    known = {"routers": len(routers), "tensors_without_tiers": untiered, **({"mixture": mixture} if mixture else {})}
    return known | options_of(routers)


def framework_seed(model: nn.Module, seed: int | None) -> dict[str, int]:
    """Return the seed that a framework knows, as an option.

    Beside a Prismatic layer, or a model that was perturbed or upcycled, whose own seed says what was changed, it is
    that of the data alone.
    """
    if seed is None:
        return {}
    return {"data_seed" if "config.seed" in options_of(find_routers(model)) else "seed": seed}


def parallel_of(model: nn.Module) -> str | None:
    """Return the kind of parallel training: "fsdp2", "ddp", or None for one process."""
    if any(map(is_sharded, model.parameters())):
        return "fsdp2"
    return "ddp" if world().size > 1 else None


def weight_dtype(model: nn.Module) -> str:
    """Return the precision of a training without autocast: that of the weights, such as "float32"."""
    return str(next((weight.dtype for weight in model.parameters()), torch.float32)).removeprefix("torch.")


def expert_rows(routers: list[Any]) -> list[dict[str, Any]]:
    """Return rows of the `experts` table: changed shares are means over layers; a custom layer has roles only."""
    widest = max(routers, key=num_experts)
    known, rows = _changes_of(widest), []
    made = [found for router in routers if (found := _changes_of(router)) is not None]
    for expert, role in enumerate(roles_of(widest)):
        row = {"expert": expert, "role": role}
        if known is not None:
            changed = [each.changed[expert] for each in made if expert < len(each.changed)]
            means = {f"changed_{tier}": sum(shares[tier] for shares in changed) / len(changed) for tier in TIERS}
            row |= {"seed": known.seeds[expert], "scale": known.scales[expert], **means}
        rows.append(row)
    return rows


class _Changes(NamedTuple):
    """The treatment of the experts of a layer, by expert."""

    seeds: Sequence[int | None]
    scales: Sequence[float | None]
    changed: Sequence[Mapping[str, float]]


def _changes_of(router: Any) -> _Changes | None:
    """Return what a Prismatic layer did to its experts, or what was recorded; None for any other layer."""
    if isinstance(router, Prismatic):
        experts = range(len(router.roles))
        changed = [dict(zip(TIERS, shares, strict=True)) for shares in router.changed_EK.tolist()]
        seeds = [router.config.seed if expert else None for expert in experts]
        return _Changes(seeds, [router.scale_of(expert) for expert in experts], changed)
    found = treatment_of(router)
    return None if found is None else _Changes(found.seeds, found.scales, found.changed)


def tier_rows(layer: int, router: Any) -> list[dict[str, Any]]:
    """Return rows of the `tiers` table for one layer."""
    tiers = tiers_of(router)
    sizes, hashes = tiers.sizes(count(views_of(router, 0))), tiers.hashes()
    return [{"layer": layer, "tier": tier, "weights": sizes[tier], "hash": hashes.get(tier)} for tier in TIERS]
