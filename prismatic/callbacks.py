"""When to log: after backward, before the optimizer's step, every `log_freq` steps, and at the first and the last."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prismatic.dynamics import aggregate, find_routers, has_gradients, layer_rows, measure, with_weights
from prismatic.errors import ConfigError
from prismatic.logger import DynamicsLogger
from prismatic.probe import Loss, isolated_dynamics
from prismatic.router import Prismatic
from prismatic.schema import TIERS


class DynamicsLoggerCallback:
    """Logs the gradient dynamics of a model's Prismatic routers into a run file while it trains.

    Call `on_train_begin(model)` once, `on_before_optimizer_step(model, step)` in every step, `on_train_end()` at last.
    logger: a DynamicsLogger, or the path of the run file. last_step: logged whatever log_freq says.
    probe_freq: every so many steps also measure each expert alone (needs `probe` in the call); 0 is never.
    weight_freq: every so many steps also compare the experts' weights; 0 is never. Both only in steps that are logged.
    Raises ConfigError for a log_freq below 1.
    """

    def __init__(
        self,
        logger: DynamicsLogger | Path | str,
        *,
        log_freq: int = 10,
        probe_freq: int = 0,
        weight_freq: int = 100,
        last_step: int | None = None,
    ):
        if log_freq < 1:
            raise ConfigError(f"log_freq = {log_freq!r} is not allowed; log every 1 or more steps.")
        self.logger = logger if isinstance(logger, DynamicsLogger) else DynamicsLogger(logger)
        self.log_freq = log_freq
        self.probe_freq = probe_freq
        self.weight_freq = weight_freq
        self.last_step = last_step

    def on_train_begin(self, model: nn.Module, **facts: Any) -> None:
        """Record what the model's experts and tiers are, and any facts about the run. Warns if there is no router."""
        routers = find_routers(model)
        self.logger.log_run({"routers": len(routers), "log_freq": self.log_freq, "clip_state": "before", **facts})
        if not routers:
            message = "no Prismatic router in this model, so there is nothing to log; set router_type: prismatic."
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            self.logger.event("no_router", message, level="warning")
            return
        self.logger._ensure_schema(max(len(router.roles) for router in routers))
        self.logger.log_table("experts", _expert_rows(routers))
        self.logger.log_table(
            "tiers", (row for layer, router in enumerate(routers) for row in _tier_rows(layer, router))
        )

    def on_before_optimizer_step(
        self, model: nn.Module, step: int, *, probe: tuple[Loss, Tensor] | None = None, **metrics: float
    ) -> None:
        """Log this step if it is due: call it after backward and before the optimizer's step. Never raises.

        probe: the training loss as a function of a batch, and the batch, for the isolated probe.
        metrics: further scalars of the step, such as loss and learning_rate.
        """
        if not self._due(step, self.log_freq):
            return
        try:
            self.logger.log(step, self._measured(model, step, probe), **metrics)
        except Exception as error:  # a broken measurement must never cost a training run
            message = f"{type(error).__name__}: {error}"
            self.logger.event("measurement_failed", message, level="error", step=step)
            warnings.warn(f"step {step} was not logged ({message}); training goes on.", RuntimeWarning, stacklevel=2)

    def _due(self, step: int, every: int) -> bool:
        return bool(every) and (step % every == 0 or step == self.last_step)

    def _measured(self, model: nn.Module, step: int, probe: tuple[Loss, Tensor] | None) -> dict[str, Any] | None:
        routers = find_routers(model)
        if not routers:
            return None
        if not has_gradients(routers):
            message = "no expert has a gradient; log after backward()"
            self.logger.event("no_gradients", message, level="warning", step=step)
            return None
        layers = measure(routers)
        if self._due(step, self.weight_freq):
            layers = with_weights(layers, routers)
        dynamics = aggregate(layers)
        if probe is not None and self._due(step, self.probe_freq):
            dynamics["layers"] += layer_rows(isolated_dynamics(model, *probe), "isolated")
        return dynamics

    def on_train_end(self, **facts: Any) -> None:
        """Record closing facts, such as `exit_state`, and close the run file."""
        self.logger.log_run(facts)
        self.logger.close()


def _expert_rows(routers: list[Prismatic]) -> list[dict[str, Any]]:
    """Rows of the `experts` table; what was changed is the mean over layers."""
    widest = max(routers, key=lambda router: len(router.roles))
    rows = []
    for expert, role in enumerate(widest.roles):
        changed = [router.changed_EK[expert].tolist() for router in routers if expert < len(router.roles)]
        means = {f"changed_{tier}": sum(c[k] for c in changed) / len(changed) for k, tier in enumerate(TIERS)}
        seed = widest.config.seed if expert else None
        rows.append({"expert": expert, "role": role, "seed": seed, "scale": widest.scale_of(expert), **means})
    return rows


def _tier_rows(layer: int, router: Prismatic) -> list[dict[str, Any]]:
    """Rows of the `tiers` table for one layer."""
    sizes, hashes = router.tiers.sizes(router.experts[0]), router.tiers.hashes()
    return [{"layer": layer, "tier": tier, "weights": sizes[tier], "hash": hashes.get(tier)} for tier in TIERS]
