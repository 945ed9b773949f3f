"""Forgeries of the plan: its end, its options, its thresholds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prismatic.contract.thresholds import Thresholds
from tests.validation.forgeries.forging import (
    Study,
    declare,
    each,
    forgery,
    gains,
    mean_gain,
    remove_rows,
    set_facts,
    sql,
)

END = 152  # two of six bins of time
LAX = {"awakening_ratio": 1.05, "alpha": 0.1}


def stop_early(path: Path) -> None:
    """Remove the rows of the time after the brief effect."""
    remove_rows(path, [step for step in gains(path) if step > END])


@forgery("stopped while a brief effect lasted", "unfinished", "not_finished", base="brief")
def stopped(study: Study) -> None:
    each(study.runs, stop_early)


@forgery("judged while a brief effect lasts, as if the training went on", "not_finished", base="brief")
def peeked(study: Study) -> None:
    each(study.runs, stop_early)
    each(study.runs, partial(set_facts, exit_state="running"))


@forgery("the planned end taken out", "no_plan", base="brief")
def plan_removed(study: Study) -> None:
    each(study.runs, stop_early)
    each(study.runs, partial(declare, planned_steps=None, config__steps=None))


@forgery("the planned end moved to where it looks good", "facts_disagree", base="brief")
def end_moved(study: Study) -> None:
    each(study.runs, stop_early)
    each(study.runs, partial(set_facts, planned_steps=END + 1, config__steps=END + 1))


@forgery("the planned end chosen for each run", "same_in_every_group", "groups_differ", base="brief")
def end_of_each_run(study: Study) -> None:
    for number, path in enumerate(study.runs):
        end = 120 + 8 * number
        remove_rows(path, [step for step in gains(path) if step >= end])
        declare(path, planned_steps=end, config__steps=end)


@forgery("the warm-up moved to where a late effect begins", "facts_disagree", base="late", effect="verdict")
def warmup_moved(study: Study) -> None:
    each(study.runs, partial(set_facts, warmup_steps=120))


@forgery("the best of two learning rates for each seed, called one", "facts_disagree", base="rates")
def options_made_equal(study: Study) -> None:
    study.runs = [max(pair, key=mean_gain) for pair in zip(study.runs[:6], study.runs[6:], strict=True)]
    each(study.runs, partial(set_facts, config__learning_rate=0.001))


@forgery("a positive control declared a real run", "facts_disagree", base="positive", effect="verdict")
def positive_control_hidden(study: Study) -> None:
    each(study.runs, partial(set_facts, config__positive_control=1.0))


@forgery("a positive control with that fact removed", "facts_disagree", base="positive", effect="verdict")
def positive_control_removed(study: Study) -> None:
    each(study.runs, partial(set_facts, config__positive_control=None))


@forgery("a sham run declared a perturbed one", "facts_disagree", base="twins")
def scale_changed(study: Study) -> None:
    study.runs, study.twins = [max(pair, key=mean_gain) for pair in zip(study.runs, study.twins, strict=True)], []
    each(study.runs, partial(set_facts, config__perturbation_scale=1.0))


@forgery("unfavourable runs declared sham runs", "facts_disagree", base="many")
def unfavourable_called_sham(study: Study) -> None:
    ranked = sorted(study.runs, key=mean_gain)
    study.others, study.runs = ranked[:-6], ranked[-6:]
    each(study.others, partial(set_facts, config__perturbation_scale=0.0))


@forgery("unfavourable runs made invalid", "zero_tier", "depends_on_invalid_runs", base="many")
def unfavourable_made_invalid(study: Study) -> None:
    ranked = sorted(study.runs, key=mean_gain)
    study.others, study.runs = ranked[:3], ranked[3:]
    each(study.others, lambda path: sql(path, "UPDATE layers SET bottom_norm = 0 WHERE expert = 1"))


@forgery(
    "experts that merge outputs declared, so that shares do not count",
    "facts_disagree",
    base="no probe",
    effect="share",
)
def mixture_changed(study: Study) -> None:
    each(study.runs, partial(set_facts, mixture="outputs"))


def register(path: Path, **values: float) -> None:
    """Write a registration of thresholds with its right hash, within bounds or not."""
    thresholds = Thresholds()
    for name, value in values.items():
        object.__setattr__(thresholds, name, value)
    set_facts(path, **{key.replace(".", "__"): value for key, value in thresholds.registration().items()})


@forgery("lax thresholds registered, within bounds", "laxer", base="small", effect="lax")
def lax_registered(study: Study) -> None:
    each(study.runs, partial(register, **LAX))


@forgery("lax thresholds registered, out of bounds", "altered", base="small", effect="lax")
def registered_out_of_bounds(study: Study) -> None:
    each(study.runs, partial(register, awakening_ratio=1.01))


@forgery("lax thresholds given to check", "changed", "laxer", base="small", effect="lax")
def lax_set(study: Study) -> None:
    study.changes = LAX


@forgery("a registered threshold changed", "altered", base="small", effect="lax")
def registration_altered(study: Study) -> None:
    each(study.runs, partial(set_facts, registered__awakening_ratio=1.05, registered__alpha=0.1))


@forgery("another version of the rules declared", "changed", "laxer", base="small", effect="lax")
def rules_faked(study: Study) -> None:
    for path in study.runs:
        set_facts(path, registered__rules=3)
    study.changes = LAX
