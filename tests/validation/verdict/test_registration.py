"""Thresholds that a run file registers before the first step, and reports of changed ones."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from prismatic import DynamicsLogger, DynamicsLoggerCallback
from prismatic.contract.thresholds import RULES, Thresholds, read_registration
from prismatic.errors import ConfigError
from prismatic.runfile.manage import read_facts
from prismatic.train.config import RunConfig, parse_config
from prismatic.train.model import ByteLM
from tests.support.simulated_runs import simulated_run
from validation.verdict.registration import registration_of, thresholds_of

TINY = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "sequence_length": 8}


def run_with(facts):
    return replace(simulated_run(steps=30), facts=facts)


def registered(rules=RULES, **values) -> dict[str, object]:
    """Return a registration whose hash is right, of any values and any version of the rules."""
    whole = {**asdict(Thresholds()), **values}
    text = json.dumps({"rules": rules, **{name: float(value) for name, value in whole.items()}}, sort_keys=True)
    facts = {f"registered.{name}": value for name, value in whole.items()}
    return facts | {"registered.rules": rules, "registered.sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_training_registers_its_thresholds_before_the_first_step(tmp_path):
    callback = DynamicsLoggerCallback(tmp_path / "dynamics.db", thresholds=Thresholds(awakening_ratio=1.3))
    callback.on_train_begin(ByteLM(RunConfig(**TINY)))
    callback.on_train_end()
    found = read_registration(read_facts(tmp_path / "dynamics.db"))
    assert found.intact
    assert found.rules == RULES
    assert found.thresholds == Thresholds(awakening_ratio=1.3)


def test_a_resume_does_not_register_again(tmp_path):
    model, path = ByteLM(RunConfig(**TINY)), tmp_path / "dynamics.db"
    for ratio in (1.3, 1.05):
        with DynamicsLogger(path) as logger:
            callback = DynamicsLoggerCallback(logger, thresholds=Thresholds(awakening_ratio=ratio))
            callback.on_train_begin(model)
            logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
    assert read_registration(read_facts(path)).values["awakening_ratio"] == 1.3


def test_thresholds_are_not_part_of_the_experiment():
    assert parse_config({"thresholds": {"alpha": 0.01}}).run_hash("x") == RunConfig().run_hash("x")


@pytest.mark.parametrize(("name", "value"), [("awakening", 1.2), ("alpha", 1.5), ("alpha", 0.0), ("min_points", 100)])
def test_impossible_thresholds_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        parse_config({"thresholds": {name: value}})


def test_as_registered_names_the_hash():
    registration = registration_of(run_with(Thresholds().registration()), Thresholds())
    assert registration.status == "as_registered"
    assert Thresholds().sha256[:12] in registration.because


def test_a_change_after_the_fact_names_both_values():
    registration = registration_of(run_with(Thresholds().registration()), Thresholds(awakening_ratio=1.05))
    assert registration.status == "changed"
    assert registration.because == "changed after the fact: awakening_ratio from 1.1 to 1.05"
    assert registration.differences == {"awakening_ratio": (1.1, 1.05)}


def test_a_run_of_version_1_of_the_rules_is_judged_by_this_one_and_says_so():
    """Version 1 had thresholds that no longer exist, and lacked others."""
    old = {"awakening_ratio": 1.2, "min_points": 100.0, "sham_spread": 1.0}
    text = json.dumps({"rules": 1, **old}, sort_keys=True)
    facts = {f"registered.{name}": value for name, value in old.items()} | {"registered.rules": 1}
    facts["registered.sha256"] = hashlib.sha256(text.encode()).hexdigest()
    run = run_with(facts)
    assert thresholds_of([run]) == Thresholds()
    registration = registration_of(run, Thresholds())
    assert registration.status == "changed"
    assert registration.because == (
        "registered under version 1 of the rules, judged under version 2: awakening_ratio from 1.2 to 1.1"
    )


@pytest.mark.parametrize(
    "values", [{"alpha": 0.5}, {"awakening_ratio": 1.01}, {"min_seeds": 2.0}, {"divergence_direction": 0.001}]
)
def test_a_registration_outside_of_the_bounds_counts_as_altered_and_is_not_used(values):
    run = run_with(registered(**values))
    assert thresholds_of([run]) == Thresholds()
    registration = registration_of(run, Thresholds())
    assert registration.status == "altered"
    assert "outside of the values that may be registered" in registration.because
    assert {*registration.differences} == {*values}


def test_the_helper_of_this_test_registers_as_the_code_does():
    assert registered(awakening_ratio=1.3) == Thresholds(awakening_ratio=1.3).registration()


def test_an_altered_registration_does_not_match_its_hash():
    facts = Thresholds().registration() | {"registered.awakening_ratio": 1.06}
    registration = registration_of(run_with(facts), Thresholds())
    assert registration.status == "altered"
    assert thresholds_of([run_with(facts)]) == Thresholds()


def test_other_rules_without_a_new_hash_count_as_altered():
    facts = Thresholds().registration() | {"registered.rules": RULES + 1}
    assert registration_of(run_with(facts), Thresholds()).status == "altered"


def test_a_file_without_registration_is_not_registered():
    assert registration_of(run_with({}), Thresholds()).status == "not_registered"


def test_runs_are_judged_by_what_they_registered_if_they_agree():
    one, other = (run_with(Thresholds(awakening_ratio=r).registration()) for r in (1.2, 1.3))
    assert thresholds_of([one, one]).awakening_ratio == 1.2
    assert thresholds_of([one, other]) == Thresholds()


@pytest.mark.parametrize(
    "junk",
    [
        {"registered.sha256": 3},
        {"registered.rules": "x"},
        {"registered.rules": 10**400},
        {"registered.alpha": [1]},
        {"registered.alpha": 10**400},
        {"registered.alpha": float("nan")},
        {"registered.alpha": True},
        {"registered.": 1.0},
    ],
    ids=str,
)
def test_junk_in_place_of_a_registration_is_altered_or_missing(junk):
    registration = registration_of(run_with(Thresholds().registration() | junk), Thresholds())
    assert registration.status in ("altered", "not_registered")
