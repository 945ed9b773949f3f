"""The model of the built-in trainer: a small byte-level decoder in which every block is a Prismatic layer.

Axis letters: B sequences of a batch, S positions, D hidden size, H heads, V bytes (256).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismatic.layer.router import Prismatic
from prismatic.train.config import RunConfig

BYTES = 256


class Block(nn.Module):
    """A pre-norm transformer block, [B, S, D] -> [B, S, D]: causal self-attention, then a two-layer perceptron."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.feedforward_norm = nn.LayerNorm(hidden_size)
        self.feedforward_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.feedforward_out = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.attention_norm(x))
        return x + self.feedforward_out(F.gelu(self.feedforward_in(self.feedforward_norm(x))))

    def _attention(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3)
        query, key, value = heads.unbind(2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attention_out(attended.transpose(1, 2).flatten(2))


class LocalLayer(nn.Module):
    """A layer of the decoder, as `decoder.locals[i]`: its Prismatic router holds the experts."""

    def __init__(self, config: RunConfig, layer: int):
        super().__init__()
        self.router = Prismatic(Block(config.hidden_size, config.num_heads), config.hidden_size, config, layer=layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.router(x)


class Decoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: RunConfig):
        super().__init__()
        self.locals = nn.ModuleList([LocalLayer(config, layer) for layer in range(config.num_layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.locals:
            x = layer(x)
        return x


class ByteLM(nn.Module):
    """A language model that predicts the next byte: tokens [B, S] int64 -> logits [B, S, V]."""

    def __init__(self, config: RunConfig):
        super().__init__()
        self.token = nn.Embedding(BYTES, config.hidden_size)
        self.position = nn.Embedding(config.sequence_length, config.hidden_size)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)
        self.decoder = Decoder(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, BYTES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.decoder(x)))

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats per byte; tokens [B, S + 1], each position predicts the next one."""
        return next_byte_loss(self, tokens)


def next_byte_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the loss of a model that DDP may have wrapped; tokens [B, S + 1]."""
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
