"""All-reduce, gather and broadcast among the processes of one training (torch.distributed, torchrun).

A failure in one process is raised in all of them, so that no process waits for one that has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from prismatic.errors import PrismaticError

T = TypeVar("T")


class World:
    """The processes of this training. Each method is a collective: all processes must call it, in the same order.

    With one process, the methods run locally and do not communicate.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None):
        self.rank = rank
        self.size = size
        self.group = group

    def all_reduce(self, make: Callable[[], NDArray[np.float64]], count: int) -> NDArray[np.float64]:
        """Return the sum over all processes of the `count` numbers that `make` returns, by one small all_reduce.

        Raises the error of `make`, and RuntimeError in processes where `make` succeeded while it failed in another.
        """
        if self.size == 1:
            return make()
        problem: Exception | None = None
        numbers = np.zeros(count + 1)
        try:
            numbers[:count] = make()
        except Exception as error:
            problem, numbers[:] = error, 0.0
            numbers[count] = 1.0
        dist.all_reduce(torch.from_numpy(numbers), group=self.group)
        if problem is not None:
            raise problem
        if numbers[count]:
            raise RuntimeError(f"it failed in {numbers[count]:.0f} of {self.size} processes")
        return numbers[:count]

    def gather(self, value: T) -> list[T]:
        """Return the value of every process, by rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def all_or_raise(self, make: Callable[[], T]) -> T:
        """Return the result of `make` in this process once all have finished; raise in all of them if one fails."""
        if self.size == 1:
            return make()
        made: T | None = None
        problem: Exception | None = None
        try:
            made = make()
        except Exception as error:
            problem = error
        for rank, other in enumerate(self.gather(_sendable(problem))):
            if other is not None:
                raise problem or (other if isinstance(other, Exception) else RuntimeError(f"process {rank}: {other}"))
        return made  # type: ignore[return-value]

    def from_rank_zero(self, make: Callable[[], T]) -> T:
        """Call `make` in rank 0 only; return its result, or raise its error, in all processes."""
        made: list[Any] = [None]

        def make_on_rank_zero() -> None:
            if self.rank == 0:
                made[0] = make()

        self.all_or_raise(make_on_rank_zero)
        first: T = self.gather(made[0])[0]
        return first


ALONE = World()
_current: tuple[object, World] | None = None


def world() -> World:
    """Return all processes of torch.distributed, or `ALONE` where it is not in use.

    The first call of a training is a collective. The group is gloo whatever backend the gradients use: its messages are
    small, lie on the CPU, and must not come between the collectives of the training.
    """
    global _current
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    if _current is None or _current[0] is not dist.group.WORLD:
        found = World(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))
        _current = dist.group.WORLD, found
    return _current[1]


def _sendable(problem: Exception | None) -> Exception | str | None:
    """Return our own errors as they are, which can be pickled, and any other error as text."""
    if problem is None or isinstance(problem, PrismaticError):
        return problem
    return f"{type(problem).__name__}: {problem}"


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Return the mean of a small tensor over all processes, differentiable: a collective, forward and backward."""
    mean: Tensor = tensor if world().size == 1 else _Mean.apply(tensor)
    return mean


class _Mean(torch.autograd.Function):
    """The mean over processes, whose gradient is the mean of the gradients that all processes pass back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _mean(tensor)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return _mean(grad[0])


def _mean(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)  # on the tensor's own device, by the training's own backend
    return total / dist.get_world_size()
