"""LoRA adapters on two tasks and on one task twice, as a program that a study trains: experiments/studies/lora.yml

Seven adapters of one frozen network begin as copies and train apart, each on its own batches. The clean one and three
controls learn the same task. Of the sequences of the other three ("perturbed"), a share is of another task:
`--other-task 1` makes them adapters of the second task, and 0 trains one task seven times, the sham run. The isolated
probe asks all of them on the same sequences, half of each task.

The study gives the options and the path by the words of its command. It needs no line here: the callback registers its
plan, options and thresholds by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from examples.lora import BATCH, LENGTH, Adapted, loss_of, pretrained, tasks
from prismatic import DynamicsLogger, DynamicsLoggerCallback
from prismatic.train.corpus import Corpus

LOG_FREQ = 6
BASE_STEPS = 200


class Tasked(Adapted):
    """A frozen layer with seven adapters. `forced` is the adapter that the isolated probe runs alone."""

    roles = ("clean", *["perturbed"] * 3, *["control"] * 3)
    forced: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        adapter = self.active if self.forced is None else self.forced
        return out if adapter is None else out + self.experts[adapter](x)


def train(path: Path, *, seed: int, other_task: float, steps: int) -> Path:
    """Train all adapters, each on its own batches, and write the run file. other_task: see the file."""
    torch.manual_seed(seed)
    corpus = Corpus.load()
    own, other = tasks(corpus)
    model = pretrained(corpus, BASE_STEPS, Tasked)
    layers = [layer for layer in model.modules() if isinstance(layer, Tasked)]
    optimizer = torch.optim.AdamW([p for layer in layers for p in layer.experts.parameters()], lr=1e-3)

    def batch(task: Corpus, step: int, expert: int) -> Tensor:
        return task.batch(step, batch_size=BATCH, length=LENGTH + 1, seed=seed + 1000 * expert)

    def same_batch() -> tuple[object, Tensor]:
        # Two of each task in turn: the probe's halves, sequences of even and of odd number, must be alike.
        twos = [batch(task, step, 100).unflatten(0, (-1, 2)) for task in (own, other)]
        return lambda tokens: loss_of(model, tokens), torch.cat(twos, dim=1).flatten(0, 1)

    callback = DynamicsLoggerCallback(
        DynamicsLogger(path, overwrite=True), log_freq=LOG_FREQ, probe_freq=LOG_FREQ, weight_freq=0, last_step=steps - 1
    )
    callback.attach(model, optimizer, probe=same_batch, seed=seed, perturbation_scale=other_task, planned_steps=steps)
    for step in range(steps):
        optimizer.zero_grad()
        for expert, role in enumerate(Tasked.roles):
            for layer in layers:
                layer.active = expert
            tokens = batch(own, step, expert)
            if role == "perturbed":
                share = round(other_task * BATCH)
                tokens = torch.cat([batch(other, step, expert)[:share], tokens[share:]])
            loss_of(model, tokens).backward()
        optimizer.step()
    callback.detach()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/runs/lora-study/dynamics.db"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other-task", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=240)
    given = parser.parse_args()
    print(train(given.out, seed=given.seed, other_task=given.other_task, steps=given.steps))
