"""The headline over three claims: short, and true of every mixture of statuses and groups."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation.verdict.claims import (
    CLAIMS,
    CONFOUNDED,
    EXPERT,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SEED,
    SUPPORTED,
    Claim,
    Reason,
    combine_statuses,
    overall,
)
from validation.verdict.groups import FOUND, NOT_FOUND, PASSES, POSITIVE, SHAM, TREATED, UNDECIDED, Group
from validation.verdict.words.headline import ALL_SUPPORTED, headline_of, sentence_of
from validation.verdict.words.reasons import MOST_WORDS
from validation.verdict.words.statuses import SELF_TEST, shown_claim, shown_group, shown_groups

REASONS = {
    SUPPORTED: Reason.ABOVE_MARGIN,
    REFUTED: Reason.INSIDE_MARGIN,
    INCONCLUSIVE: Reason.BOTH_SIDES_OF_MARGIN,
    CONFOUNDED: Reason.DIRECTION_SATURATED,
    INVALID: Reason.NO_REPLICAS,
}
LASTING = {SUPPORTED: Reason.LASTS, REFUTED: Reason.COLLAPSES, INCONCLUSIVE: Reason.NOTHING_TO_SUSTAIN}


def claims(*statuses: str, units: int = 6, replicate: str = SEED) -> tuple[Claim, ...]:
    reasons = [REASONS[status] for status in statuses[:2]] + [LASTING.get(statuses[2], REASONS[statuses[2]])]
    return tuple(
        Claim(name, status, f"because of {name}", reason, f"The words of {reason}", units=units, replicate=replicate)
        for name, status, reason in zip(CLAIMS, statuses, reasons, strict=True)
    )


def headline(*statuses: str, **how) -> str:
    found = claims(*statuses, **how)
    return headline_of(overall(statuses), found, [Group("all runs", TREATED, ("a",), claims=found)])


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ((SUPPORTED, SUPPORTED, SUPPORTED), ALL_SUPPORTED),
        (
            (REFUTED, REFUTED, INCONCLUSIVE),
            "On average, the perturbed experts learn like unperturbed ones over 6 seeds",
        ),
        ((REFUTED, INCONCLUSIVE, INCONCLUSIVE), "No awakening over 6 seeds; divergence stays open"),
        ((SUPPORTED, INCONCLUSIVE, SUPPORTED), "Awakening over 6 seeds, and it lasts; divergence stays open"),
        ((SUPPORTED, SUPPORTED, INCONCLUSIVE), "Awakening and divergence over 6 seeds; whether it lasts stays open"),
        ((SUPPORTED, SUPPORTED, REFUTED), "Awakening and divergence over 6 seeds, but it fades"),
        ((SUPPORTED, REFUTED, SUPPORTED), "Awakening, but no divergence over 6 seeds, and it lasts"),
        ((REFUTED, SUPPORTED, SUPPORTED), "Divergence, but no awakening over 6 seeds, and it lasts"),
        ((SUPPORTED, CONFOUNDED, SUPPORTED), "Awakening over 6 seeds, and it lasts; divergence cannot be seen here"),
        ((INCONCLUSIVE, INCONCLUSIVE, REFUTED), "An effect fades; awakening stays open; divergence stays open"),
        ((INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE), f"The words of {Reason.BOTH_SIDES_OF_MARGIN}"),
    ],
)
def test_one_experiment(statuses, words):
    assert headline(*statuses) == words


def test_one_run_says_so():
    assert headline(SUPPORTED, SUPPORTED, SUPPORTED, replicate=EXPERT) == (
        "Awakening and divergence in this run, and it lasts"
    )
    assert headline(REFUTED, INCONCLUSIVE, INCONCLUSIVE, replicate=EXPERT) == (
        "No awakening in this run; divergence stays open"
    )


ALL = (SUPPORTED, REFUTED, INCONCLUSIVE, CONFOUNDED, INVALID)


@pytest.mark.parametrize("statuses", [*product(ALL, ALL, ALL)], ids="-".join)
def test_no_headline_is_long_or_broken(statuses):
    text = headline(*statuses, units=1_000_000)
    assert 3 <= len(text.split()) <= MOST_WORDS
    assert text[0].isupper()
    assert ", ," not in text
    if SUPPORTED not in statuses:
        assert not text.startswith(("Awakening", "Divergence"))


@settings(derandomize=True, max_examples=200)
@given(st.lists(st.tuples(*[st.sampled_from(ALL[:4])] * 3), min_size=2, max_size=12))
def test_several_experiments_are_counted(each):
    groups = [Group(str(n), TREATED, (str(n),), claims=claims(*statuses)) for n, statuses in enumerate(each)]
    over = [Claim(name, combine_statuses([own[n] for own in each]), "so") for n, name in enumerate(CLAIMS)]
    text = headline_of(overall([claim.status for claim in over]), over, groups)
    assert len(text.split()) <= MOST_WORDS
    for place, name in enumerate(CLAIMS[:2]):
        supported = sum(own[place] == SUPPORTED for own in each)
        if 0 < supported < len(each):
            assert f"{name} in {supported} of {len(each)} experiments" in text.lower()


def test_a_whole_that_some_claims_refute_says_why():
    found = claims(REFUTED, INCONCLUSIVE, INCONCLUSIVE)
    assert sentence_of(REFUTED, found).endswith("needs all three claims, so it is refuted as a whole")
    assert sentence_of(REFUTED, claims(REFUTED, REFUTED, REFUTED)) == "awakening: because of awakening"


@pytest.mark.parametrize(
    ("check", "word", "words"),
    [
        (FOUND, "self-test passed", "The verdict found the effect that was planted"),
        (NOT_FOUND, "self-test failed", "The planted effect was not found: runs like these cannot answer"),
        (UNDECIDED, "self-test undecided", f"The words of {Reason.ABOVE_MARGIN}"),
    ],
)
def test_a_positive_control_is_a_self_test(check, word, words):
    found = claims(SUPPORTED, SUPPORTED, SUPPORTED)
    group = Group("all runs", POSITIVE, ("a",), claims=found, check=check)
    assert headline_of(SUPPORTED, found, [group]) == words
    assert shown_group(group).word == shown_groups(SUPPORTED, found, [group]).word == word
    assert shown_claim(found[0], planted=True).word == "found"


def test_sham_runs_are_a_self_test_too():
    found = claims(INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE)
    assert shown_group(Group("all runs", SHAM, ("a",), claims=found, check=PASSES)).kind == SELF_TEST


def test_the_worst_self_test_stands_for_all():
    found = claims(SUPPORTED, SUPPORTED, SUPPORTED)
    tests = [Group(str(check), POSITIVE, (), claims=found, check=check) for check in (FOUND, NOT_FOUND, UNDECIDED)]
    assert shown_groups(SUPPORTED, found, tests).word == "self-test failed"
    assert shown_groups(SUPPORTED, found, tests[::2]).word == "self-test undecided"
    assert shown_groups(SUPPORTED, found, tests[:1]).word == "self-test passed"


def test_every_reason_of_a_confounded_claim_names_its_confounder():
    for reason, confounder in (
        (Reason.ONE_COMMON_GRADIENT, "routing"),
        (Reason.SHARES_NOT_LOGGED, "routing"),
        (Reason.ROUTING_DIFFERS, "routing"),
        (Reason.NOTHING_TO_COMPARE, "chance"),
        (Reason.DIRECTION_SATURATED, "chance"),
        (Reason.DIRECTION_NOT_MEASURED, "missing directions"),
    ):
        assert shown_claim(Claim("divergence", CONFOUNDED, "", reason)).word == f"confounded by {confounder}"
