"""The processes that train one model together: who they are, and what they do in common.

A process that fails tells the others instead of leaving them to wait: what is done together fails together.
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


class Processes:
    """All processes of this training. Every method is a collective: each process must call it, in the same order.

    One process by itself does what it is asked, and talks to nobody.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None):
        self.rank = rank
        self.size = size
        self.group = group

    def total(self, own: Callable[[], NDArray[np.float64]], count: int) -> NDArray[np.float64]:
        """The sum over all processes of `count` numbers that each of them has of its own: one small all_reduce.

        Raises what `own` raises, and RuntimeError in the processes in which it did not fail while it did in another.
        """
        if self.size == 1:
            return own()
        problem: Exception | None = None
        numbers = np.zeros(count + 1)
        try:
            numbers[:count] = own()
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
        """What each process brought, by rank."""
        if self.size == 1:
            return [value]
        brought: list[Any] = [None] * self.size
        dist.all_gather_object(brought, value, group=self.group)
        return brought

    def everyone(self, make: Callable[[], T]) -> T:
        """What this process made, once all have made theirs; raises in all of them where one fails."""
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

    def first_says(self, make: Callable[[], T]) -> T:
        """What the first process made, which alone is asked; its error is raised in all of them."""
        made: list[Any] = [None]

        def ask() -> None:
            if self.rank == 0:
                made[0] = make()

        self.everyone(ask)
        answer: T = self.gather(made[0])[0]
        return answer


ALONE = Processes()
_together: tuple[object, Processes] | None = None


def processes() -> Processes:
    """The processes of torch.distributed, all of them; one by itself where it is not in use.

    The first call of a training is a collective. They talk by gloo, whatever the gradients travel by: what they say
    is small, lies on the CPU, and must not come between the collectives of the training.
    """
    global _together
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    if _together is None or _together[0] is not dist.group.WORLD:
        found = Processes(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))
        _together = dist.group.WORLD, found
    return _together[1]


def _sendable(problem: Exception | None) -> Exception | str | None:
    """Our own errors hold a sentence and travel as they are; of others nobody knows whether they can."""
    if problem is None or isinstance(problem, PrismaticError):
        return problem
    return f"{type(problem).__name__}: {problem}"


def mean_over_processes(own: Tensor) -> Tensor:
    """The mean of a small tensor over all processes, with its gradient: a collective, forward and backward."""
    mean: Tensor = own if processes().size == 1 else _Mean.apply(own)
    return mean


class _Mean(torch.autograd.Function):
    """Each process's own loss is a part of one: what the mean gets back is the mean of what every part gives it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _mean(own)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return _mean(grad[0])


def _mean(own: Tensor) -> Tensor:
    total = own.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)  # where the tensor is: on a GPU by the training's own means
    return total / dist.get_world_size()
