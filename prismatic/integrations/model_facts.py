"""The facts about a model in a run file: router options, experts, tiers, precision, and DDP or FSDP2."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prismatic.collectives import world
from prismatic.contract.schema import TIERS
from prismatic.experts.discovery import find_routers
from prismatic.experts.protocol import mixture_of, num_experts, roles_of, tiers_of, views_of
from prismatic.experts.tiers import is_sharded
from prismatic.experts.views import count
from prismatic.layer.router import Prismatic


def options_of(routers: list[Any]) -> dict[str, Any]:
    """Return the routers' options as facts for the verdict: scale, merge, seed, positive control."""
    config = next((router.config for router in routers if isinstance(router, Prismatic)), None)
    known = {} if config is None else config.model_dump(mode="json", exclude={"thresholds"})  # registered separately
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

    Beside a Prismatic layer, whose own seed says what was perturbed, it is that of the data alone.
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
    if not isinstance(widest, Prismatic):
        return [{"expert": expert, "role": role} for expert, role in enumerate(roles_of(widest))]
    rows = []
    for expert, role in enumerate(widest.roles):
        layers = [router for router in routers if isinstance(router, Prismatic) and expert < len(router.roles)]
        changed = [router.changed_EK[expert].tolist() for router in layers]
        means = {f"changed_{tier}": sum(c[k] for c in changed) / len(changed) for k, tier in enumerate(TIERS)}
        seed = widest.config.seed if expert else None
        rows.append({"expert": expert, "role": role, "seed": seed, "scale": widest.scale_of(expert), **means})
    return rows


def tier_rows(layer: int, router: Any) -> list[dict[str, Any]]:
    """Return rows of the `tiers` table for one layer."""
    tiers = tiers_of(router)
    sizes, hashes = tiers.sizes(count(views_of(router, 0))), tiers.hashes()
    return [{"layer": layer, "tier": tier, "weights": sizes[tier], "hash": hashes.get(tier)} for tier in TIERS]
