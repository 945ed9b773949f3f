"""The distance between the outputs of a layer's experts for the same input, in the isolated probe.

While the probe runs the clean expert on its first half batch, each layer also runs every other expert on the input that
it receives. So all experts get one input: the one that clean experts in the layers before produce (the first trained
ones, if the clean ones are frozen). This costs a forward pass of half a batch for each expert of the sample (`pairs`).
Of a layer whose outputs would take much memory, every second, third, ... token is compared.
Axis letters: E experts that are compared, N pairs, T tokens, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.experts.protocol import num_experts
from prismatic.measure.pairs import PairValues, pairs_of, sample_of

MOST_KEPT = 1 << 26  # numbers of all experts' outputs of one layer: 256 MiB
MOST_AT_ONCE = 1 << 20  # numbers that are compared at once


class OutputComparison:
    """The hooks that run all experts of a layer in its first call, and the sums over the tokens of that call."""

    def __init__(self, router: Any):
        self.router = router
        self.experts = num_experts(router)
        self.sums_N2: Tensor | None = None
        """Of each pair the sum of 1 - cosine over the tokens, and their number; None if outputs cannot be compared."""
        self._devices = sorted({p.device.index or 0 for p in router.parameters() if p.device.type == "cuda"})
        self._called = False

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep a copy of the first call's input, because an expert may change it in place, and the random states."""
        if not self._called:
            self._input = _copies(args, kwargs)
            self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]

    def after(self, _: nn.Module, args: Any, output: Any) -> None:
        """Run every other expert on the same input, with the same random numbers, and compare the outputs.

        It calls `forward`: after a call with hooks, FSDP2 would shard the weights again.
        """
        if self._called:
            return
        router = self.router
        self._called, alone, sample = True, router.forced, sample_of(self.experts)
        outputs = {alone: _by_token(output, len(sample))}
        try:
            with torch.no_grad(), _uncached_autocast(), torch.random.fork_rng(devices=self._devices):
                for expert in sample if outputs[alone] is not None else ():
                    if expert != alone:
                        self._restore_random_states()
                        router.forced = expert
                        args, kwargs = _copies(*self._input)
                        outputs[expert] = _by_token(router.forward(*args, **kwargs), len(sample))
                self.sums_N2 = _compare([outputs.get(expert) for expert in sample])
        finally:
            router.forced = alone
            del self._input

    def _restore_random_states(self) -> None:
        torch.set_rng_state(self._states[0])
        for device, state in zip(self._devices, self._states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)


@contextmanager
def compared_outputs(routers: Sequence[Any]) -> Iterator[list[OutputComparison]]:
    """Compare all experts in the first call of each layer within the block, in which it is forced to one of them."""
    comparisons = [OutputComparison(router) for router in routers]
    with ExitStack() as hooks:
        for router, comparison in zip(routers, comparisons, strict=True):
            hooks.callback(router.register_forward_pre_hook(comparison.before, with_kwargs=True).remove)
            # Before all other hooks, while FSDP2 still holds the whole weights.
            hooks.callback(router.register_forward_hook(comparison.after, prepend=True).remove)
        yield comparisons


def output_distances(comparisons: Sequence[OutputComparison], *, counted: bool) -> list[PairValues]:
    """Return the mean over tokens of 1 - cosine between the outputs of two experts, of each pair by layer.

    counted: False if the tokens that this process ran are no part of the batch.
    """
    pairs = [pairs_of(comparison.experts) for comparison in comparisons]

    def local_sums() -> NDArray[np.float64]:
        known = zip(pairs, (comparison.sums_N2 for comparison in comparisons), strict=True)
        sums = [np.zeros((len(n), 2)) if s is None or not counted else s.cpu().double().numpy() for n, s in known]
        return np.concatenate(sums).ravel()

    sums_N2 = world().all_reduce(local_sums, 2 * sum(map(len, pairs))).reshape(-1, 2)
    means = iter([float(total / tokens) if tokens and math.isfinite(total) else None for total, tokens in sums_N2])
    return [{pair: next(means) for pair in each} for each in pairs]


def _copies(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call with a copy of each tensor."""
    copies = [value.detach().clone() if isinstance(value, Tensor) else value for value in (*args, *kwargs.values())]
    return copies[: len(args)], dict(zip(kwargs, copies[len(args) :], strict=True))


def _by_token(output: Any, experts: int) -> Tensor | None:
    """Return the output, or the first tensor of several, as [T, D]; None if it has no tokens.

    Of long ones some tokens, evenly spread, so that those of all experts together are at most MOST_KEPT numbers.
    """
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        output = next((each for each in output if isinstance(each, Tensor)), None)
    if not isinstance(output, Tensor) or output.dim() < 2 or not output.is_floating_point():
        return None
    output_TD = output.detach().flatten(end_dim=-2)
    every = max(math.ceil(output_TD.numel() * experts / MOST_KEPT), 1)
    return output_TD[::every].float() if every == 1 else output_TD[::every].to(torch.float32, copy=True)


def _compare(outputs: Sequence[Tensor | None]) -> Tensor | None:
    """Return [N, 2] of all pairs: the sum of 1 - cosine over tokens whose outputs are not zero, and their number."""
    known = [output for output in outputs if output is not None]
    if len(known) < max(len(outputs), 2) or len({output.shape for output in known}) > 1:
        return None
    sums_N2 = torch.zeros(len(known) * (len(known) - 1) // 2, 2, dtype=torch.float64, device=known[0].device)
    tokens, features = known[0].shape
    step = max(MOST_AT_ONCE // (len(known) * max(features, 1)), 1)
    for at in range(0, tokens, step):
        sums_N2 += _compare_tokens(torch.stack([output[at : at + step] for output in known]))
    return sums_N2


def _compare_tokens(output_ETD: Tensor) -> Tensor:
    norm_ET1 = torch.linalg.vector_norm(output_ETD, dim=-1, keepdim=True)
    unit_ETD = output_ETD / norm_ET1.clamp_min(torch.finfo(torch.float32).tiny)
    present_ET = norm_ET1[..., 0] > 0
    sums = []
    for expert in range(len(unit_ETD) - 1):
        # Half the squared difference of unit vectors is 1 - cosine, and does not lose the digits of a tiny one.
        distance_NT = (unit_ETD[expert + 1 :] - unit_ETD[expert]).square().sum(-1) / 2
        present_NT = present_ET[expert + 1 :] & present_ET[expert]
        sums.append(torch.stack([(distance_NT * present_NT).sum(-1), present_NT.sum(-1)], dim=-1))
    return torch.cat(sums)


@contextmanager
def _uncached_autocast() -> Iterator[None]:
    """Keep older versions of PyTorch from caching weights that autocast casts here, without a gradient."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
