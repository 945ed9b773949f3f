"""Verdicts on real trainings: the hypothesis in small models, its sham runs, and artificial effects.

    python benchmarks/real_runs.py [--quick] [--json FILE] [--runs FOLDER] [--jobs N]

Trains small byte-level models under build/real (about half a minute each on one core; finished runs are kept): the
documented experiment as it is, then experiments with three perturbed and three control experts, isolated gradients and
six seeds, in which every seed has a sham run. Each study is judged as a whole, and each of its runs by itself. Prints
the table of LOG.md.

A *positive control* multiplies the bottom-tier gradients of the perturbed experts, so its awakening must be found from
1.3x on; 1.1x is the margin, where nothing can be asked. No sham run may show an effect. What perturbed runs show is the
open question and has no goal.

Exits 0 only if every goal holds. `--quick` trains scales 0 and 1 of the first study, for 120 steps; otherwise the
table is written to benchmarks/results/real_runs.json.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import BUILD, ROOT, Skips, conclude, options
from common import judged as as_goals

sys.path.insert(0, str(ROOT))

from trainings import BASE, train_all

from prismatic.train.config import RunConfig, load_config, parse_config
from validation.analysis.cohort import Cohort, MeasuredRun
from validation.files.cache import Cache
from validation.files.read_files import read_files
from validation.judgement.judge import Judgement, judge
from validation.verdict.claims import CLAIMS, INVALID, SUPPORTED, Claim
from validation.verdict.groups import FAILS, FOUND, POSITIVE, SHAM, Group

RUNS = BUILD / "real"
RESULTS = ROOT / "benchmarks" / "results" / "real_runs.json"
SEEDS = 6
SMALL = {**BASE, "num_experts": 4, "control_experts": 3, "perturbation_scale": 1.0}


@dataclass(frozen=True)
class Study:
    """Experiments that are judged together. each: the options of each, beside those of the small model."""

    name: str
    each: Sequence[Mapping[str, Any]]

    def configs(self, quick: bool) -> list[RunConfig]:
        """Return the configs of every experiment and seed."""
        if not self.each:
            documented = load_config(ROOT / "experiments" / "prismatic.yml").facts()
            return [parse_config({**documented, "seed": seed}) for seed in range(SEEDS)]
        shorter = {"steps": 120} if quick else {}
        return [
            parse_config({**SMALL, **options, **shorter, "seed": seed})
            for options in self.each
            for seed in range(SEEDS)
        ]


def studies() -> Iterator[Study]:
    """Yield every study; --quick takes the first alone."""

    def scales(*values: float, **options: Any) -> list[dict[str, Any]]:
        return [{"perturbation_scale": value, **options} for value in values]

    yield Study("one merge per sequence, probe", scales(0.0, 0.5, 1.0, 2.0))
    yield Study("frozen routing", scales(0.0, 1.0, routing="frozen"))
    yield Study("four times as long", scales(0.0, 1.0, steps=4 * SMALL["steps"], log_freq=8, probe_freq=24))
    yield Study("positive controls", [{"positive_control": factor} for factor in (1.1, 1.3, 1.5)])
    yield Study("the documented experiment", ())


def figures(study: Study, judgement: Judgement) -> dict[str, Any]:
    """Return what the study shows, by group, and by its runs alone."""
    return {
        "study": study.name,
        "groups": [of_group(study, group, judgement) for group in judgement.verdict.groups],
        "over all": {name: claim.because for name, claim in judgement.verdict.headlines.items()},
        "doses": [dose.because for dose in judgement.verdict.doses],
        "smallest distance to a twin": distance_to_twins(judgement),
        "findings": Counter(f"{finding.id} ({finding.severity})" for finding in judgement.findings),
    }


def of_group(study: Study, group: Group, judgement: Judgement) -> dict[str, Any]:
    """Return the statuses and sentences of a group, and the statuses of its runs by themselves."""
    alone = [judgement.verdict.controlled.whole(run) for run in group.runs]
    return {
        "group": study.name if group.name == "all runs" else f"{study.name}, {group.name}",
        "role": group.role,
        "runs": len(group.runs),
        "check": group.check,
        "premise": group.premise and group.premise.because,
        "claims": {claim.name: as_row(claim) for claim in group.claims},
        "alone": {name: Counter(claims[name].status for claims in alone) for name in CLAIMS},
    }


def as_row(claim: Claim) -> dict[str, Any]:
    """Return the numbers and the sentence of a claim."""
    return {
        "status": claim.status,
        "reason": claim.reason,
        "because": claim.because,
        "seeds_needed": claim.seeds_needed,
        "components": {part.name: [part.estimate, part.low, part.high] for part in claim.components},
    }


def distance_to_twins(judgement: Judgement) -> float | None:
    """Return the smallest root mean square between the levels of a run of scale 1 and those of its sham run."""
    cohort = Cohort(judgement.measured)
    pairs = [(run, cohort.twin_of(run.run)) for run in judgement.measured]
    found = [_distance(run, twin) for run, twin in pairs if twin and run.run.number("config.perturbation_scale") == 1]
    return min(found, default=None)


def _distance(run: MeasuredRun, twin: MeasuredRun) -> float:
    of, others = (each.levels(run.source) for each in (run, twin))
    if of is None or others is None:
        return np.inf
    gaps = [(level - others.of[name]).ravel() for name, level in of.of.items() if name in others.of]
    return float(np.sqrt(np.nanmean(np.concatenate(gaps) ** 2)))


def goals(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals: no sham run shows an effect, artificial effects are found, no run is taken for its twin."""
    groups = [group for study in found for group in study["groups"]]
    shams = [group for group in groups if group["role"] == SHAM]
    invalid = sum(claim["status"] == INVALID for group in groups for claim in group["claims"].values())
    strong = [group for group in groups if group["role"] == POSITIVE and "positive_control=1.1" not in group["group"]]
    supported = sum(claim["status"] == SUPPORTED for group in shams for claim in group["claims"].values())
    alone = sum(counts.get(SUPPORTED, 0) for group in shams for counts in group["alone"].values())
    twins = [study["smallest distance to a twin"] for study in found]
    at_least = [("the smallest distance between a run and its twin", min(t for t in twins if t is not None), 0.02)]
    if strong:
        at_least.append(
            ("positive controls of 1.3x and 1.5x found", sum(g["check"] == FOUND for g in strong), len(strong))
        )
    at_most = [
        ("A/A checks that fail", sum(group["check"] == FAILS for group in shams), 0),
        ("claims about groups of sham runs supported", supported, 0),
        ("claims about single sham runs supported", alone, 0),
        ("claims about groups of honest runs invalid", invalid, 0),
    ]
    return as_goals(at_least, at_most)


def as_markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of LOG.md: statuses over seeds with their estimates, and those of single runs."""
    lines = [
        "| experiment (seeds) | awakening | divergence | sustainment | single runs: awakening, divergence |",
        "|---|---|---|---|---|",
    ]
    for group in (group for study in found for group in study["groups"]):
        cells = [_cell(group["claims"][name]) for name in CLAIMS]
        alone = "; ".join(_counts(group["alone"][name]) for name in CLAIMS[:2])
        check = f", check {group['check'].replace('_', ' ')}" if group["check"] else ""
        lines.append(f"| {group['group']} ({group['runs']}){check} | {' | '.join(cells)} | {alone} |")
    return "\n".join(lines)


def _cell(claim: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {estimate:.2f} [{low:.2f}, {high:.2f}]"
        for name, (estimate, low, high) in claim["components"].items()
        if None not in (estimate, low, high)
    ]
    return f"{claim['status']} ({claim['reason'].replace('_', ' ')}): {', '.join(parts)}" if parts else claim["status"]


def _counts(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))


def main() -> int:
    """Train, judge and print; return 0 if every goal holds."""
    parser = options(__doc__, "scales 0 and 1 of the first study, for 120 steps")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help="where the runs are")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="trainings at a time")
    chosen = parser.parse_args()
    found = []
    for study in [*studies()][: 1 if chosen.quick else None]:
        paths = train_all(study.configs(chosen.quick), chosen.runs, jobs=chosen.jobs)
        files, rejected = read_files(paths, cache=Cache())
        found.append(figures(study, judge(files, rejected)))
        print(study.name, flush=True)
    print(f"\n{as_markdown(found)}\n")
    for group in (group for study in found for group in study["groups"]):
        print(group["group"], *(f"  {name}: {claim['because']}" for name, claim in group["claims"].items()), sep="\n")
    print(*(dose for study in found for dose in study["doses"]), sep="\n")
    to = chosen.json or (None if chosen.quick else RESULTS)
    return conclude(goals(found), {"model": SMALL, "studies": found}, Skips(), quick=chosen.quick, to=to)


if __name__ == "__main__":
    sys.exit(main())
