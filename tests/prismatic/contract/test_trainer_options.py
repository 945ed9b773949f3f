"""Options as words of `--set`: the trainer reads the same options from them."""

import pytest

from prismatic.contract.thresholds import Thresholds
from prismatic.contract.trainer_options import DEFAULTS, option_words
from prismatic.train.config import RunConfig, load_config

CHANGES = {"learning_rate": 1e-7, "merge": "example", "data": "2024", "max_grad_norm": 0.5, "device": "cuda:0"}


def test_the_defaults_are_those_of_the_trainer():
    assert RunConfig().facts() | {"pair_freq": None} == {**DEFAULTS, "router_type": "prismatic"}


@pytest.mark.parametrize("changes", [{}, CHANGES, {"routing": "frozen", "sparsity": 1e20 / 1e21}])
def test_the_trainer_reads_the_same_options_from_the_words(changes):
    config = RunConfig(**changes)
    words = option_words({f"config.{name}": value for name, value in config.facts().items()})
    assert load_config(None, [f"{name}={value}" for name, value in words.items()]) == config
    assert words.keys() == changes.keys() - {name for name in changes if changes[name] == DEFAULTS[name]}


def test_registered_thresholds_are_among_the_options():
    facts = Thresholds().changed({"alpha": 0.01}).registration()
    (word,) = [f"{name}={value}" for name, value in option_words(facts).items()]
    assert load_config(None, [word]).thresholds == {"alpha": 0.01}
