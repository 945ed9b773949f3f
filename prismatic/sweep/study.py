"""A study as one YAML file (StudyFile): what is trained, what varies, seeds, controls, hypotheses and thresholds.

The file becomes a sweep whose runs register the whole plan before their first step. Runs that registered another plan
cannot be judged by this one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from prismatic.contract.study_plan import (
    EXPECTED_SIDE,
    NAME,
    Hypothesis,
    Options,
    StudyPlan,
    experiments_of,
    has_options,
    named,
    read_plan,
)
from prismatic.contract.thresholds import SHAM_SCALE, Thresholds
from prismatic.errors import ConfigError, StudyError
from prismatic.runfile.manage import read_facts, summarize
from prismatic.sweep.plan import POSITIVE, SCALE, SEED, Job, Sweep, expand_range, jobs_of
from prismatic.train.config import read_options, validated
from prismatic.train.trainers import BYTE_LM, parse

Scalar = bool | int | float | str | None


class HypothesisOptions(BaseModel):
    """A hypothesis of the file, see `contract.study_plan.Hypothesis`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: str = ""
    effect: str = ""
    expect: str
    of: dict[str, Scalar] = {}
    against: dict[str, Scalar] = {}
    by: Annotated[FiniteFloat, Field(ge=0)] = 0.0

    @property
    def hypothesis(self) -> Hypothesis:
        """The hypothesis, as it is registered."""
        return Hypothesis(**self.model_dump())

    @model_validator(mode="after")
    def _is_a_prediction(self) -> Self:
        if self.hypothesis.problem:
            raise ValueError(self.hypothesis.problem)
        return self


class StudyFile(BaseModel):
    """A study. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    """Lower-case letters, digits, - and _. It also names the folder of the runs."""
    question: str = ""
    """The question in a sentence, for the report."""
    trainer: str = BYTE_LM
    """The trainer: a name from `train.trainers`, or `command` for a program of your own."""
    options: dict[str, Any] = {}
    """The options of every run."""
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """The values of each option that varies; the experiments are all combinations."""
    seeds: Annotated[list[int | str], Field(min_length=1)] | str = "0..5"
    """The seeds of every experiment: a list, or a range such as 0..5."""
    controls: list[Literal["sham", "positive"]] = []
    """sham: also train the sham twin of each run. positive: also train a positive control of each seed."""
    hypotheses: list[HypothesisOptions] = []
    thresholds: dict[str, float] = {}
    """Thresholds other than the defaults."""

    @model_validator(mode="after")
    def _each_option_once(self) -> Self:
        twice = {SEED, *self.vary} & {*self.options}
        if twice or SEED in self.vary or {"trainer", "thresholds"} & {*self.options, *self.vary}:
            raise ValueError("give each option once: seeds, trainer and thresholds have lines of their own")
        Thresholds().changed(self.thresholds)
        return self

    @property
    def config(self) -> dict[str, Any]:
        """The options of every run, as a config of `prismatic train` holds them."""
        named = {"trainer": self.trainer, **self.options}
        return {**named, **({"thresholds": self.thresholds} if self.thresholds else {})}

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The values of each option that varies, seeds last."""
        given = [self.seeds] if isinstance(self.seeds, str) else self.seeds
        seeds = itertools.chain(*(expand_range(f"seeds: {self.seeds}", value) for value in given))
        return {**self.vary, SEED: [*seeds]}


def load_study(path: Path) -> StudyFile:
    """Read the file of a study. Raises ConfigError that names each bad key, its value and what is allowed."""
    return validated(StudyFile, read_options(path), where=str(path))


def plan_study(study: StudyFile, runs: Path | None = None, *, checkpoint_freq: int = 500) -> Sweep:
    """Return the runs of a study as a sweep. runs: their folder, `build/runs/NAME` by default.

    All runs are checked here, before any is trained. Raises ConfigError for an option, a value or a hypothesis that
    fits no planned experiment, and CorpusError for an unreadable text.
    """
    axes = study.axes
    first = {name: values[0] for name, values in axes.items()}  # a program's command may need an option that varies
    jobs = jobs_of(parse({**study.config, **first}, where=study.name), axes, study.controls)
    seeds = tuple(sorted({job.config.seed for job in jobs}))
    names = [*dict.fromkeys(name for job in jobs for name in job.options if name != SEED)]
    plan = StudyPlan(
        name=study.name,
        question=study.question,
        experiments=experiments_of([{name: job.facts.get(name) for name in names} for job in jobs]),
        seeds=seeds,
        hypotheses=tuple(each.hypothesis for each in study.hypotheses),
        thresholds=asdict(Thresholds().changed(study.thresholds)),
    )
    for problem in _unanswerable(plan, jobs):
        raise ConfigError(f"{study.name}: {problem}")
    if StudyPlan.from_text(plan.text) != plan:
        raise ConfigError(f"{study.name}: the plan is too long to be registered; vary fewer options at a time.")
    sweep = Sweep(jobs, runs or Path("build/runs") / study.name, None, plan=plan, checkpoint_freq=checkpoint_freq)
    return replace(sweep, config=sweep.folder / "config.yml")


def write_config(study: StudyFile, sweep: Sweep) -> None:
    """Write the options of every run into the folder of the study."""
    assert sweep.config is not None
    sweep.folder.mkdir(parents=True, exist_ok=True)
    sweep.config.write_text(yaml.safe_dump(study.config, sort_keys=False), encoding="utf-8")


def _unanswerable(plan: StudyPlan, jobs: tuple[Job, ...]) -> Iterator[str]:
    """Yield what is wrong with a hypothesis about runs that the study does not train."""
    known = [job.facts for job in jobs]
    for hypothesis in plan.hypotheses:
        for options in filter(None, (hypothesis.of, hypothesis.against)):
            if not any(has_options(facts, options) for facts in known):
                yield f"the hypothesis {hypothesis.sentence!r} is about {named(options)}, which no planned run has."
        if hypothesis.expect in EXPECTED_SIDE and not _has_partner(hypothesis, known):
            yield f"the hypothesis {hypothesis.sentence!r} compares with none or several runs; name their options."


def _has_partner(hypothesis: Hypothesis, known: list[dict[str, Any]]) -> bool:
    """Return whether each run of the hypothesis has just one that differs in the options that it names alone."""
    ignored = {*hypothesis.of, *hypothesis.against, POSITIVE}

    def rest(facts: Options) -> dict[str, Any]:
        return {name: value for name, value in facts.items() if name not in ignored}

    plain = [facts for facts in known if POSITIVE in hypothesis.against or facts.get(POSITIVE, 1.0) == 1.0]
    others = [rest(facts) for facts in plain if has_options(facts, hypothesis.against)]
    own = [facts for facts in known if has_options(facts, hypothesis.of) and not _is_control(facts, hypothesis)]
    return bool(own) and all(others.count(rest(facts)) == 1 for facts in own)


def _is_control(facts: Options, hypothesis: Hypothesis) -> bool:
    """Return whether a run is a control that the hypothesis does not name."""
    scale, gain = facts.get(SCALE), facts.get(POSITIVE, 1.0)
    sham = SCALE not in hypothesis.of and isinstance(scale, int | float) and scale <= SHAM_SCALE
    return sham or (POSITIVE not in hypothesis.of and gain != 1.0)


def require_registered(sweep: Sweep) -> None:
    """Raise StudyError if a run of the study exists that registered other hypotheses or thresholds, or none."""
    assert sweep.plan is not None
    for job in sweep.jobs:
        path = sweep.db_path(job)
        if not path.exists() or summarize(path).last_step is None:
            continue  # it registers the plan when it starts
        found = read_plan(read_facts(path))
        if found is None or found.promise != sweep.plan.promise:
            what = "no plan of a study" if found is None else f"another plan (sha256 {found.sha256[:12]})"
            raise StudyError(
                f"{path} registered {what} before its first step, so it cannot be judged by this one. Restore the "
                f"hypotheses and thresholds of study {sweep.plan.name!r}, or train again under another name or --runs."
            )


def require_own_folder(sweep: Sweep) -> None:
    """Raise StudyError if the folder holds the runs of another study, whose plan and report this one would overwrite.

    More seeds and experiments make no other study.
    """
    assert sweep.plan is not None
    assert sweep.plan_file is not None
    if not sweep.plan_file.exists():
        return
    found = StudyPlan.from_text(sweep.plan_file.read_text(encoding="utf-8"))
    trained = {path.parent.name for path in sweep.runs.glob("*/dynamics.db")}
    if found is None or not trained:
        return
    seen = _other_study(found, sweep.plan)
    if not seen and not trained & {job.run_hash for job in sweep.jobs}:
        seen = f"none of its {len(trained)} runs has the options of this one"
    if seen:
        raise StudyError(
            f"{sweep.runs} holds the runs of another study: {seen}. Give this study a name of its own, or --runs "
            "another folder; to go on with the other one, restore its file."
        )


def _other_study(found: StudyPlan, plan: StudyPlan) -> str:
    """Return what tells two studies apart; empty if one of them is the other with more seeds or experiments."""
    if found.name != plan.name:
        return f"its name is {found.name!r}"
    if found.promise != plan.promise:
        return "it registered other hypotheses or thresholds"
    own, others = ({named(dict(options)) for options in each.experiments} for each in (plan, found))
    return "" if own <= others or others <= own else f"it varies {sorted(others - own)[0]}"
