"""Tiny mixtures of transformers with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
FEED = {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
FOUR = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
DEEPSEEK = {
    **TEXT,
    **FEED,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}


@dataclass(frozen=True)
class Mixture:
    """A model's class, its configuration, and how many layers of how many experts it has."""

    model: str
    config: str
    options: dict[str, Any]
    layers: int
    experts: int = 4
    seq2seq: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """Return the model with weights of its own, in training."""
        torch.manual_seed(seed)
        config = getattr(transformers, self.config)(**self.options)
        model: nn.Module = getattr(transformers, self.model)(config)
        with torch.no_grad():
            for parameter in model.parameters():  # some classes begin with zeros, or with uninitialised memory
                parameter.copy_(torch.randn(parameter.shape) * 0.05)
        return model.train()

    def loss(self, model: nn.Module, seed: int = 1, rows: int = 4, length: int = 12) -> Tensor:
        """Return the loss of a batch of random tokens."""
        tokens = torch.randint(1, 60, (rows, length), generator=torch.Generator().manual_seed(seed))
        found: Tensor = model(input_ids=tokens, labels=tokens).loss
        return found


MIXTURES = {
    "Mixtral": Mixture("MixtralForCausalLM", "MixtralConfig", {**TEXT, **FEED, **LOCAL}, 2),
    "Qwen2-MoE": Mixture(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {**TEXT, **FEED, **FOUR, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
        2,
    ),
    "Qwen3-MoE": Mixture(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**TEXT, **FEED, **FOUR, "moe_intermediate_size": 24, "head_dim": 8}, 2
    ),
    "OLMoE": Mixture("OlmoeForCausalLM", "OlmoeConfig", {**TEXT, **FEED, **FOUR}, 2),
    "DeepSeek-V2": Mixture("DeepseekV2ForCausalLM", "DeepseekV2Config", {**DEEPSEEK, "topk_method": "greedy"}, 1),
    "DeepSeek-V3": Mixture("DeepseekV3ForCausalLM", "DeepseekV3Config", DEEPSEEK, 1),
    "gpt-oss": Mixture("GptOssForCausalLM", "GptOssConfig", {**TEXT, **FEED, **LOCAL, "head_dim": 8}, 2),
    "Granite-MoE": Mixture("GraniteMoeForCausalLM", "GraniteMoeConfig", {**TEXT, **FEED, **LOCAL}, 2),
    "PhiMoE": Mixture("PhimoeForCausalLM", "PhimoeConfig", {**TEXT, **FEED, **LOCAL}, 2),
    "DBRX": Mixture(
        "DbrxForCausalLM",
        "DbrxConfig",
        {
            "vocab_size": 64,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "pad_token_id": 0,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
        },
        2,
    ),
    "Llama 4": Mixture(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **TEXT,
            **FEED,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "head_dim": 8,
            "intermediate_size_mlp": 48,
        },
        2,
    ),
    "JetMoE": Mixture(
        "JetMoeForCausalLM",
        "JetMoeConfig",
        {**TEXT, "intermediate_size": 48, "num_key_value_heads": 2, "kv_channels": 8, **LOCAL},
        4,
    ),
    "Switch": Mixture(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        {
            "vocab_size": 64,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "num_experts": 4,
            "expert_capacity": 64,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
        },
        2,
    ),
    "NLLB-MoE": Mixture(
        "NllbMoeForConditionalGeneration",
        "NllbMoeConfig",
        {
            "vocab_size": 64,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "num_experts": 4,
            "encoder_sparse_step": 2,
            "decoder_sparse_step": 2,
            "expert_capacity": 64,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
            "max_position_embeddings": 64,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
        },
        2,
    ),
}
