"""Studies before the gate: simulated runs with their sham runs and registered seeds, judged as files are."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from prismatic.contract.study import Study
from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import named, simulated_run, study
from validation.analysis.run import Run
from validation.judgement.judge import Judgement, combine_judgements, judge_each


def registered(runs: Sequence[Run], seeds: Sequence[int]) -> list[Run]:
    """Return the runs as if they had registered these seeds before their first step."""
    return [replace(run, facts={**run.facts, **Study(tuple(seeds)).facts()}) for run in runs]


def judged(runs: Sequence[Run], claim: str = "awakening", **changed: float) -> Judgement:
    thresholds = Thresholds().changed(changed)
    return combine_judgements((), (), judge_each(runs, thresholds), thresholds, claim)


def sham_runs(seeds: int, *, scale: float = 0.0, **effects: float) -> list[Run]:
    """Return sham runs with noise of their own, and effects that no sham run should have."""
    return [
        named(
            simulated_run(
                seed=seed, noise_seed=10**7 + seed, steps=60, control=1, facts={"planned_steps": 60}, **effects
            ),
            f"sham {scale:g} {seed}",
            merge="example",
            seed=seed,
            perturbation_scale=scale,
        )
        for seed in range(seeds)
    ]


@pytest.fixture(scope="package")
def made() -> Callable[..., list[Run]]:
    """Return a function that makes a study, each only once."""
    known: dict[str, list[Run]] = {}

    def make(seeds: int, **how) -> list[Run]:
        name = f"{seeds} {sorted(how.items())}"
        if name not in known:
            twins = how.pop("twins", True)
            known[name] = study(seeds, twins=twins, steps=60, control=1, **how)
        return known[name]

    return make
