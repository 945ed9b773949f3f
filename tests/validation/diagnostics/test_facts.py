"""Facts that contradict each other, and layers, experts and values that are missing, in files changed by SQL."""

import json

import pytest

from validation.diagnostics import ERROR, WARNING, Finding, diagnose

ISOLATED = "source = 'isolated'"


def of(run, name: str) -> list[Finding]:
    return [finding for finding in diagnose(run) if finding.id == name]


def fact(name: str, value: object) -> str:
    return f"UPDATE run SET value = '{json.dumps(value)}' WHERE key = '{name}'"


@pytest.mark.parametrize(
    ("statement", "evidence"),
    [
        (fact("config.perturbation_scale", 0.0), "run_hash is"),
        (fact("config.log_freq", 4), "run_hash is"),
        (fact("run_hash", "0a1b2c3d4"), "run_hash is 0a1b2c3d4"),
        ("DELETE FROM run WHERE key = 'config.positive_control'", "run_hash is"),
        ("DELETE FROM run WHERE key = 'config.router_type'", "run_hash is"),
        (fact("planned_steps", 60), "planned_steps is 60, and the option steps is 72"),
        (fact("warmup_steps", 0), "warmup_steps is 0, and the option warmup_steps is 50"),
        ("DELETE FROM run WHERE key = 'log_freq'", "log_freq is None, and the option log_freq is 2"),
        (fact("mixture", "outputs"), "the mixture is outputs"),
        ("UPDATE experts SET role = 'control' WHERE expert = 2", "expert 2 is named control"),
        ("UPDATE experts SET role = 'perturbed' WHERE expert = 4", "expert 4 is named perturbed"),
    ],
)
def test_a_fact_that_was_changed_contradicts_another_one(edited, statement, evidence):
    (finding,) = of(edited(statement), "facts_disagree")
    assert finding.severity == ERROR
    assert finding.evidence.startswith(evidence)


def test_further_facts_contradict_nothing(edited):
    assert not of(edited("INSERT INTO run VALUES ('note', '1')", fact("exit_state", "crashed")), "facts_disagree")


def test_facts_of_other_trainers_are_not_compared(edited):
    own = "DELETE FROM run WHERE key IN ('corpus_sha256', 'config.router_type', 'run_hash')"
    assert not of(edited(own, fact("planned_steps", 60)), "facts_disagree")


@pytest.mark.parametrize("where", [ISOLATED, "layer = 1", "source = 'merged'"])
def test_an_expert_without_rows_in_a_layer_is_an_error(edited, where):
    (finding, *_) = of(edited(f"DELETE FROM layers WHERE expert = 3 AND {where}"), "incomplete_layers")
    assert finding.severity == ERROR
    assert finding.evidence.endswith("rows of expert 3")


@pytest.mark.parametrize(
    "column", ["bottom_to_middle", "gradient_cosine", "half_product", "half_product_clean", "norm"]
)
@pytest.mark.parametrize("steps", ["step = 30", "step <> 30"])
def test_holes_in_a_column_of_a_layer_are_a_warning(edited, column, steps):
    hole = f"UPDATE layers SET {column} = NULL WHERE expert = 1 AND layer = 1 AND {ISOLATED} AND {steps}"
    (finding,) = of(edited(hole), "missing_values")
    assert (finding.severity, finding.expert) == (WARNING, 1)
    assert f"{1 if steps == 'step = 30' else 12} of 13 isolated rows" in finding.evidence


def test_a_column_that_nobody_logs_has_no_holes(edited):
    assert not of(edited("UPDATE layers SET half_product = NULL, half_product_clean = NULL"), "missing_values")


def test_where_an_expert_has_no_gradient_there_is_no_ratio_to_miss(edited):
    zero = "top_norm = 0, bottom_norm = 0, middle_norm = 0, norm = 0, bottom_to_middle = NULL"
    run = edited(f"UPDATE layers SET {zero} WHERE expert = 1 AND {ISOLATED} AND step = 30")
    assert of(run, "zero_tier")
    assert not of(run, "missing_values")
