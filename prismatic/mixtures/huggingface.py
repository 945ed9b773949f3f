"""Dense models of Hugging Face that have a mixture of their architecture: its class, and what it takes over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from prismatic.errors import ModelError

REMEDY = 'Use where= (such as where="model.layers.*.mlp") for a mixture of ours inside the dense model.'


class Matching(NamedTuple):
    """The mixture that has a dense model's architecture."""

    model: str
    config: str
    options: Mapping[str, str]
    """Options of the mixture, by the name of what they are: experts, top_k or size (of an expert)."""
    fixed: Mapping[str, Any]
    """Options that make the mixture equal the dense model."""
    refused: Mapping[str, Any]
    """Options of the dense model that the mixture does not have, and the value without them."""


_QWEN = {"experts": "num_experts", "top_k": "num_experts_per_tok", "size": "moe_intermediate_size"}
_EVERY_LAYER = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
_MIXTRAL = Matching(
    "MixtralForCausalLM",
    "MixtralConfig",
    {"experts": "num_local_experts", "top_k": "num_experts_per_tok", "size": "intermediate_size"},
    {"router_jitter_noise": 0.0},
    {"attention_bias": False, "mlp_bias": False},
)
MATCHING = {
    "LlamaForCausalLM": _MIXTRAL,
    "MistralForCausalLM": _MIXTRAL,
    # The dense model has nothing beside its MLP, and Qwen2-MoE always has a shared expert. It gets one unit of zeros,
    # which returns zero and gets no gradient, so it stays as it is; a layer without any unit warns when it is loaded.
    "Qwen2ForCausalLM": Matching(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        _QWEN,
        {**_EVERY_LAYER, "shared_expert_intermediate_size": 1, "qkv_bias": True},
        {},
    ),
    "Qwen3ForCausalLM": Matching(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", _QWEN, _EVERY_LAYER, {"use_sliding_window": False}
    ),
}
"""By class of the dense model."""


def matching_mixture(dense: nn.Module) -> Matching | None:
    """Return the mixture of a dense model's architecture; None for models of other classes."""
    if not type(dense).__module__.startswith("transformers.models."):
        return None
    return MATCHING.get(type(dense).__name__)


def build_mixture(dense: Any, matching: Matching, *, num_experts: int, top_k: int) -> Any:
    """Return the mixture with all weights of the dense model but those of its MLPs; routers and experts are undefined.

    Raises ModelError for a dense model that differs from the mixture in more than its MLPs.
    """
    import transformers

    config = _config(transformers, dense, matching, {"experts": num_experts, "top_k": top_k})
    with torch.random.fork_rng(devices=[]):  # its initial weights are replaced, and must not move the user's seed
        mixture = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dense.dtype, attn_implementation=dense.config._attn_implementation
        )
    found = mixture.load_state_dict(dense.state_dict(), strict=False)
    missing = [name for name in found.missing_keys if ".mlp." not in name]
    unused = [name for name in found.unexpected_keys if ".mlp." not in name]
    if missing or unused:
        raise ModelError(
            f"{matching.model} differs from this {type(dense).__name__} in more than its MLPs: {(missing + unused)[0]} "
            f"is in one of them only. {REMEDY}"
        )
    for name, parameter in mixture.named_parameters():
        if ".shared_expert" in name:
            parameter.zero_()
    mixture.generation_config = dense.generation_config
    return mixture.to(dense.device).train(dense.training)


def _config(transformers: Any, dense: Any, matching: Matching, numbers: Mapping[str, int]) -> Any:
    """Return the mixture's configuration: the dense model's, where both have the option."""
    for name, without in matching.refused.items():
        if getattr(dense.config, name, without) != without:
            raise ModelError(
                f"{type(dense).__name__} has {name} = {getattr(dense.config, name)}, which {matching.model} does not "
                f"have, so its outputs would differ. {REMEDY}"
            )
    target = getattr(transformers, matching.config)
    known = {field.name for field in dataclasses.fields(target)} | {"head_dim"}
    known -= {"architectures", "transformers_version", "dtype"}
    taken = {name: value for name, value in dense.config.to_dict().items() if name in known}
    sizes = {**numbers, "size": dense.config.intermediate_size}
    own = {matching.options[name]: value for name, value in sizes.items()}
    return target(**{**taken, **own, **matching.fixed})
