"""Options: the facts of a run that tell one experiment from another."""

from prismatic.contract.options import FACTS, FREE, as_facts, options_of


def test_numbers_texts_and_truth_values_that_a_user_gives_are_options():
    given = {"seed": 3, "learning_rate": 1e-3, "text": "war and peace", "tied": True}
    assert as_facts(given) == {f"option.{name}": value for name, value in given.items()}
    assert options_of(as_facts(given)) == given


def test_facts_with_a_meaning_of_their_own_keep_their_names():
    given = {"planned_steps": 2000, "held_out_loss": 2.5, "config.seed": 3, "study.seeds": [1, 2], "Upper": 1}
    assert as_facts(given) == given
    assert options_of(given) == {"seed": 3}


def test_values_that_are_no_scalars_keep_their_names():
    given = {"layers": [1, 2], "nothing": None}
    assert as_facts(given) == given


def test_what_a_user_says_beats_the_options_of_a_layer():
    assert options_of({"option.seed": 3, "config.seed": 0, "config.merge": "batch"}) == {"seed": 3, "merge": "batch"}


def test_no_name_is_both_a_fact_and_an_option_that_keeps_runs_apart():
    assert {"device", "host", "started", "ended"} == FACTS & FREE
