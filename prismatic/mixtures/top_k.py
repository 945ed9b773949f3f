"""TopKMixture: copies of one block and a router that sends each token to a few of them.

Axis letters: N tokens, D hidden size, E experts, K experts per token.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Experts(nn.ModuleList):
    """Blocks that are called with the choice of a router."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen blocks' outputs, [N, D]. top_k_index, top_k_weights: [N, K]."""
        out_ND = torch.zeros_like(hidden_states)
        for expert, block in enumerate(self):
            token, slot = (top_k_index == expert).nonzero(as_tuple=True)
            if len(token):
                own = block(hidden_states[token]) * top_k_weights[token, slot, None].to(hidden_states.dtype)
                out_ND = out_ND.index_add(0, token, own.to(out_ND.dtype))
        return out_ND


class TopKMixture(nn.Module):
    """A mixture in the place of a block, [..., D] -> [..., D]: each token goes to `top_k` of the experts.

    Their weights are a softmax over all experts, divided by the sum of those that were chosen.
    block: the block to copy. balance: how uneven the last batch was routed (1 is even, E is one expert for all), with a
    gradient; add a small multiple of it to the loss to keep all experts in use.
    """

    def __init__(self, block: nn.Module, hidden_size: int, *, num_experts: int, top_k: int):
        super().__init__()
        weight = next(block.parameters())
        self.top_k = top_k
        self.gate = nn.Linear(hidden_size, num_experts, bias=False, device=weight.device, dtype=weight.dtype)
        self.experts = Experts(copy.deepcopy(block) for _ in range(num_experts))
        self.balance: Tensor | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the mixture's output, of the input's shape."""
        x_ND = hidden_states.reshape(-1, hidden_states.shape[-1])
        p_NE = self.gate(x_ND).float().softmax(-1)
        weight_NK, index_NK = p_NE.topk(self.top_k, dim=-1)
        weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
        share_E = torch.zeros_like(p_NE).scatter(-1, index_NK, 1.0 / self.top_k).mean(0)
        self.balance = len(self.experts) * (share_E * p_NE.mean(0)).sum()
        return self.experts(x_ND, index_NK, weight_NK).view_as(hidden_states)
