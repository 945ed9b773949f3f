"""Drop-Upcycling against plain copies, computed from the weights and outputs themselves, beside the study's interval.

    python benchmarks/upcycling_by_hand.py build/runs/upcycling/study/study.json

Trains the runs of experiments/studies/upcycling.yml with the methods copy and drop again, without a logger or a probe.
In the last third it takes each expert's weights out of the mixture, and runs a plain Llama whose MLPs are the clean
expert's to get each layer's input. Shares no code with the measurements of the package. The mean difference over seeds
must lie in the interval that the study's report has for `pair_weights` and `pair_outputs`. Minutes on two cores.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional as F

from prismatic.sweep.study import load_study, plan_study
from prismatic.train.corpus import Corpus
from prismatic.train.programs.upcycled import BYTES, UpcycledConfig, train_dense, train_mixture, upcycled

STUDY = Path(__file__).resolve().parent.parent / "experiments" / "studies" / "upcycling.yml"
WARMUP, LAST_THIRD = 0.1, 2 / 3


class ByHand:
    """Takes the place of the logger: two means over pairs of experts and layers, at steps of the last third."""

    def __init__(self, config: UpcycledConfig):
        first = WARMUP * config.steps + LAST_THIRD * (1 - WARMUP) * config.steps
        self.steps = {step for step in range(0, config.steps, config.probe_freq) if step >= first}
        self.config = config
        self.found: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, model: Any, step: int, *, probe: tuple[Any, torch.Tensor], **_: Any) -> None:
        if step in self.steps:
            with torch.no_grad():
                self.found.append(self.measure(model, probe[1][0::2, :-1]))

    def measure(self, model: Any, tokens: torch.Tensor) -> tuple[float, float]:
        """Return the relative distance of weights and the disagreement of outputs, means over pairs and layers."""
        weights, outputs = [], []
        for layer, hidden in zip(model.model.layers, self.inputs(model, tokens), strict=True):
            gate_up, down = layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj
            flat = [torch.cat([gate_up[e].flatten(), down[e].flatten()]).double() for e in range(len(down))]
            made = [expert(gate_up[e], down[e], hidden).double() for e in range(len(down))]
            for e, f in combinations(range(len(down)), 2):
                size = ((flat[e].square().sum() + flat[f].square().sum()) / 2).sqrt()
                weights.append(float((flat[e] - flat[f]).norm() / size))
                outputs.append(float((1 - F.cosine_similarity(made[e], made[f], dim=-1)).mean()))
        return sum(weights) / len(weights), sum(outputs) / len(outputs)

    def inputs(self, model: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
        """Return each MLP's input in a plain dense model that has the clean expert in every layer."""
        options = {**self.config.dense, "vocab_size": BYTES}
        dense = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(options.pop("model_type"), **options)
        )
        state = {name: weight for name, weight in model.state_dict().items() if ".mlp." not in name}
        for number, layer in enumerate(model.model.layers):
            own = f"model.layers.{number}.mlp"
            gate, up = layer.mlp.experts.gate_up_proj[0].chunk(2)
            down = layer.mlp.experts.down_proj[0]
            state |= {f"{own}.gate_proj.weight": gate, f"{own}.up_proj.weight": up, f"{own}.down_proj.weight": down}
        dense.load_state_dict(state)
        seen: list[torch.Tensor] = []
        for layer in dense.model.layers:
            layer.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        dense(input_ids=tokens, use_cache=False)
        return seen


def expert(gate_up: torch.Tensor, down: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Return the output of one expert, a gated MLP."""
    gate, up = F.linear(hidden, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


def of_run(config: UpcycledConfig) -> tuple[float, float]:
    """Train one run and return both measures, means over the last third."""
    torch.set_num_threads(1)
    corpus, by_hand = Corpus.load(config.data), ByHand(config)
    train_mixture(upcycled(train_dense(config, corpus), config), config, corpus, by_hand)
    weights, outputs = zip(*by_hand.found, strict=True)
    return sum(weights) / len(weights), sum(outputs) / len(outputs)


def main(study_json: Path) -> int:
    """Print both differences beside the study's intervals, and return 0 if these hold them."""
    jobs = [job for job in plan_study(load_study(STUDY)).jobs if job.facts["upcycle_method"] in ("copy", "drop")]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        values = [*pool.map(of_run, [job.config for job in jobs])]
    by_key = {(job.facts["upcycle_method"], job.config.seed): value for job, value in zip(jobs, values, strict=True)}
    seeds = sorted({seed for _, seed in by_key})
    told = json.loads(study_json.read_text())["hypotheses"]
    answers = {each.get("effect"): each for each in told if each.get("of") == {"upcycle_method": "drop"}}
    holds = True
    for place, effect in enumerate(("pair_weights", "pair_outputs")):
        copy, drop = (sum(by_key[method, seed][place] for seed in seeds) / len(seeds) for method in ("copy", "drop"))
        (part,) = answers[effect]["experiments"]
        inside = part["low"] <= drop - copy <= part["high"]
        holds &= inside
        print(
            f"{effect}: copy {copy:.4f}, drop {drop:.4f}, difference by hand {drop - copy:+.4f}; the study says "
            f"{part['estimate']:+.4f} [{part['low']:+.4f}, {part['high']:+.4f}]: {'holds' if inside else 'FAILS'}"
        )
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
