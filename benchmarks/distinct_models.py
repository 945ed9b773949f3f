"""Small trainings for the calibration of `distinct`: mixtures of experts that are alike, or differ by a known amount.

A mixture is a tiny Mixtral or Qwen3-MoE of transformers, a byte-level model with a layer of our own, or the Prismatic
layer. Its experts begin as copies of one another, or differ by a planted amount. The benchmark decides the routing, so
that no router can tell the experts apart. Each training writes a run file; finished ones are kept.
Axis letters: N tokens, K experts per token, E experts, B sequences, H features.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from common import ROOT

sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismatic import DynamicsLoggerCallback
from prismatic.experts.discovery import find_routers
from prismatic.experts.protocol import num_experts, views_of
from prismatic.runfile.manage import summarize
from prismatic.train.config import parse_config
from prismatic.train.corpus import Corpus
from prismatic.train.train import train as train_prismatic

STEPS, PROBE_EVERY = 240, 4
LENGTH = 32  # bytes of a sequence
PROBED = 32  # sequences of a probe
LARGE = 128  # sequences of the batch that gives the truth
TRUTH_AT = range(STEPS * 7 // 10, STEPS, PROBE_EVERY)  # the last third after the warm-up of the verdict
TRUTH = "true_direction"  # fact of a run: its mean over TRUTH_AT
COPIES, NOISE, REINITIALISED, ROTATED = "copies", "noise", "reinitialised", "rotated"
RANDOM, SHUFFLED, PERMUTED, UNIFORM, BY_TOKEN = "random", "shuffled", "permuted", "uniform", "by token"


@dataclass(frozen=True)
class Kind:
    """A kind of training: its model, its routing, and how its experts differ at the start."""

    name: str
    _: KW_ONLY
    start: str = COPIES
    size: float = 0.0
    """Of the planted difference: the share of units that are drawn again, the angle, or the scale of the noise."""
    routing: str = SHUFFLED
    """Tokens are dealt evenly at random, or to random experts, or to all experts, or by their byte."""
    model: str = "own"
    experts: int = 6
    top_k: int = 1
    layers: int = 1
    batch: int = 16
    learning_rate: float = 2e-3
    hidden: int = 32
    seeds: int = 6

    def path(self, folder: Path, seed: int) -> Path:
        """Return the place of a run file."""
        return folder / "".join(c if c.isalnum() else "-" for c in self.name) / f"{seed}.db"


class Choice:
    """The routing: it draws the experts of each token, and knows the bytes of the batch."""

    def __init__(self, kind: Kind, seed: int):
        self.kind = kind
        self.dice = torch.Generator().manual_seed(seed + 1000)
        self.tokens: Tensor = torch.zeros(0)
        self.step = 0

    def draw(self, count: int) -> Tensor:
        """Return the experts of `count` tokens, [N, K]."""
        kind = self.kind
        if kind.routing == UNIFORM:
            return torch.arange(kind.experts).expand(count, -1)
        if kind.routing == RANDOM:
            return torch.rand(count, kind.experts, generator=self.dice).topk(kind.top_k).indices
        if kind.routing == SHUFFLED:
            first = torch.empty(count, dtype=torch.long)
            first[torch.randperm(count, generator=self.dice)] = torch.arange(count) % kind.experts
        elif kind.routing == PERMUTED:
            first = (torch.arange(count) // LENGTH + self.step) % kind.experts
        else:
            known = self.tokens.flatten()
            first = known % kind.experts if len(known) == count else torch.zeros(count, dtype=torch.long)
        return (first[:, None] + torch.arange(kind.top_k)) % kind.experts


class RoutedBlocks(nn.Module):
    """A layer of our own: feed-forward blocks, of which each token runs through a few."""

    mixture = "top_k"
    routing_weights = None

    def __init__(self, hidden: int, choice: Choice):
        super().__init__()
        self.choice = choice
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))
            for _ in range(choice.kind.experts)
        )
        self.forced: int | None = None

    def forward(self, x_BTH: Tensor) -> Tensor:
        if self.forced is not None:
            return self.experts[self.forced](x_BTH)
        x_NH = x_BTH.flatten(0, 1)
        index_NK = self.choice.draw(len(x_NH))
        y_NH = torch.zeros_like(x_NH)
        for number, expert in enumerate(self.experts):
            rows = (index_NK == number).any(1).nonzero().flatten()
            y_NH = y_NH.index_add(0, rows, expert(x_NH[rows]) / index_NK.shape[1])
        return y_NH.view_as(x_BTH)


class ByteMixture(nn.Module):
    """A byte-level language model: attention and a layer of routed blocks, a few times."""

    def __init__(self, kind: Kind, choice: Choice):
        super().__init__()
        self.token, self.position = nn.Embedding(256, kind.hidden), nn.Embedding(LENGTH, kind.hidden)
        self.mixing = nn.ModuleList(nn.Linear(kind.hidden, 3 * kind.hidden) for _ in range(kind.layers))
        self.blocks = nn.ModuleList(RoutedBlocks(kind.hidden, choice) for _ in range(kind.layers))
        self.head = nn.Linear(kind.hidden, 256)

    def forward(self, bytes_BT: Tensor) -> Tensor:
        x = self.token(bytes_BT) + self.position(torch.arange(bytes_BT.shape[1]))
        for mixing, block in zip(self.mixing, self.blocks, strict=True):
            q, k, v = mixing(F.layer_norm(x, x.shape[-1:])).chunk(3, -1)
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block(F.layer_norm(x, x.shape[-1:]))
        return self.head(x)


def train(kind: Kind, seed: int, folder: Path) -> Path:
    """Train one run, unless its file is there and finished, and return the file's path."""
    path = kind.path(folder, seed)
    if path.exists() and summarize(path).status == "finished":
        return path
    path.unlink(missing_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    if kind.model == "prismatic":
        return _prismatic(kind, seed, path)
    model, loss_of, choice = _built(kind, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=kind.learning_rate)
    corpus, callback = Corpus.load(), DynamicsLoggerCallback(path, log_freq=PROBE_EVERY, probe_freq=PROBE_EVERY)

    def batch_of(step: int, size: int, name: str) -> Tensor:
        number = seed * 3 + ("train", "probe", "truth").index(name)
        return corpus.batch(step, batch_size=size, length=LENGTH + 1, seed=number)

    steps = iter(range(0, STEPS, PROBE_EVERY))
    facts = {"seed": seed, "planned_steps": STEPS, "learning_rate": kind.learning_rate, "kind": kind.name}
    callback.attach(model, optimizer, probe=lambda: (loss_of, batch_of(next(steps), PROBED, "probe")), **facts)
    truth = []
    for step in range(STEPS):
        # Permuted: a batch stays for as many steps as there are experts, and each expert sees each part of it once.
        batch = batch_of(step // kind.experts if kind.routing == PERMUTED else step, kind.batch, "train")
        choice.tokens, choice.step = batch[:, :-1], step
        if step in TRUTH_AT:
            truth.append(true_direction(model, loss_of, batch_of(step, LARGE, "truth")))
        optimizer.zero_grad()
        loss_of(batch).backward()
        optimizer.step()
    callback.detach(**{TRUTH: sum(truth) / len(truth)})
    return path


def true_direction(model: nn.Module, loss_of: Callable[[Tensor], Tensor], batch_BT: Tensor) -> float:
    """Return the mean direction over the pairs of all layers, from another and larger batch than that of the probe.

    It is the plain computation, whole gradients at once, against which the run file is judged.
    """
    routers = find_routers(model)
    one, other = (_alone(routers, lambda half=half: loss_of(half)) for half in (batch_BT[0::2], batch_BT[1::2]))
    means = []
    for first_EP, second_EP in zip(one, other, strict=True):
        product_EE = (first_EP @ second_EP.T + second_EP @ first_EP.T) / 2
        own_E = product_EE.diagonal().sqrt()
        row, column = torch.triu_indices(len(own_E), len(own_E), 1)
        means.append((1 - product_EE / own_E[:, None] / own_E)[row, column].mean().item())
    return sum(means) / len(means)


def _alone(routers: Sequence[Any], loss: Callable[[], Tensor]) -> list[Tensor]:
    """Return the gradients [E, P] of every expert of each layer, with every layer forced to that expert."""
    found: list[list[Tensor]] = [[] for _ in routers]
    for expert in range(num_experts(routers[0])):
        for router in routers:
            router.forced = expert
        value = loss()
        for router, rows in zip(routers, found, strict=True):
            views = [*views_of(router, expert).values()]
            grads = torch.autograd.grad(value, [view.parameter for view in views], retain_graph=True)
            own = [view.of(grad) for view, grad in zip(views, grads, strict=True)]
            rows.append(torch.cat([grad.flatten() for grad in own]).double())
    for router in routers:
        router.forced = None
    return [torch.stack(rows) for rows in found]


def _built(kind: Kind, seed: int) -> tuple[nn.Module, Callable[[Tensor], Tensor], Choice]:
    choice = Choice(kind, seed)
    model: nn.Module = ByteMixture(kind, choice) if kind.model == "own" else _transformer(kind, choice)

    def loss_of(batch_BT: Tensor) -> Tensor:
        found = model(batch_BT[:, :-1])
        logits = found if isinstance(found, Tensor) else found.logits
        return F.cross_entropy(logits.flatten(0, 1), batch_BT[:, 1:].flatten())

    with torch.no_grad():
        for router in find_routers(model):
            _plant(router, kind)
    return model.train(), loss_of, choice


def _transformer(kind: Kind, choice: Choice) -> nn.Module:
    """Return a model of transformers whose routers leave the choice to us."""
    import transformers

    shared = {"vocab_size": 256, "hidden_size": kind.hidden, "num_hidden_layers": kind.layers}
    shared |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": LENGTH}
    top_k = kind.experts if kind.routing == UNIFORM else kind.top_k
    shared |= {"num_experts_per_tok": top_k, "pad_token_id": None}
    if kind.model == "mixtral":
        own: dict[str, Any] = {"num_local_experts": kind.experts, "intermediate_size": 2 * kind.hidden}
        model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**shared, **own))
    else:
        own = {"num_experts": kind.experts, "moe_intermediate_size": 2 * kind.hidden, "head_dim": kind.hidden // 4}
        own |= {"intermediate_size": 2 * kind.hidden}
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**shared, **own))

    def chosen(_: nn.Module, __: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        index_NK = choice.draw(len(output[0]))
        return output[0], torch.full(index_NK.shape, 1 / index_NK.shape[1]), index_NK

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.register_forward_hook(chosen)
    return model


def _plant(router: Any, kind: Kind) -> None:
    """Make all experts copies of the first one, each altered by itself."""
    clean = {name: view.of(view.parameter).clone() for name, view in views_of(router, 0).items()}
    for expert in range(num_experts(router)):
        for name, view in views_of(router, expert).items():
            view.of(view.parameter).copy_(_altered(clean[name], kind))


def _altered(weight: Tensor, kind: Kind) -> Tensor:
    if kind.start == NOISE:
        return weight * (1 + kind.size * torch.randn(weight.shape))
    if kind.start == ROTATED:
        other = torch.randn(weight.shape)
        if weight.norm() == 0:
            return weight
        unit = weight / weight.norm()
        other = other - (other * unit).sum() * unit
        return math.cos(kind.size) * weight + math.sin(kind.size) * other / other.norm() * weight.norm()
    if kind.start == REINITIALISED:
        again = torch.rand(len(weight)) < kind.size
        fresh = torch.randn(weight.shape) * weight.std() + weight.mean()
        return torch.where(again.view(-1, *[1] * (weight.dim() - 1)), fresh, weight)
    return weight


def _prismatic(kind: Kind, seed: int, path: Path) -> Path:
    """Train the Prismatic layer, whose frozen routing merges all experts evenly."""
    options = {"hidden_size": kind.hidden, "num_layers": kind.layers, "num_heads": 2, "sequence_length": LENGTH}
    options |= {"steps": STEPS, "batch_size": kind.batch, "learning_rate": kind.learning_rate, "seed": seed}
    options |= {"num_experts": kind.experts, "perturbation_scale": kind.size, "routing": "frozen", "merge": "example"}
    options |= {"log_freq": PROBE_EVERY, "probe_freq": PROBE_EVERY, "weight_freq": 0}
    result = train_prismatic(parse_config(options), runs=path.parent, progress=False)
    result.db_path.replace(path)
    return path  # without a truth: its experts are copies, and get one gradient


KINDS = (
    # Experts that are alike. Permuted: all see the same tokens, in other orders. The first ones are those of --quick.
    Kind("own, permuted", routing=PERMUTED, batch=18, seeds=12),
    Kind("mixtral, copies", routing=UNIFORM, model="mixtral", experts=4),
    Kind("own, permuted, 3 experts", routing=PERMUTED, batch=18, experts=3, seeds=12),
    Kind("own, permuted, 8 experts, top 2", routing=PERMUTED, experts=8, top_k=2, batch=32),
    Kind("own, permuted, 2 layers, batch 36", routing=PERMUTED, layers=2, batch=36),
    Kind("own, permuted, 64 wide, slow", routing=PERMUTED, batch=18, hidden=64, learning_rate=5e-4),
    Kind("mixtral, permuted, slow", routing=PERMUTED, model="mixtral", experts=4, learning_rate=1e-4),
    Kind("qwen, permuted, 2 layers, slow", routing=PERMUTED, model="qwen", experts=4, layers=2, learning_rate=1e-4),
    Kind("qwen, copies, 8 experts", routing=UNIFORM, model="qwen", experts=8, batch=8),
    Kind("mixtral, copies, batch 4", routing=UNIFORM, model="mixtral", experts=4, batch=4),
    Kind("own, noise of 0.001", start=NOISE, size=0.001, routing=UNIFORM),
    Kind("own, noise of 0.01", start=NOISE, size=0.01, routing=UNIFORM),
    Kind("own, dealt, very slow", learning_rate=1e-4),
    Kind("own, permuted, 12 experts, slow", routing=PERMUTED, experts=12, batch=36, learning_rate=1e-3),
    Kind("prismatic, frozen, 2 layers, scale 0.001", size=0.001, model="prismatic", experts=4, layers=2),
    # Experts that differ: by their start, by their tokens, or by chance alone.
    Kind("own, by token", routing=BY_TOKEN),
    Kind("mixtral, by token, top 2", routing=BY_TOKEN, model="mixtral", top_k=2),
    Kind("qwen, by token, 2 layers", routing=BY_TOKEN, model="qwen", experts=4, layers=2),
    Kind("own, rotated by 0.1", start=ROTATED, size=0.1, routing=UNIFORM),
    Kind("own, rotated by 0.2", start=ROTATED, size=0.2, routing=UNIFORM),
    Kind("own, rotated by 0.5", start=ROTATED, size=0.5, routing=UNIFORM),
    Kind("mixtral, rotated by 0.2", start=ROTATED, size=0.2, routing=UNIFORM, model="mixtral", experts=4),
    Kind("own, 5 % drawn again", start=REINITIALISED, size=0.05, routing=UNIFORM),
    Kind("own, 25 % drawn again", start=REINITIALISED, size=0.25, routing=UNIFORM),
    Kind("mixtral, 50 % drawn again", start=REINITIALISED, size=0.5, routing=UNIFORM, model="mixtral", experts=4),
    Kind("own, noise of 0.05", start=NOISE, size=0.05, routing=UNIFORM, seeds=12),
    Kind("own, dealt", experts=6, seeds=12),
    Kind("own, dealt, 3 experts", experts=3),
    Kind("mixtral, random top 2", routing=RANDOM, model="mixtral", top_k=2),
    Kind("qwen, random top 1 of 4", routing=RANDOM, model="qwen", experts=4),
    Kind("own, dealt, 16 experts", experts=16, batch=32),
    Kind("own, rotated by 0.05", start=ROTATED, size=0.05, routing=UNIFORM),
)
QUICK = ("own, permuted", "mixtral, copies", "own, by token")
