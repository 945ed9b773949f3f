"""Verdicts on real trainings with a known truth: nulls, perturbed runs and artificial positives.

    python benchmarks/real_runs.py [--quick] [--json FILE] [--jobs N]

Trains small byte-level models (about half a minute each on one core; those that are there already are not trained
again) under build/real, judges every run alone and every group of seeds together, and prints the table of LOG.md.

A *null* has nothing to find: `perturbation_scale` 0, or 0.001, which only breaks the ties. Nothing is ever supported
for such a run, by rule; so it is judged once more under the pretence that it was perturbed (row "unguarded"), which is
what calibrates the statistics. A *positive* multiplies the bottom-tier gradients of perturbed experts. What the
perturbed runs show is the question itself, and no goal.

Exits 0 only if every goal holds. `--quick`: three seeds of each. Otherwise the table goes to
benchmarks/results/real_runs.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from prismatic.contract.thresholds import Thresholds
from prismatic.train.config import RunConfig, parse_config
from prismatic.train.corpus import Corpus
from validation.analysis.run import Run
from validation.diagnostics import diagnose, invalidating
from validation.files.cache import Cache
from validation.files.read_files import read_files
from validation.judgement.judge import judge
from validation.verdict.claims import CLAIMS, SUPPORTED
from validation.verdict.decide import Verdict, decide

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "build" / "real"
RESULTS = ROOT / "benchmarks" / "results" / "real_runs.json"
MODEL = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "sequence_length": 32,
    "batch_size": 8,
    "steps": 600,
    "learning_rate": 0.003,
    "log_freq": 2,
}
PROBED = {"merge": "example", "control_experts": 1, "probe_freq": 4}
ENOUGH = 30.0  # independent steps' worth of information from which a positive must be found


@dataclass(frozen=True)
class Experiment:
    """One configuration in several seeds. kind: null, perturbed or positive."""

    name: str
    kind: str
    seeds: int
    options: dict[str, Any] = field(default_factory=dict)

    def configs(self, quick: bool) -> list[RunConfig]:
        seeds = range(min(self.seeds, 3) if quick else self.seeds)
        return [parse_config({**MODEL, **self.options, "seed": seed}) for seed in seeds]


def experiments() -> Iterator[Experiment]:
    """Everything that is trained."""
    for merge in ("batch", "example"):
        for control in (0, 1):
            options = {"perturbation_scale": 0.0, "merge": merge, "control_experts": control}
            told = "with" if control else "without"
            yield Experiment(f"scale 0, merge {merge}, {told} control expert", "null", 10, options)
    yield Experiment("scale 0.001, example, control, probe", "null", 10, {"perturbation_scale": 0.001, **PROBED})
    for scale in (0.5, 1.0, 2.0):
        options = {"perturbation_scale": scale, **PROBED}
        yield Experiment(f"scale {scale:g}, example, control, probe", "perturbed", 5, options)
    frozen = {"merge": "example", "routing": "frozen", "probe_freq": 4}
    for scale in (0.001, 1.0):
        kind = "null" if scale == 0.001 else "perturbed"
        options = {"perturbation_scale": scale, **frozen}
        yield Experiment(f"scale {scale:g}, example, frozen routing, probe", kind, 5, options)
    for factor, seeds in ((1.5, 10), (1.2, 5)):
        for merge in ("batch", "example"):
            options = {"perturbation_scale": 1.0, "positive_control": factor, "merge": merge, "control_experts": 1}
            yield Experiment(f"positive control {factor}, merge {merge}", "positive", seeds, options)


def trained(config: RunConfig, corpus_sha256: str) -> Path:
    """The run file of a config, trained in a process of its own if it is not there yet."""
    path = RUNS / config.run_hash(corpus_sha256) / "dynamics.db"
    changed = [f"{name}={value}" for name, value in config.facts().items() if value is not None]
    command = [sys.executable, "-m", "prismatic", "train", "--config", os.devnull, "--runs", str(RUNS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--resume", "allow", "--set", *changed], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{config.facts()}: {done.stderr}")
    return path


def unguarded(run: Run) -> Verdict:
    """The verdict on a null under the pretence that it was perturbed: by the statistics alone."""

    def pretended(one: Run) -> Run:
        changed = one.changed if run.number("config.perturbation_scale") else {}  # or it would be known by that
        return replace(one, facts={**one.facts, "config.perturbation_scale": 1.0}, scales={}, changed=changed)

    perturbed = replace(pretended(run), isolated=pretended(run.isolated) if run.isolated else None)
    return decide([perturbed], invalidating(diagnose(perturbed)), Thresholds())


def told(verdict: Verdict) -> dict[str, str]:
    """Status of each claim of the only run, and of all of them."""
    claims = {c.name: c.status for c in verdict.controlled.claims if c.expert is None}
    return {"overall": verdict.status, **{name: claims[name] for name in CLAIMS}}


def row(experiment: Experiment, paths: Sequence[Path]) -> dict[str, Any]:
    """What was said of the runs of one experiment: alone, unguarded, and together."""
    files, rejected = read_files(paths, cache=Cache())
    if rejected:
        raise RuntimeError(f"{experiment.name}: {rejected[0].error}")
    each = [judge([file]) for file in files]
    alone = [told(one.verdict) for one in each]
    found: dict[str, Any] = {"experiment": experiment.name, "kind": experiment.kind, "seeds": len(files)}
    found["runs"] = {name: Counter(one[name] for one in alone) for name in ("overall", *CLAIMS)}
    claims = [{c.name: c for c in one.verdict.controlled.claims if c.expert is None} for one in each]
    found["estimates"] = {name: [of_run[name].estimate for of_run in claims] for name in CLAIMS}
    found["information"] = [of_run["awakening"].information for of_run in claims]
    found["premise"] = Counter(one.verdict.premises[0].status for one in each)
    if experiment.kind == "null":
        free = [told(unguarded(one.runs[0])) for one in each]
        found["unguarded"] = {name: Counter(one[name] for one in free) for name in ("overall", *CLAIMS)}
    together = judge(files).verdict.controlled
    found["together"] = {c.name: [c.status, c.because] for c in together.claims if c.run is None}
    return found


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """No null is ever supported, with and without the rule that says so; what was put in by hand is found."""

    def supported(table: str) -> int:
        of_null = [one for one in rows if one["kind"] == "null"]
        return sum(one[table][name][SUPPORTED] for one in of_null for name in ("overall", *CLAIMS))

    positive = [one for one in rows if one["experiment"].startswith("positive control 1.5")]
    asked = sum((n or 0) >= ENOUGH for one in positive for n in one["information"])
    yes = sum(one["runs"]["awakening"][SUPPORTED] for one in positive)
    share = yes / max(1, sum(one["seeds"] for one in positive))
    return [
        {
            "goal": "claims supported on real nulls",
            "figure": supported("runs"),
            "limit": 0,
            "holds": not supported("runs"),
        },
        {
            "goal": "the same, unguarded",
            "figure": supported("unguarded"),
            "limit": 0,
            "holds": not supported("unguarded"),
        },
        {
            "goal": f"awakening found at 1.5x ({asked} of these runs have n_eff >= {ENOUGH:g})",
            "figure": share,
            "limit": 0.95,
            "holds": share >= 0.95,
        },
    ]


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of LOG.md: how many runs got which status."""

    def counts(statuses: dict[str, int]) -> str:
        return ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))

    lines = ["| runs | awakening | divergence | sustainment | all seeds together |", "|---|---|---|---|---|"]
    for one in rows:
        cells = [counts(one["runs"][name]) for name in CLAIMS]
        together = "; ".join(f"{name} {status}" for name, (status, _) in one["together"].items()) or "one run"
        lines.append(f"| {one['experiment']} ({one['seeds']}) | {' | '.join(cells)} | {together} |")
        if "unguarded" in one:
            cells = [counts(one["unguarded"][name]) for name in CLAIMS]
            lines.append(f"| … unguarded | {' | '.join(cells)} | |")
    return "\n".join(lines)


def main() -> int:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three seeds of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="trainings at a time")
    options = parser.parse_args()
    asked = [(one, one.configs(options.quick)) for one in experiments()]
    corpus, started = Corpus.load().sha256, time.perf_counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        work = {one.name: [pool.submit(trained, config, corpus) for config in configs] for one, configs in asked}
        paths = {name: [future.result() for future in futures] for name, futures in work.items()}
    rows = [row(one, paths[one.name]) for one, _ in asked]
    print(as_markdown(rows), end="\n\n")
    checked = goals(rows)
    for goal in checked:
        holds = "holds" if goal["holds"] else "FAILS"
        print(f"{goal['goal']:<64} {goal['figure']:>6.3g}  limit {goal['limit']:<5g} {holds}")
    if target := options.json or (None if options.quick else RESULTS):
        report = {"date": time.strftime("%Y-%m-%d"), "seconds": time.perf_counter() - started, "model": MODEL}
        target.write_text(json.dumps({**report, "goals": checked, "rows": rows}, indent=1) + "\n")
    return 0 if all(goal["holds"] for goal in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
