"""Options: the facts of a run that tell one experiment from another, called `config.NAME` or `option.NAME`.

`prismatic train` and the Prismatic layer record theirs as `config.NAME`. What a user or a framework gives to a callback
is recorded as `option.NAME`, by `as_facts`. All other facts describe a run and never set it apart from its replicas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OPTION = re.compile(r"(config|option)\.([a-z][a-z0-9_]{0,60})")
NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")

FREE = frozenset(
    {"seed", "data_seed", "device", "run_name", "name", "output_dir", "logging_dir", "host", "started", "ended"}
)
"""Options in which replicas of one experiment may differ."""

TREATMENT = frozenset({"perturbation_scale", "upcycle_method", "upcycle_noise", "upcycle_drop"})
"""Options that say what was done to the perturbed experts: a run may differ from its sham run in these alone."""

FACTS = frozenset(
    {"planned_steps", "warmup_steps", "routers", "mixture", "causal", "loss", "held_out_loss"}
    | {"log_freq", "probe_freq", "pair_freq", "weight_freq", "histogram_freq", "compared_experts"}
    | {"device", "host", "hook", "clip_state", "precision", "world_size", "parallel", "tensors_without_tiers"}
    | {"started", "ended", "exit_state", "run_hash", "git_commit", "git_dirty", "python", "prismatic", "torch"}
    | {"transformers", "lightning", "accelerate", "corpus", "corpus_sha256"}
)
"""Facts with a meaning of their own, which keep their plain names."""


def as_facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that a user or a framework gave by plain names, under the names of a run file.

    A number, a text or a truth value becomes `option.NAME`, unless it is one of FACTS. Names with a dot, such as
    `config.seed`, and other values keep their names.
    """
    return {
        f"option.{name}" if NAME.fullmatch(name) and name not in FACTS and _is_scalar(value) else name: value
        for name, value in given.items()
    }


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def options_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among the facts of a run, by plain names.

    `option.NAME`, which a user or a framework said of this training, beats `config.NAME`.
    """
    found: dict[str, dict[str, Any]] = {"config": {}, "option": {}}
    for key, value in facts.items():
        if match := OPTION.fullmatch(key):
            found[match[1]][match[2]] = value
    return found["config"] | found["option"]


def misfit_of_pairs(probe_freq: int, pair_freq: int | None) -> str:
    """Return why these frequencies do not fit each other; empty if they do.

    A step in which pairs are compared runs the probe, and probes must be evenly spaced to be judged. So one frequency
    is a multiple of the other. None: with every probe; 0: never.
    """
    if pair_freq is None:
        return ""
    if not isinstance(pair_freq, int) or pair_freq < 0:
        return f"pair_freq = {pair_freq!r} is not allowed; compare pairs every 1 or more steps, or never (0)."
    small, large = sorted((probe_freq, pair_freq))
    if small > 0 and large % small:
        return (
            f"pair_freq = {pair_freq} and probe_freq = {probe_freq} leave uneven gaps between probes. Make one a "
            "multiple of the other."
        )
    return ""
