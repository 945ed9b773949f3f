"""The plan of a study: its seeds and its number of runs, registered in each run file before the run's first step.

The best six of fourteen seeds can show an effect that the fourteen do not. So `prismatic sweep` tells each run which
seeds are planned, and a report says if all of them are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prismatic.contract.study_plan import PREFIX, StudyPlan, read_plan
from prismatic.errors import ConfigError

SEEDS = re.compile(r"\d{1,19}(\.\.\d{1,19})?(,\d{1,19}(\.\.\d{1,19})?)*")
COUNT = re.compile(r"\d{1,9}")
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Study:
    """A planned study."""

    seeds: tuple[int, ...]
    """The seeds of each experiment, in ascending order."""
    runs: int = 0
    """The number of runs of all experiments together; 0 if unknown."""
    sha256: str = ""
    """The hash over the hashes of all planned runs, which identifies the study; empty if unknown."""
    plan: StudyPlan | None = None
    """The experiments and hypotheses of a named study; None of a sweep."""

    def facts(self) -> dict[str, Any]:
        """Return the facts that a run writes before its first step."""
        known = {"seeds": [*self.seeds], "runs": self.runs, "sha256": self.sha256}
        named = self.plan.facts() if self.plan is not None else {}
        return {f"{PREFIX}{name}": value for name, value in known.items()} | named

    def words(self, plan: Path | None = None) -> list[str]:
        """Return the study as `NAME=VALUE` words, which `from_words` reads. plan: the file that holds the plan."""
        known = [f"seeds={as_ranges(self.seeds)}", f"runs={self.runs}", f"sha256={self.sha256}"]
        return known if plan is None else [*known, f"plan={plan}"]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Self:
        """Return the study that these words name. Raises ConfigError."""
        values = dict(word.partition("=")[::2] for word in words)
        seeds = _from_ranges(values.get("seeds", ""))
        runs, sha256 = values.get("runs", ""), values.get("sha256", "")
        known = {"seeds", "runs", "sha256", *(["plan"] if "plan" in values else [])}
        if known != {*values} or len(words) != len(known) or not seeds:
            raise _not_a_study(words)
        if not COUNT.fullmatch(runs) or not _is_sha256(sha256):
            raise _not_a_study(words)
        return cls(seeds, int(runs), sha256, _plan_in(Path(values["plan"])) if "plan" in values else None)


def _not_a_study(words: Sequence[str]) -> ConfigError:
    given = " ".join(words)
    return ConfigError(f"--study {given}: expected seeds=0..5 runs=18 sha256=..., as `prismatic sweep` gives it.")


def _plan_in(path: Path) -> StudyPlan:
    try:
        plan = StudyPlan.from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--study plan={path}: cannot be read ({error}). `prismatic study` writes it.") from error
    if plan is None:
        raise ConfigError(f"--study plan={path}: this is not the plan of a study. `prismatic study` writes it.")
    return plan


def read_study(facts: Mapping[str, Any]) -> Study | None:
    """Return the study that the facts of a run file register; None if they register no seeds."""
    seeds, runs, sha256 = (facts.get(f"{PREFIX}{name}") for name in ("seeds", "runs", "sha256"))
    if not isinstance(seeds, list) or not seeds or not all(map(_is_integer, seeds)):
        return None
    known: dict[str, Any] = {"runs": runs} if _is_integer(runs) else {}
    known |= {"sha256": sha256} if _is_sha256(sha256) else {}
    known |= {"plan": read_plan(facts)}
    return Study(tuple(sorted({*seeds})), **known)


def as_ranges(seeds: Iterable[int]) -> str:
    """Return seeds as `--grid` reads them: 0..5,9."""
    ranges: list[list[int]] = []
    for seed in sorted({*seeds}):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ",".join(f"{first}..{last}" if first < last else f"{first}" for first, last in ranges)


def _from_ranges(text: str) -> tuple[int, ...]:
    """Return the seeds of `as_ranges`; none for any other text, or for too many seeds."""
    ends = [[int(end) for end in part.split("..")] for part in text.split(",")] if SEEDS.fullmatch(text) else []
    counts = [part[-1] - part[0] + 1 for part in ends]
    if min(counts, default=0) < 1 or sum(counts) > MOST_SEEDS:
        return ()
    return tuple(sorted({seed for part in ends for seed in range(part[0], part[-1] + 1)}))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
