"""A custom top-k mixture of experts, logged and judged: python -m examples.topk_moe

A dense block is copied into eight experts, as in sparse upcycling: one stays clean, four copies are perturbed, and
three are controls. A router sends each byte of a text to two experts. Does the noise change the gradients of the
experts, or do copies without noise differ as much, because of the tokens they get? Those copies are the controls.

Axis letters: B sequences, S positions, N = B x S tokens, D hidden size, E experts, K experts per token.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismatic import DynamicsLoggerCallback
from prismatic.experts.tiers import TierIndices
from prismatic.layer.perturbation import noise_seed, perturb
from prismatic.train.corpus import Corpus

SIZE, LENGTH, BATCH = 32, 32, 16
SCALE = {"clean": 0.0, "perturbed": 1.0, "control": 0.001}  # largest change of a weight relative to its magnitude


class TopK(nn.Module):
    """A top-k layer. The logger reads `experts` and `routing_weights`, the verdict `mixture` and `roles`."""

    mixture = "top_k"
    roles = ("clean", *["perturbed"] * 4, *["control"] * 3)

    def __init__(self, block: nn.Module, *, k: int = 2, seed: int = 0):
        super().__init__()
        self.k = k
        self.experts = nn.ModuleList(copy.deepcopy(block) for _ in self.roles)
        self.gate = nn.Linear(SIZE, len(self.roles), bias=False)
        self.routing_weights = torch.full((len(self.roles),), 1 / len(self.roles))
        self.tiers = TierIndices.of(dict(block.named_parameters()), sparsity=0.1)
        self.balance = torch.zeros(())
        for expert, role in enumerate(self.roles):
            self._perturb(expert, SCALE[role], seed)

    @torch.no_grad()
    def _perturb(self, expert: int, scale: float, seed: int) -> None:
        for name, weight in self.experts[expert].named_parameters():
            weight.copy_(perturb(weight, self.tiers[name], scale=scale, seed=noise_seed(seed, expert, name)))

    def forward(self, x: Tensor) -> Tensor:
        x_ND = x.flatten(0, 1)
        p_NE = self.gate(x_ND).softmax(-1)
        chosen_NK = p_NE.topk(self.k, dim=-1).indices
        sent_NE = torch.zeros_like(p_NE).scatter(-1, chosen_NK, 1.0)
        share_NE = p_NE * sent_NE / (p_NE * sent_NE).sum(-1, keepdim=True)
        self.routing_weights = share_NE.detach().mean(0)
        self.balance = len(self.experts) * (sent_NE.mean(0) / self.k * p_NE.mean(0)).sum()  # Switch Transformer's loss
        out_ND = torch.zeros_like(x_ND)
        for expert, block in enumerate(self.experts):
            tokens = sent_NE[:, expert].nonzero().flatten()
            out_ND = out_ND.index_add(0, tokens, share_NE[tokens, expert, None] * block(x_ND[tokens]))
        return out_ND.view_as(x)


class Model(nn.Module):
    """Predicts the next byte from the last three."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.bytes = nn.Embedding(256, SIZE)
        self.mix = nn.Conv1d(SIZE, SIZE, kernel_size=3)
        self.moe = TopK(nn.Sequential(nn.Linear(SIZE, 2 * SIZE), nn.GELU(), nn.Linear(2 * SIZE, SIZE)), seed=seed)
        self.head = nn.Sequential(nn.LayerNorm(SIZE), nn.Linear(SIZE, 256))

    def forward(self, tokens_BS: Tensor) -> Tensor:
        x = self.mix(F.pad(self.bytes(tokens_BS).mT, (2, 0))).mT
        return self.head(x + self.moe(x))


def train(path: Path, *, steps: int = 130, seed: int = 0) -> Path:
    """Train on real text and write the run file."""
    torch.manual_seed(seed)
    corpus, model = Corpus.load(), Model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    callback = DynamicsLoggerCallback(path, log_freq=1)
    facts = {"config.seed": seed, "config.perturbation_scale": SCALE["perturbed"], "planned_steps": steps}
    callback.attach(model, optimizer, **facts)
    for step in range(steps):
        tokens = corpus.batch(step, batch_size=BATCH, length=LENGTH + 1, seed=seed)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        (loss + 0.01 * model.moe.balance).backward()
        optimizer.step()
    callback.detach()
    return path


if __name__ == "__main__":
    written = train(Path("build/runs/topk-moe/dynamics.db"))
    print(f"{written}\n\nRead the verdict:  prismatic check {written}")
