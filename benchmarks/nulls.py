"""Real null runs of many kinds: how often the intervals of version 2 of the rules hold the truth, which is no effect.

    python benchmarks/nulls.py [--quick] [--json FILE] [--jobs N]

Trains small byte-level models under build/nulls (about ten seconds each on one core; finished runs are kept) in which
no expert was perturbed by more than 0.002 of its weights. Perturbed and control experts are then draws of one kind, so
their roles may be exchanged: for many random assignments of the roles, effects and intervals over seeds are computed as
for a real experiment. An interval should hold zero in 95 % of them, and no margin should ever be surely exceeded.

Exits 0 only if every goal holds. `--quick`: six of the kinds. Otherwise the table goes to
benchmarks/results/nulls.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import BUILD, ROOT, Skips, conclude, judged, options

sys.path.insert(0, str(ROOT))

from prismatic.contract.thresholds import Thresholds
from prismatic.runfile.manage import summarize
from prismatic.terminal import print_out, table
from prismatic.train.config import RunConfig, parse_config
from prismatic.train.corpus import Corpus
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, TWO_SIDED, Levels, effect_K, levels_of
from validation.analysis.intervals import student
from validation.analysis.load import load_runs
from validation.files.cache import Cache
from validation.files.read_files import read_files

RUNS = BUILD / "nulls"
RESULTS = ROOT / "benchmarks" / "results" / "nulls.json"
SEEDS, QUICK_KINDS = 6, 6
ASSIGNMENTS = 400  # of roles, for each kind and number of seeds
ALPHA = 0.05
RULES = {"warmup": 0.1, "rows_share": 0.8, "reliability": 0.1}
MARGINS = {
    BOTTOM: float(np.log(Thresholds().awakening_ratio)),
    SIZE: float(np.log(Thresholds().divergence_ratio)),
    DIRECTION: Thresholds().divergence_direction,
}
COMPONENTS = {"awakening": (BOTTOM,), "divergence": (SIZE, DIRECTION)}
BASE = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "sequence_length": 32,
    "batch_size": 8,
    "steps": 360,
    "learning_rate": 0.003,
    "log_freq": 2,
    "probe_freq": 6,
    "merge": "example",
    "num_experts": 3,
    "control_experts": 2,
    "perturbation_scale": 0.001,
    "weight_freq": 0,
}


@dataclass(frozen=True)
class Kind:
    """A kind of training, as the options in which it differs from the others."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    text: str | None = None

    def configs(self, seeds: int) -> list[RunConfig]:
        data = {"data": str(_text(self.text))} if self.text else {}
        return [parse_config({**BASE, **self.options, **data, "seed": seed}) for seed in range(seeds)]


def kinds() -> Iterator[Kind]:
    """Yield every kind; the first six are those of --quick."""
    yield Kind("2 perturbed, 2 controls, probe")
    yield Kind("1 perturbed, 1 control", {"num_experts": 2, "control_experts": 1})
    yield Kind("1 layer", {"num_layers": 1})
    yield Kind("scale 0", {"perturbation_scale": 0.0, "control_scale": 0.0})
    yield Kind("batch 2", {"batch_size": 2})
    yield Kind("merged gradients, no probe", {"probe_freq": 0})
    yield Kind("4 layers", {"num_layers": 4})
    yield Kind("6 layers of 16", {"num_layers": 6, "hidden_size": 16})
    yield Kind("1 perturbed, 3 controls", {"num_experts": 2, "control_experts": 3})
    yield Kind("4 perturbed, 1 control", {"num_experts": 5, "control_experts": 1})
    yield Kind("4 perturbed, 4 controls", {"num_experts": 5, "control_experts": 4})
    yield Kind("batch 4", {"batch_size": 4})
    yield Kind("batch 32 of 16", {"batch_size": 32, "sequence_length": 16})
    yield Kind("learning rate 0.001", {"learning_rate": 0.001})
    yield Kind("learning rate 0.01", {"learning_rate": 0.01})
    yield Kind("no warm-up", {"warmup_steps": 0})
    yield Kind("long warm-up", {"warmup_steps": 200})
    yield Kind("expert dropout", {"expert_dropout": 0.3})
    yield Kind("load balancing", {"load_balancing": 0.05})
    yield Kind("merge batch, probe", {"merge": "batch"})
    yield Kind("frozen routing", {"routing": "frozen"})
    yield Kind("first position routes", {"router_input": "first"})
    yield Kind("scale 0.002", {"perturbation_scale": 0.002})
    yield Kind("sparsity 0.02", {"sparsity": 0.02})
    yield Kind("sparsity 0.4", {"sparsity": 0.4})
    yield Kind("current tiers", {"tier_basis": "current"})
    yield Kind("weight decay 0.3", {"weight_decay": 0.3})
    yield Kind("clipped gradients", {"max_grad_norm": 0.5})
    yield Kind("hidden size 64", {"hidden_size": 64})
    yield Kind("constant text", text="constant")
    yield Kind("random bytes", text="random")
    yield Kind("two processes", {"batch_size": 4}, processes=2)


def _text(name: str) -> Path:
    """Return a file of text in which there is nothing to learn, or nothing but one sentence."""
    path = BUILD / f"nulls-{name}.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(32, 127, 200_000).astype(np.uint8).tobytes()
        path.write_bytes(noise if name == "random" else b"all work and no play makes a dull day. " * 5000)
    return path


def trained(kind: Kind, config: RunConfig) -> Path:
    """Return the run file of a config; train it in a process of its own if it does not exist."""
    path = RUNS / config.run_hash(Corpus.load(config.data).sha256) / "dynamics.db"
    if path.exists() and summarize(path).status == "finished":
        return path
    changed = [f"{name}={value}" for name, value in config.facts().items() if value is not None and name != "data"]
    parallel = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={kind.processes}"]
    command = [sys.executable, *(parallel if kind.processes > 1 else []), "-m", "prismatic", "train"]
    command += ["--config", os.devnull, "--runs", str(RUNS), "--checkpoint-freq", "0", "--resume", "allow"]
    command += ["--parallel", "ddp"] if kind.processes > 1 else []
    command += ["--data", str(config.data)] if config.data else []
    done = subprocess.run(
        [*command, "--set", *changed],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{kind.name}: {done.stderr[-2000:]}")
    return path


def levels(paths: Sequence[Path]) -> list[Levels]:
    """Return the levels of the runs in these files, isolated where they were probed."""
    files, rejected = read_files(paths, cache=Cache())
    if rejected:
        raise RuntimeError(str(rejected[0].error))
    return [levels_of(run.isolated or run, **RULES) for run in load_runs(files)]


def exchanged(run: Levels, dice: np.random.Generator) -> Levels:
    """Return the levels with the roles of perturbed and control experts assigned at random."""
    roles = np.array(run.roles)
    places = np.flatnonzero(roles != "clean")
    roles[places] = dice.permutation(roles[places])
    return replace(run, roles=tuple(roles.tolist()))


def table_row(kind: Kind, runs: Sequence[Levels], dice: np.random.Generator) -> dict[str, Any]:
    """Return how often intervals over six seeds hold zero, and how often they support a claim, by effect."""
    usable = [run for run in runs if run.bins.usable]
    row: dict[str, Any] = {"kind": kind.name, "seeds": len(runs), "usable": len(usable)}
    names = [name for name in (BOTTOM, SIZE, DIRECTION) if all(np.isfinite(_own(run, name)) for run in usable)]
    held, beyond = dict.fromkeys(names, 0), dict.fromkeys(COMPONENTS, 0)
    for _ in range(ASSIGNMENTS):
        chosen = [exchanged(usable[place], dice) for place in dice.permutation(len(usable))[:6]]
        effects = {name: np.array([_own(run, name) for run in chosen]) for name in names}
        for name, x_S in effects.items():
            interval = student(x_S, ALPHA)
            held[name] += interval.low <= 0 <= interval.high
        for claim, components in COMPONENTS.items():
            there = [name for name in components if name in names]
            beyond[claim] += any(
                student(effects[name], ALPHA / len(there)).beyond(MARGINS[name], two_sided=name in TWO_SIDED)
                for name in there
            )
    row |= {
        f"{name} holds 0": held[name] / ASSIGNMENTS if name in names else None for name in (BOTTOM, SIZE, DIRECTION)
    }
    row |= {f"{claim} supported": beyond[claim] / ASSIGNMENTS for claim in COMPONENTS}
    row |= {f"{name} sd": float(np.std([_own(run, name) for run in usable], ddof=1)) for name in names}
    row["reliability"] = _reliability(usable)
    return row


def _own(run: Levels, name: str) -> float:
    return float(np.nanmean(effect_K(run, name))) if name in run.of and np.isfinite(run.of[name]).any() else np.nan


def _reliability(runs: Sequence[Levels]) -> float | None:
    known = [run.reliability_ELK for run in runs if run.reliability_ELK is not None]
    return float(np.nanmedian([np.nanmedian(one) for one in known])) if known else None


def goals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals of coverage and of false support, over all kinds and in each."""
    coverage = {
        name: float(np.mean([row[f"{name} holds 0"] for row in rows if row[f"{name} holds 0"] is not None]))
        for name in (BOTTOM, SIZE, DIRECTION)
    }
    supported = {claim: [row[f"{claim} supported"] for row in rows] for claim in COMPONENTS}
    at_least = [(f"intervals that hold zero, {name}, all kinds", figure, 0.94) for name, figure in coverage.items()]
    at_most = [(f"intervals that hold zero, {name}, all kinds", figure, 0.96) for name, figure in coverage.items()]
    at_most += [(f"false support of {claim}, all kinds", float(np.mean(s)), 0.01) for claim, s in supported.items()]
    at_most += [(f"false support of {claim}, the worst kind", max(s), 0.025) for claim, s in supported.items()]
    return judged(at_least, at_most)


def main() -> int:
    """Train, exchange roles and print; return 0 if every goal holds."""
    parser = options(__doc__, "six of the kinds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="trainings at a time")
    chosen = parser.parse_args()
    every = [*kinds()][: QUICK_KINDS if chosen.quick else None]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        work = [[pool.submit(trained, k, c) for c in k.configs(SEEDS)] for k in every]
        paths = [[future.result() for future in futures] for futures in work]
    dice = np.random.default_rng(0)
    rows = [table_row(kind, levels(own), dice) for kind, own in zip(every, paths, strict=True)]
    print_table(rows)
    to = chosen.json or (None if chosen.quick else RESULTS)
    return conclude(goals(rows), {"base": BASE, "kinds": rows}, Skips(), quick=chosen.quick, to=to)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each kind."""
    columns = [f"{name} holds 0" for name in (BOTTOM, SIZE, DIRECTION)] + [f"{claim} supported" for claim in COMPONENTS]
    print_out(
        table(
            [
                {
                    "kind": row["kind"],
                    "usable": f"{row['usable']} of {row['seeds']}",
                    **{column: "-" if row[column] is None else f"{100 * row[column]:.1f} %" for column in columns},
                    "reliability": "-" if row["reliability"] is None else f"{row['reliability']:.2f}",
                }
                for row in rows
            ]
        )
    )


if __name__ == "__main__":
    sys.exit(main())
