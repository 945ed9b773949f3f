"""Thresholds: their bounds, the direction in which each makes support easier, and their hash."""

import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismatic.contract.thresholds import RULES, Thresholds, read_registration
from prismatic.errors import ConfigError

NAMES = [field.name for field in fields(Thresholds)]


@pytest.mark.parametrize("name", NAMES)
def test_a_default_is_within_its_bounds_and_so_are_the_bounds(name):
    least, most = Thresholds.bounds(name)
    default = getattr(Thresholds(), name)
    assert least <= default <= most
    for bound in (least, most):
        if 0 < bound < math.inf:
            assert getattr(Thresholds().changed({name: bound}), name) == bound


@pytest.mark.parametrize("name", NAMES)
def test_a_value_outside_of_the_bounds_is_refused_with_the_bounds(name):
    least, most = Thresholds.bounds(name)
    outside = [0.0, -1.0, math.nan, math.inf, least - 0.01, *([most + 0.01] if most < math.inf else [])]
    for value in outside:
        with pytest.raises(ConfigError, match=f"{name} = .* is not allowed; it must be above 0 and"):
            Thresholds().changed({name: value})


@pytest.mark.parametrize("value", ["0.05", None, True, [0.05]])
def test_a_threshold_is_a_number(value):
    with pytest.raises(ConfigError, match=r"alpha = .* is not a number"):
        Thresholds().changed({"alpha": value})


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown threshold 'min_points'; the thresholds are divergence_supported"):
        Thresholds().changed({"min_points": 100})


LAXER_AND_STRICTER = {
    "awakening_ratio": (1.05, 1.2),
    "divergence_ratio": (1.05, 1.2),
    "divergence_direction": (0.02, 0.1),
    "sustained_share": (0.1, 0.9),
    "alpha": (0.1, 0.01),
    "min_seeds": (3, 10),
    "rows_share": (0.5, 1),
    "reliability": (0.05, 0.5),
    "saturated": (2, 0.5),
}


@pytest.mark.parametrize("name", LAXER_AND_STRICTER)
def test_what_makes_support_easier_is_laxer_and_the_other_way_is_not(name):
    laxer, stricter = LAXER_AND_STRICTER[name]
    assert Thresholds().changed({name: laxer}).laxer() == [name]
    assert Thresholds().changed({name: stricter}).laxer() == []


def test_numbers_of_the_reading_as_written_and_of_descriptions_are_neither():
    beside = {*NAMES} - {*LAXER_AND_STRICTER, "min_experts"}
    assert beside == {"divergence_supported", "divergence_refuted", "dormant_ratio", "warmup"}
    assert Thresholds().changed(dict.fromkeys(beside, 0.2) | {"min_experts": 4}).laxer() == []


@given(st.fixed_dictionaries({}, optional={"alpha": st.floats(0.001, 0.1), "min_seeds": st.integers(3, 50)}))
def test_what_is_registered_is_read_back(values):
    thresholds = Thresholds().changed(values)
    found = read_registration(thresholds.registration())
    assert found.thresholds == thresholds
    assert (found.rules, found.intact, found.differences(thresholds)) == (RULES, True, {})


def test_the_hash_is_of_every_value_and_of_the_rules():
    hashes = {Thresholds().sha256}
    for name in NAMES:
        least, most = Thresholds.bounds(name)
        other = least if 0 < least < getattr(Thresholds(), name) else min(most, getattr(Thresholds(), name) * 1.01)
        hashes.add(Thresholds().changed({name: other}).sha256)
    assert len(hashes) == len(NAMES) + 1
    facts = Thresholds().registration() | {"registered.rules": RULES + 1}
    assert not read_registration(facts).intact


def test_every_threshold_has_a_meaning():
    assert {*Thresholds.meanings()} == {*asdict(Thresholds())}
    assert all(meaning.endswith(".") for meaning in Thresholds.meanings().values())
