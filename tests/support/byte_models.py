"""A small byte-level model with a batch, and the gradient of one expert of it, measured the obvious way."""

from __future__ import annotations

import torch
from torch import Tensor

from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.model import ByteLM

TINY = {"hidden_size": 16, "num_heads": 2, "sequence_length": 16, "batch_size": 4}


def model_and_batch(**options) -> tuple[ByteLM, Tensor]:
    config = RunConfig(**TINY, **options)
    torch.manual_seed(0)
    model = ByteLM(config)
    return model, Corpus.load().batch(0, batch_size=4, length=17, seed=0)


def gradients_alone(model: ByteLM, expert: int, batch: Tensor, layer: int = 1) -> Tensor:
    """Return one flat float64 gradient of an expert of a layer, with every router forced to it."""
    for each in model.decoder.locals:
        each.router.forced = expert
    weights = list(model.decoder.locals[layer].router.experts[expert].parameters())
    flat = torch.cat([g.flatten() for g in torch.autograd.grad(model.loss(batch), weights)]).double()
    for each in model.decoder.locals:
        each.router.forced = None
    return flat
