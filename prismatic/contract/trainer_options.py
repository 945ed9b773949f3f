"""The options of the byte-level model as words for `--set`, for a run whose options no file here holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from prismatic.contract.thresholds import Thresholds, read_registration

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"seed": 0, "steps": 1500, "device": "cpu", "data": None, "log_freq": 10, "probe_freq": 0, "pair_freq": None}
    | {"num_experts": 3, "perturbation_scale": 1.0, "sparsity": 0.1, "perturbation_strategy": "dual_sided"}
    | {"perturbation_mode": "noise", "merge": "batch", "routing": "trained", "router_input": "mean"}
    | {"expert_dropout": 0.0, "load_balancing": 0.0, "tier_basis": "base", "control_experts": 0}
    | {"control_scale": 0.001, "positive_control": 1.0, "hidden_size": 96, "num_layers": 2, "num_heads": 4}
    | {"sequence_length": 96, "batch_size": 8, "learning_rate": 0.001, "warmup_steps": 50, "weight_decay": 0.01}
    | {"max_grad_norm": None, "histogram_freq": 0, "weight_freq": 100}
)
"""The defaults of `prismatic train`; a test compares them with its model of options."""
WORD = re.compile(r"[a-z]+(_[a-z]+)+|[a-z]{6,}|noise|batch")  # texts that YAML can only read as texts


def option_words(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a run that differ from the defaults, by name, each as `--set` reads it.

    facts: of a run file. Thresholds that the run registered are among them.
    """
    found = {name: facts.get(f"config.{name}", default) for name, default in DEFAULTS.items()}
    words = {name: value_word(value) for name, value in found.items() if value != DEFAULTS[name]}
    registered = read_registration(facts)
    if registered is not None and registered.thresholds is not None:
        defaults = asdict(Thresholds())
        changed = {name: v for name, v in asdict(registered.thresholds).items() if v != defaults[name]}
        words |= {"thresholds": json.dumps(changed)} if changed else {}
    return words


def value_word(value: object) -> str:
    """Return a value as YAML reads it: plain names stay, other texts are quoted."""
    if isinstance(value, str):
        return value if WORD.fullmatch(value) else json.dumps(value)
    text = json.dumps(value, default=str)
    exponent = isinstance(value, float) and "e" in text and "." not in text
    return text.replace("e", ".0e") if exponent else text  # YAML takes 1e-07 for a text
