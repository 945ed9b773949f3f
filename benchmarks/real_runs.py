"""Verdicts on real trainings with a known truth: nulls, perturbed runs and artificial positives.

    python benchmarks/real_runs.py [--quick] [--json FILE] [--jobs N]

Trains small byte-level models under build/real (about half a minute each on one core; finished runs are kept), judges
every run alone and all seeds of an experiment together, and prints the table of LOG.md.

A *null run* has nothing to find: `perturbation_scale` is 0, or 0.001, which only breaks ties. By rule no claim about it
is ever supported, so it is judged again as if it were perturbed (row "unguarded"), which tests the statistics alone.
A *positive* run multiplies the bottom-tier gradients of perturbed experts. Perturbed runs are the open question and
have no goal.

Exits 0 only if every goal holds. `--quick` takes three seeds of each; otherwise the table is written to
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
ENOUGH = 30.0  # effective independent steps from which a positive must be found


@dataclass(frozen=True)
class Experiment:
    """A configuration in several seeds. kind: null, perturbed or positive."""

    name: str
    kind: str
    seeds: int
    options: dict[str, Any] = field(default_factory=dict)

    def configs(self, quick: bool) -> list[RunConfig]:
        seeds = range(min(self.seeds, 3) if quick else self.seeds)
        return [parse_config({**MODEL, **self.options, "seed": seed}) for seed in seeds]


def experiments() -> Iterator[Experiment]:
    """Yield every experiment."""
    for merge in ("batch", "example"):
        for control in (0, 1):
            options = {"perturbation_scale": 0.0, "merge": merge, "control_experts": control}
            has_control = "with" if control else "without"
            yield Experiment(f"scale 0, merge {merge}, {has_control} control expert", "null", 10, options)
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
    """Return the run file of a config; train it in a separate process if it does not exist."""
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
    """Return the verdict on a null run as if it were perturbed, by the statistics alone."""

    def relabelled(part: Run) -> Run:
        changed = part.changed if run.number("config.perturbation_scale") else {}  # would reveal the null run
        return replace(part, facts={**part.facts, "config.perturbation_scale": 1.0}, scales={}, changed=changed)

    perturbed = replace(relabelled(run), isolated=relabelled(run.isolated) if run.isolated else None)
    return decide([perturbed], invalidating(diagnose(perturbed)), Thresholds())


def statuses_of(verdict: Verdict) -> dict[str, str]:
    """Return the status of each claim about a single run, and the overall status."""
    claims = {c.name: c.status for c in verdict.controlled.claims if c.expert is None}
    return {"overall": verdict.status, **{name: claims[name] for name in CLAIMS}}


def table_row(experiment: Experiment, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the table row of one experiment: its runs judged alone, unguarded and together."""
    files, rejected = read_files(paths, cache=Cache())
    if rejected:
        raise RuntimeError(f"{experiment.name}: {rejected[0].error}")
    each = [judge([file]) for file in files]
    alone = [statuses_of(judgement.verdict) for judgement in each]
    found: dict[str, Any] = {"experiment": experiment.name, "kind": experiment.kind, "seeds": len(files)}
    found["runs"] = {name: Counter(statuses[name] for statuses in alone) for name in ("overall", *CLAIMS)}
    claims = [{c.name: c for c in judgement.verdict.controlled.claims if c.expert is None} for judgement in each]
    found["estimates"] = {name: [of_run[name].estimate for of_run in claims] for name in CLAIMS}
    found["information"] = [of_run["awakening"].information for of_run in claims]
    found["premise"] = Counter(judgement.verdict.premises[0].status for judgement in each)
    if experiment.kind == "null":
        free = [statuses_of(unguarded(judgement.runs[0])) for judgement in each]
        found["unguarded"] = {name: Counter(statuses[name] for statuses in free) for name in ("overall", *CLAIMS)}
    together = judge(files).verdict.controlled
    found["together"] = {c.name: [c.status, c.because] for c in together.claims if c.run is None}
    return found


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals: no claim about a null run is supported, with or without the rule; added effects are found."""

    def supported(table: str) -> int:
        nulls = [row for row in rows if row["kind"] == "null"]
        return sum(row[table][name][SUPPORTED] for row in nulls for name in ("overall", *CLAIMS))

    positive = [row for row in rows if row["experiment"].startswith("positive control 1.5")]
    enough = sum((n or 0) >= ENOUGH for row in positive for n in row["information"])
    found = sum(row["runs"]["awakening"][SUPPORTED] for row in positive)
    share = found / max(1, sum(row["seeds"] for row in positive))
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
            "goal": f"awakening found at 1.5x ({enough} of these runs have n_eff >= {ENOUGH:g})",
            "figure": share,
            "limit": 0.95,
            "holds": share >= 0.95,
        },
    ]


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of LOG.md: the number of runs with each status."""

    def counts(statuses: dict[str, int]) -> str:
        return ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))

    lines = ["| runs | awakening | divergence | sustainment | all seeds together |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [counts(row["runs"][name]) for name in CLAIMS]
        together = "; ".join(f"{name} {status}" for name, (status, _) in row["together"].items()) or "one run"
        lines.append(f"| {row['experiment']} ({row['seeds']}) | {' | '.join(cells)} | {together} |")
        if "unguarded" in row:
            cells = [counts(row["unguarded"][name]) for name in CLAIMS]
            lines.append(f"| … unguarded | {' | '.join(cells)} | |")
    return "\n".join(lines)


def main() -> int:
    """Train, judge and print; return 0 if every goal holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three seeds of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="trainings at a time")
    options = parser.parse_args()
    planned = [(experiment, experiment.configs(options.quick)) for experiment in experiments()]
    corpus, started = Corpus.load().sha256, time.perf_counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        work = {e.name: [pool.submit(trained, config, corpus) for config in configs] for e, configs in planned}
        paths = {name: [future.result() for future in futures] for name, futures in work.items()}
    rows = [table_row(experiment, paths[experiment.name]) for experiment, _ in planned]
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
