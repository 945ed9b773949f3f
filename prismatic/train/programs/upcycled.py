"""The trainer `upcycled`: a dense model of Hugging Face, trained for a while, then upcycled and trained as a mixture.

Text is read as bytes, so no tokenizer is needed. Everything follows from the options and the seed.
Axis letters: B sequences of a batch, S positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor, nn

from prismatic.contract.study import Study
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from prismatic.integrations.pytorch import DynamicsLoggerCallback
from prismatic.mixtures.options import roles
from prismatic.mixtures.upcycle import upcycle
from prismatic.runfile.logger import DynamicsLogger
from prismatic.train.corpus import Corpus
from prismatic.train.experiment import RUN, SHAM, TREATED, Experiment, Positive
from prismatic.train.provenance import run_facts

BYTES = 256
HELD_OUT_BATCHES = 8
DENSE_SEED = 1_000_003  # added to the seed of the dense model's batches, so that the mixture sees others


class UpcycledConfig(Experiment):
    """The options of an upcycled run. Those of `prismatic.upcycle` have its meanings."""

    trainer: Literal["upcycled"] = "upcycled"
    dense: dict[str, Any]
    """The configuration of the dense model: `model_type`, such as llama, and options of its class in transformers."""
    dense_steps: Annotated[int, Field(ge=0)] = 200
    """Steps of the dense model before it is upcycled."""

    upcycle_method: Literal["copy", "noise", "drop"] = "copy"
    upcycle_noise: Annotated[FiniteFloat, Field(gt=0)] = 0.1
    upcycle_drop: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.5
    upcycle_clean: bool = True
    num_experts: Annotated[int, Field(ge=2)] = 8
    """All experts: the clean one, the treated ones and the controls."""
    top_k: Positive = 2
    control_experts: Annotated[int, Field(ge=0)] = 0
    control_scale: Annotated[FiniteFloat, Field(ge=0)] = 0.001
    router_std: Annotated[FiniteFloat, Field(gt=0)] = 0.02

    sequence_length: Annotated[int, Field(ge=2)] = 64
    batch_size: Positive = 8
    learning_rate: Annotated[FiniteFloat, Field(gt=0)] = 1e-3
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.01
    load_balancing: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that the mixture's class has."""
    weight_freq: Annotated[int, Field(ge=0)] = 0
    """Steps between comparisons of the experts' weights with the clean one's; 0 is never. Pairs have their own."""

    @model_validator(mode="after")
    def _roles_fit(self) -> Self:
        if "model_type" not in self.dense:
            raise ValueError("dense needs model_type, such as llama")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} must be at most num_experts={self.num_experts}")
        if self.control_experts and not self.upcycle_clean:
            raise ValueError("control_experts need upcycle_clean: true")
        if self.upcycle_clean:
            roles(self.num_experts, self.control_experts)
        return self

    @property
    def text_length(self) -> int:
        """A sequence and its next byte."""
        return self.sequence_length + 1

    @property
    def role(self) -> str:
        """Copies are the sham runs of the other methods; without a clean expert all runs are alike."""
        return RUN if not self.upcycle_clean else SHAM if self.upcycle_method == "copy" else TREATED


def run(config: UpcycledConfig, corpus: Corpus | None, db_path: Path, study: Study | None) -> None:
    """Train the dense model, upcycle it, train the mixture and write its run file."""
    assert corpus is not None
    mixture = upcycled(train_dense(config, corpus), config)
    callback = DynamicsLoggerCallback(
        DynamicsLogger(db_path, overwrite=True),
        log_freq=config.log_freq,
        probe_freq=config.probe_freq,
        pair_freq=config.pair_freq,
        weight_freq=config.weight_freq,
        last_step=config.steps - 1,
        thresholds=Thresholds().changed(config.thresholds),
    )
    planned = study.facts() if study else {}
    callback.on_train_begin(mixture, **run_facts(config, db_path.parent.name, corpus), **planned)
    loss = train_mixture(mixture, config, corpus, callback)
    callback.on_train_end(loss=loss, held_out_loss=held_out_loss(mixture, config, corpus))


def upcycled(dense: nn.Module, config: UpcycledConfig) -> nn.Module:
    """Return the mixture that the options make of a dense model."""
    return upcycle(
        dense,
        num_experts=config.num_experts,
        top_k=config.top_k,
        method=config.upcycle_method,
        noise=config.upcycle_noise,
        drop=config.upcycle_drop,
        seed=config.seed,
        control_experts=config.control_experts,
        control_scale=config.control_scale,
        keep_clean=config.upcycle_clean,
        router_std=config.router_std,
    )


def train_dense(config: UpcycledConfig, corpus: Corpus) -> nn.Module:
    """Return the trained dense model. Raises ConfigError for a configuration that transformers refuses."""
    try:
        import transformers
    except ImportError:
        raise ConfigError('trainer: upcycled needs transformers. pip install "prismatic-dynamics[hf]"') from None
    transformers.logging.set_verbosity_error()
    torch.manual_seed(config.seed)
    options = {**config.dense, "vocab_size": BYTES}
    try:
        known = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(known).to(config.device)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"dense = {config.dense} is not a configuration of transformers ({error}).") from error
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for step in range(config.dense_steps):
        optimizer.zero_grad()
        next_byte_loss(model, batch(config, corpus, step, seed=config.seed + DENSE_SEED)).backward()
        optimizer.step()
    return model


def train_mixture(model: nn.Module, config: UpcycledConfig, corpus: Corpus, callback: DynamicsLoggerCallback) -> float:
    """Train the mixture, log each step to the callback, and return the last batch's loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    loss_value = float("nan")
    for step in range(config.steps):
        tokens_BS = batch(config, corpus, step, seed=config.seed)
        optimizer.zero_grad()
        loss = next_byte_loss(model, tokens_BS, balance=config.load_balancing)
        loss.backward()
        loss_value = float(loss.detach())
        probe = (lambda tokens: next_byte_loss(model, tokens), tokens_BS)
        callback.on_before_optimizer_step(model, step, probe=probe, loss=loss_value, learning_rate=config.learning_rate)
        optimizer.step()
    return loss_value


def next_byte_loss(model: nn.Module, tokens_BS: Tensor, *, balance: float = 0.0) -> Tensor:
    """Return the mean loss of the next byte in nats. balance: weight of the mixture's auxiliary loss in it."""
    routed = {"output_router_logits": True} if balance else {}
    found = model(input_ids=tokens_BS[:, :-1], use_cache=False, **routed)
    loss = F.cross_entropy(found.logits.flatten(0, 1), tokens_BS[:, 1:].flatten())
    return loss + balance * found.aux_loss if balance else loss


@torch.no_grad()
def held_out_loss(model: nn.Module, config: UpcycledConfig, corpus: Corpus) -> float:
    """Return the mean loss on held-out text, in nats per byte."""
    batches = (batch(config, corpus, n, seed=config.seed, split="held_out") for n in range(HELD_OUT_BATCHES))
    return float(torch.stack([next_byte_loss(model, each) for each in batches]).mean())


def batch(config: UpcycledConfig, corpus: Corpus, step: int, *, seed: int, split: str = "train") -> Tensor:
    """Return the tokens of a step, [B, S + 1]."""
    tokens = corpus.batch(step, batch_size=config.batch_size, length=config.text_length, seed=seed, split=split)
    return tokens.to(config.device)
