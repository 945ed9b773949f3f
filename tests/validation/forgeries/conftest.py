"""Studies to forge, each trained once: six seeds, three perturbed and three control experts, and a probe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.validation.forgeries.forging import Study, declare, sql
from tests.validation.forgeries.trainings import Truth, train

TURNED = {"own": 1.0}
"""Divergence and its sustainment are true and supported in most studies: a false awakening is all that a yes lacks."""
STEADY = {"spread": 0.02, "jitter": 0.1}
NO_PROBE = {"config__probe_freq": 0}
BASES: dict[str, Truth] = {
    "null": Truth(spread=0.05),
    "turned": Truth(**TURNED),
    "spread": Truth(**TURNED, spread=0.35),
    "noisy rows": Truth(**TURNED, spread=0.02, jitter=0.6),
    "small": Truth(**TURNED, **STEADY, gain=1.09),
    "brief": Truth(**TURNED, **STEADY, gain=1.3, since=50, until=150),
    "fading": Truth(**TURNED, **STEADY, gain=2, until=150),
    "late": Truth(**TURNED, **STEADY, gain=1.16, since=120),
    "true": Truth(**TURNED, **STEADY, gain=1.5),
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Study]:
    """Return a function from the name of a base to its run files, which nobody changes."""

    @cache
    def of(name: str) -> Study:
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))

        def runs(kind: str, truth: Truth, *, seeds: range = range(6), **options: object) -> list[Path]:
            return [train(folder / f"{kind}-{seed}.db", seed=seed, truth=truth, **options) for seed in seeds]

        def changed(base: str, *statements: str, **options: object) -> list[Path]:
            copies = [Path(shutil.copy(path, folder)) for path in of(base).runs]
            for path in copies:
                sql(path, *statements)
                declare(path, **options)
            return copies

        of_name = {
            "twins": lambda: Study(of("turned").runs, runs("sham", Truth(spread=0.2), perturbation_scale=0.0)),
            "rates": lambda: Study([*of("spread").runs, *runs("rate", BASES["spread"], learning_rate=0.003)]),
            "many": lambda: Study([*of("spread").runs, *runs("run", BASES["spread"], seeds=range(6, 15))]),
            "no ratio": lambda: Study(changed("turned", "UPDATE layers SET bottom_to_middle = NULL")),
            "no probe": lambda: Study(changed("turned", "DELETE FROM layers WHERE source = 'isolated'", **NO_PROBE)),
            "positive": lambda: Study(changed("true", config__positive_control=1.5)),
        }
        return of_name[name]() if name in of_name else Study(runs("run", BASES[name]))

    return of


@pytest.fixture
def copied(trained: Callable[[str], Study], tmp_path: Path) -> Callable[[str], Study]:
    """Return a function from the name of a base to copies of its files, to be forged."""

    def copy(name: str) -> Study:
        base = trained(name)
        (tmp_path / "runs").mkdir()
        (tmp_path / "twins").mkdir()
        places = [Path(shutil.copy(path, tmp_path / "runs")) for path in base.runs]
        return Study(places, [Path(shutil.copy(path, tmp_path / "twins")) for path in base.twins])

    return copy
