"""Numbers about a layer of experts, computed the slow way: experts cut out by hand, and what the layer was told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prismatic.experts.found import FoundExperts

TIERS = ("top", "bottom", "middle")


def cut_by_hand(layer: FoundExperts, expert: int) -> list[tuple[Tensor, Tensor]]:
    """Return weight and gradient of each matrix of an expert, by the layout of its class as its authors wrote it."""
    module = layer.module
    if layer.layout == "modules":
        block = [child for child in module.children() if [*child.parameters()]][expert]
        return [_both(p) for p in block.parameters()]
    if layer.layout == "linear layers":
        linears = (module.input_linear, module.output_linear)
        return [tuple(t[expert] for t in _both(linear.weight)) for linear in linears]
    if layer.layout == "rows":
        return [tuple(t.view(len(layer), -1, t.shape[1])[expert] for t in _both(p)) for p in module.parameters()]
    inner = module.experts if layer.layout == "stacked, scaled inputs" else module
    found = []
    for name, p in inner.named_parameters(recurse=False):
        weight, grad = (t[expert] for t in _both(p))
        if not name.startswith("gate_up"):
            found.append((weight, grad))
        elif type(inner).__name__ == "GptOssExperts":  # x @ w, gate and up in turn
            found += [(weight[..., 0::2], grad[..., 0::2]), (weight[..., 1::2], grad[..., 1::2])]
        elif type(inner).__name__ == "Llama4TextExperts":  # x @ w, gate and then up
            half = weight.shape[-1] // 2
            found += [(weight[:, :half], grad[:, :half]), (weight[:, half:], grad[:, half:])]
        else:  # F.linear, gate and then up
            half = weight.shape[0] // 2
            found += [(weight[:half], grad[:half]), (weight[half:], grad[half:])]
    return found


def _both(parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Return weight and gradient; zeros if there is none."""
    return parameter.detach(), torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def slow_norms(matrices: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the norm of each tier over all matrices, entry by entry in Python."""
    squares = dict.fromkeys(TIERS, 0.0)
    for weight, grad in matrices:
        values, entries = weight.flatten().tolist(), grad.flatten().tolist()
        size = round(len(values) * 0.1 / 2)
        top = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:size]
        bottom = sorted({*range(len(values))} - {*top}, key=lambda i: (abs(values[i]), i))[:size]
        ends = dict.fromkeys(bottom, "bottom") | dict.fromkeys(top, "top")
        for i, entry in enumerate(entries):
            squares[ends.get(i, "middle")] += entry**2
    return {tier: math.sqrt(square) for tier, square in squares.items()}


class Spy:
    """Adds up what a layer is told in training, in plain Python: the chosen experts and their weights."""

    def __init__(self, layer: FoundExperts) -> None:
        self.layer = layer
        self._begin()
        module = layer.module
        if layer.layout == "linear layers":
            self.handle = module.router.register_forward_hook(self._unless_again(self.jetmoe))
        elif layer.layout == "stacked, scaled inputs":
            self.handle = module.router.register_forward_hook(self._unless_again(self.llama4))
        else:
            self.handle = module.register_forward_pre_hook(self._unless_again(self.top_k), with_kwargs=True)

    def _unless_again(self, read: Callable[..., None]) -> Callable[..., None]:
        """Leave out evaluation, the probe, and what checkpointing computes again inside the backward pass."""

        @torch.compiler.disable
        def hook(module: nn.Module, *call: Any) -> None:
            if module.training and self.layer.forced is None and torch._C._current_graph_task_id() == -1:
                read(module, *call)

        return hook

    def take(self) -> tuple[list[float], list[float]]:
        """Return each expert's share of weight and of tokens since the last call."""
        weight, tokens = self.weight, self.tokens
        self._begin()
        return [w / sum(weight) for w in weight], [n / sum(tokens) for n in tokens]

    def _begin(self) -> None:
        self.weight, self.tokens = [0.0] * len(self.layer), [0] * len(self.layer)

    def choose(self, expert: int, weight: float) -> None:
        self.weight[expert] += weight
        self.tokens[expert] += 1

    def top_k(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        index, weight = (*args, *kwargs.values())[1:3]
        for chosen, own in zip(index.tolist(), weight.tolist(), strict=True):
            for slot, expert in enumerate(chosen):
                marks = expert if isinstance(expert, list) else [int(e == expert) for e in range(len(self.tokens))]
                for e, mark in enumerate(marks):
                    if mark:
                        self.choose(e, own[slot])

    def jetmoe(self, _: nn.Module, args: Any, output: Any) -> None:
        gates, sizes = output[2].tolist(), output[3]
        for expert, size in enumerate(sizes):
            for _ in range(size):
                self.choose(expert, gates.pop(0))

    def llama4(self, _: nn.Module, args: Any, output: Any) -> None:
        for scores in output[0].tolist():
            for expert, score in enumerate(scores):
                if score > 0:
                    self.choose(expert, score)


def spies_on(layers: Sequence[FoundExperts]) -> list[Spy]:
    """Return a spy on each layer; its `handle` removes it."""
    return [Spy(layer) for layer in layers]
