"""Control experts that are none, experts logged twice, and zero rows of the probe, in files changed by hand."""

import pytest

from tests.support.simulated_runs import simulated_run, with_norms
from validation.diagnostics import ERROR, WARNING, Finding, diagnose

CONTROL, OTHER = 3, 4
NORMS = ("top_norm", "bottom_norm", "middle_norm", "norm")


def of(run, name: str) -> list[Finding]:
    return [finding for finding in diagnose(run) if finding.id == name]


def copied(expert: int, onto: int, factor: float = 1.0) -> tuple[str, ...]:
    """Return SQL that gives one expert the norms of another."""
    found = (
        "SELECT o.{} FROM layers o WHERE o.step = layers.step AND o.layer = layers.layer AND o.source = layers.source"
    )
    layers = ", ".join(f"{name} = {factor} * ({found.format(name)} AND o.expert = {expert})" for name in NORMS)
    whole = "perturbed_norm" if expert else "clean_norm"
    names = {**{name: name for name in NORMS[:3]}, "perturbed_norm": whole}
    wide = ", ".join(f"expert_{onto}_{name} = {factor} * expert_{expert}_{of}" for name, of in names.items())
    return (f"UPDATE layers SET {layers} WHERE expert = {onto}", f"UPDATE dynamics SET {wide}")


@pytest.mark.parametrize(("scale", "is_found"), [("0.001", False), ("0.01", False), ("0.02", True), ("NULL", False)])
def test_a_control_that_was_perturbed_is_an_error(edited, scale, is_found):
    found = of(edited(f"UPDATE experts SET scale = {scale} WHERE expert = {CONTROL}"), "not_a_control")
    assert [finding.expert for finding in found] == ([CONTROL] if is_found else [])
    assert all(finding.severity == ERROR and "0.02" in finding.evidence for finding in found)


def test_the_option_tells_the_scale_where_the_table_lacks_it(edited):
    run = edited("DELETE FROM experts WHERE expert > 2", *_option("control_scale", 0.5))
    assert not of(run, "not_a_control")  # the file names no control any more
    run = edited("UPDATE experts SET scale = NULL WHERE expert > 2", *_option("control_scale", 0.5))
    assert [finding.expert for finding in of(run, "not_a_control")] == [CONTROL, OTHER]


def _option(name: str, value: object) -> tuple[str, ...]:
    return (f"UPDATE run SET value = '{value}' WHERE key = 'config.{name}'",)


@pytest.mark.parametrize("original", [0, 1, OTHER])
def test_an_expert_that_is_logged_twice_is_not_a_control(edited, original):
    found = of(edited(*copied(original, CONTROL)), "not_a_control")
    assert CONTROL in [finding.expert for finding in found]
    assert f"expert {original}'s to the last digit" in found[0].evidence


@pytest.mark.parametrize(("routing", "is_found"), [("trained", True), ("frozen", False)])
def test_a_control_that_is_almost_the_clean_expert_is_found_where_a_router_tells_experts_apart(
    edited, routing, is_found
):
    run = edited(
        *copied(0, CONTROL, factor=1.0001), f"UPDATE run SET value = '\"{routing}\"' WHERE key = 'config.routing'"
    )
    found = of(run, "not_a_control")
    assert [finding.expert for finding in found] == ([CONTROL] if is_found else [])
    assert all("its norms differ from expert 0's by 0.0001" in finding.evidence for finding in found)


def test_an_expert_without_a_layer_is_compared_by_its_means(edited):
    run = edited("DELETE FROM layers WHERE expert = 4 OR source = 'isolated'", *copied(0, CONTROL))
    assert [finding.expert for finding in of(run, "not_a_control")] == [CONTROL]


def test_two_perturbed_experts_with_the_same_numbers_are_one_expert(edited):
    (finding,) = of(edited(*copied(1, 2)), "identical_experts")
    assert (finding.severity, finding.expert, finding.symptom) == (ERROR, 2, "expert 2 is the same as expert 1")


def test_a_control_without_tokens_until_the_end_is_an_error(edited):
    dead = "UPDATE layers SET routing_weight = 0 WHERE expert = 3 AND layer = 1 AND step >= {}"
    (finding,) = of(edited(dead.format(50)), "not_a_control")
    assert finding.evidence == "its routing share is 0 from step 50 to the end"
    assert not of(edited(dead.format(60)), "not_a_control")  # 7 rows may be chance
    assert not of(edited(dead.format(0) + " AND step < 60"), "not_a_control")


def test_an_expert_without_isolated_gradients_is_an_error(edited):
    zero = ", ".join(f"{name} = 0" for name in NORMS)
    run = edited(f"UPDATE layers SET {zero} WHERE source = 'isolated' AND expert = {CONTROL}")
    (finding,) = of(run, "zero_norms")
    assert (finding.severity, finding.expert) == (ERROR, CONTROL)
    assert "in all 13 rows of isolated gradients" in finding.evidence


def test_a_zero_tier_of_one_layer_and_of_the_probe_is_found(edited):
    zero = "UPDATE layers SET bottom_norm = 0 WHERE layer = 1 AND expert = {} AND source = '{}' AND step {}"
    (finding,) = of(edited(zero.format(CONTROL, "isolated", "< 20")), "zero_tier")
    assert (finding.severity, finding.expert) == (WARNING, CONTROL)
    assert finding.evidence == "in 4 of 13 isolated rows, which the verdict skips"
    (finding,) = of(edited(zero.format(1, "merged", ">= 0")), "zero_tier")
    assert (finding.severity, finding.expert) == (ERROR, 1)


def test_an_expert_without_tokens_is_named_as_the_cause(edited):
    """Its gradient is zero where its routing weight is: the router is to be mended, not the loss scale."""
    rows = "WHERE layer = 1 AND expert = 1 AND source = 'merged' AND step < 40"
    zero = f"UPDATE layers SET {', '.join(f'{name} = 0' for name in NORMS)} {rows}"
    starved = f"UPDATE layers SET routing_weight = 0 {rows}"
    missing = "UPDATE dynamics SET missing_gradients = CASE WHEN step < 40 THEN 6 ELSE 0 END"
    for name in ("zero_tier", "missing_gradients"):
        (finding,) = of(edited(zero, starved, missing), name)
        assert finding.severity == WARNING
        assert "no token: the routing weight is 0" in finding.cause
        assert finding.fix.startswith("balance the router")
        others = [edited(zero, missing), edited(zero, f"{starved} AND step > 0", missing)]  # and not in each row
        assert not any("balance" in finding.fix for run in others for finding in of(run, name))


def test_weights_of_all_experts_that_begin_as_zeros_are_one_warning(edited):
    zero = "UPDATE layers SET bottom_norm = 0 WHERE layer = 1 AND source = 'merged' AND step = 0"
    (finding,) = of(edited(zero), "zero_tier")
    assert (finding.severity, finding.expert) == (WARNING, None)
    assert finding.symptom == "the norm of a tier of experts 0, 1, 2, 3, 4 is zero"
    assert finding.evidence.startswith("in 1 of 37 merged rows")
    assert "begin as zeros" in finding.evidence


def test_a_layer_without_tiers_has_no_zero_tier_if_the_file_declares_that(edited):
    """Otherwise zeros could take away the layers that speak against an effect."""
    zero = "UPDATE layers SET top_norm = 0, bottom_norm = 0, bottom_to_middle = NULL WHERE layer = 1"
    declared = "UPDATE tiers SET weights = 0 WHERE layer = 1 AND tier <> 'middle'"
    assert not of(edited(zero, declared), "zero_tier")
    assert {finding.severity for finding in of(edited(zero), "zero_tier")} == {ERROR}


def test_a_few_missing_values_of_a_control_exclude_no_run():
    run = simulated_run(control=True, facts={"planned_steps": 600})
    holed = run.experts[2]["top_norm"].copy()
    holed[::40] = float("nan")
    assert {f.severity for f in diagnose(with_norms(run, 2, top_norm=holed)) if f.id == "nonfinite"} == {WARNING}
    assert ERROR not in {f.severity for f in diagnose(with_norms(run, 2, top_norm=holed))}
