"""LoRA adapters as experts, logged and judged: python -m examples.lora

One frozen network has four adapters, and each trains alone on its own batches, as the members of a model soup do:
nothing is routed and nothing is merged. Adapter 0 and the control learn a text with swapped letter case, each in its
own order; adapters 1 and 2 learn the text backwards. Do the adapters of another task get gradients that differ more
than those of two adapters of the same task? Here, the perturbation of the "perturbed" experts is their other task.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismatic import DynamicsLoggerCallback
from prismatic.train.corpus import Corpus

SIZE, RANK, LENGTH, BATCH = 32, 4, 24, 32


class Adapter(nn.Module):
    """A low-rank change of a weight matrix, almost zero at the start."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, inputs) / inputs**0.5)
        # Usually zeros. Then `down` would have no gradient in the first step, and `up` no weights to rank.
        self.up = nn.Parameter(1e-3 * torch.randn(outputs, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down.T @ self.up.T


class Adapted(nn.Module):
    """A frozen linear layer with one adapter per task. `active` is the adapter in use; there is no routing."""

    mixture = "separate"
    roles = ("clean", "perturbed", "perturbed", "control")
    routing_weights = None

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.experts = nn.ModuleList(Adapter(base.in_features, base.out_features) for _ in self.roles)
        for expert in self.experts[1:]:
            expert.load_state_dict(self.experts[0].state_dict())
        self.active: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return out if self.active is None else out + self.experts[self.active](x)


class Model(nn.Module):
    """Predicts the next byte from the last two."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, SIZE)
        self.hidden = nn.Linear(2 * SIZE, 2 * SIZE)
        self.out = nn.Linear(2 * SIZE, SIZE)
        self.head = nn.Linear(SIZE, 256)

    def forward(self, tokens_BS: Tensor) -> Tensor:
        x = self.bytes(tokens_BS)
        x = torch.cat([x, F.pad(x[:, :-1], (0, 0, 1, 0))], dim=-1)
        return self.head(F.gelu(self.out(F.gelu(self.hidden(x)))))


def loss_of(model: Model, tokens: Tensor) -> Tensor:
    """Return the loss of the next byte, in nats."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def pretrained(corpus: Corpus, steps: int, adapted: type[Adapted] = Adapted) -> Model:
    """Train the base on the unchanged text, freeze it, and put adapters into its two middle layers."""
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, corpus.batch(step, batch_size=BATCH, length=LENGTH + 1, seed=1234)).backward()
        optimizer.step()
    model.requires_grad_(False)
    model.hidden, model.out = adapted(model.hidden), adapted(model.out)
    return model


def tasks(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """Return the two tasks: the text with swapped letter case, and the text backwards."""
    text = torch.cat([*corpus.splits.values()]).numpy().tobytes()
    return Corpus(text.swapcase(), name="case swapped"), Corpus(text[::-1], name="backwards")


def train(path: Path, *, steps: int = 130, seed: int = 0) -> Path:
    """Train all adapters, each on its own batches, and write the run file."""
    torch.manual_seed(seed)
    corpus = Corpus.load()
    swapped, backwards = tasks(corpus)
    model = pretrained(corpus, steps)
    layers = [layer for layer in model.modules() if isinstance(layer, Adapted)]
    optimizer = torch.optim.AdamW([p for layer in layers for p in layer.experts.parameters()], lr=1e-4)
    callback = DynamicsLoggerCallback(path, log_freq=1)
    callback.attach(model, optimizer, **{"config.seed": seed, "planned_steps": steps})
    for step in range(steps):
        optimizer.zero_grad()
        for expert, role in enumerate(Adapted.roles):
            for layer in layers:
                layer.active = expert
            task = backwards if role == "perturbed" else swapped
            loss_of(model, task.batch(step, batch_size=BATCH, length=LENGTH + 1, seed=seed + 1000 * expert)).backward()
        optimizer.step()
    callback.detach()
    return path


if __name__ == "__main__":
    written = train(Path("build/runs/lora/dynamics.db"))
    print(f"{written}\n\nRead the verdict:  prismatic check {written}")
