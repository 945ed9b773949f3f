"""Configs: defaults, overrides, the hash, and errors that name the bad option."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from prismatic.layer.config import RouterConfig
from prismatic.runfile.logger import DynamicsLogger
from prismatic.train.config import RunConfig, load_config, parse_config
from validation.analysis.bins import plan_of

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "options.yml"


def test_an_empty_file_is_every_default(path: Path):
    path.write_text("# nothing but a comment\n")
    assert load_config(path) == RunConfig()


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS.glob("*.yml")), ids=lambda path: path.stem)
def test_the_experiments_that_are_shipped_load(experiment: Path):
    assert load_config(experiment).router_type == "prismatic"


def test_the_defaults_are_the_documented_experiment():
    assert load_config(EXPERIMENTS / "prismatic.yml") == RunConfig()


@pytest.mark.parametrize("name", ["per-example", "sham", "positive-control"])
def test_one_run_of_the_other_experiments_can_be_decided(name: str):
    """It has three experts of both roles, and at least ten planned probes in each bin of time."""
    config = load_config(EXPERIMENTS / f"{name}.yml")
    assert min(config.roles.count(role) for role in ("perturbed", "control")) == 3
    frequencies = (config.log_freq, config.probe_freq)
    steps, warmup = np.arange(config.steps), config.warmup_steps
    bins = plan_of(steps, planned=config.steps, frequencies=frequencies, share=Thresholds().warmup, warmup_steps=warmup)
    assert bins.rows_K.min() >= 10


def test_the_controls_differ_from_the_experiment_in_one_idea():
    config = load_config(EXPERIMENTS / "per-example.yml")
    positive = {"positive_control": 4.0, "routing": "frozen"}
    for name, change in (("sham", {"perturbation_scale": 0.0}), ("positive-control", positive)):
        assert load_config(EXPERIMENTS / f"{name}.yml") == config.model_copy(update=change)


def test_overrides_replace_the_files_options_and_the_last_one_counts(path: Path):
    path.write_text("seed: 1\nsteps: 7\n")
    config = load_config(path, ["seed=2", "merge=example", "seed = 3", "learning_rate=1e-2", "max_grad_norm=null"])
    assert (config.seed, config.steps, config.merge) == (3, 7, "example")
    assert (config.learning_rate, config.max_grad_norm) == (0.01, None)


BAD_VALUES = [
    ("perturbation_scale", "-0.5", "greater than or equal to 0"),
    ("perturbation_scale", ".nan", "a finite number"),
    ("perturbation_scale", "much", "a valid number"),
    ("sparsity", "0", "greater than 0"),
    ("sparsity", "1", "less than 1"),
    ("num_experts", "1", "greater than or equal to 2"),
    ("num_experts", "2.5", "a valid integer"),
    ("merge", "token", "'batch' or 'example'"),
    ("routing", "free", "'trained' or 'frozen'"),
    ("router_type", "smear", "'prismatic'"),
    ("perturbation_mode", "loud", "'noise', 'attractive' or 'repulsive'"),
    ("positive_control", "0", "greater than 0"),
    ("steps", "0", "greater than or equal to 1"),
    ("log_freq", "0", "greater than or equal to 1"),
    ("seed", "-1", "greater than or equal to 0"),
    ("max_grad_norm", "0", "greater than 0"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_VALUES, ids=lambda part: str(part)[:20])
def test_the_error_for_a_bad_value_names_key_value_and_what_is_allowed(path: Path, name, value, allowed):
    path.write_text(f"{name}: {value}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    shown = value.removeprefix(".")
    assert str(error.value).startswith(f"{path}: {name} = ")
    assert shown in str(error.value)
    assert f"is not allowed; it should be {allowed}" in str(error.value)


def test_the_error_for_an_unknown_option_lists_all_options(path: Path):
    path.write_text("perturbation_scales: 1.0\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: unknown option 'perturbation_scales'; the options are ")
    assert all(name in str(error.value) for name in RunConfig.model_fields)


def test_all_mistakes_are_reported_at_once(path: Path):
    path.write_text("sparsity: 2\ncolour: red\nsteps: many\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(any(name in line for line in lines) for name in ("sparsity", "colour", "steps"))


@pytest.mark.parametrize("option", ["seed: yes", "learning_rate: on", "max_grad_norm: no", "thresholds: {margin: yes}"])
def test_a_truth_value_is_no_number(path: Path, option: str):
    path.write_text(f"{option}\nsteps: 0\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{path}: {option.partition(':')[0]} = ")
    assert first.endswith("Write a number, or a text in quotes.")
    assert "steps" in second


def test_a_key_that_is_given_twice_is_named_with_its_lines(path: Path):
    path.write_text("seed: 1\nsteps: 7\n\nseed: 2\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value) == f"{path}: the key 'seed' is given twice, in lines 1 and 4. Keep one of them."
    path.write_text("thresholds: &t {min_seeds: 3}\nsteps: 7\n")
    assert load_config(path, ["thresholds={min_seeds: 4}"]).steps == 7
    with pytest.raises(ConfigError, match="--set thresholds: the key 'a' is given twice"):
        load_config(path, ["thresholds={a: 3, a: 4}"])


def test_heads_must_divide_the_hidden_size():
    with pytest.raises(ConfigError, match=r"^config: hidden_size=10 must be a multiple of num_heads=4\.$"):
        parse_config({"hidden_size": 10})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected lines of `name: value`, found a list"),
        ("just words", "expected lines of `name: value`, found a str"),
        ("a: [1", "cannot be read as YAML"),
        ("\x00", "cannot be read as YAML"),
        ("1: 2\n", "unknown option|1"),
    ],
)
def test_a_file_that_is_not_a_list_of_options_is_refused_by_name(path: Path, text: str, message: str):
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"options.yml: .*({message})"):
        load_config(path)


def test_a_file_that_is_not_text_is_refused_by_name(path: Path):
    path.write_bytes(b"\xff\xfe\x00")
    for wrong in (path, path.parent, path.parent / "missing.yml"):
        with pytest.raises(ConfigError, match=f"{wrong.name}: cannot be read as YAML"):
            load_config(wrong)


@pytest.mark.parametrize(
    ("override", "message"), [("seed", "expected name=value"), ("seed=[1", "cannot be read as YAML")]
)
def test_an_override_without_value_or_with_broken_yaml_is_refused(path: Path, override: str, message: str):
    path.write_text("")
    with pytest.raises(ConfigError, match=rf"--set {override.replace('[', '.')}: .*{message}"):
        load_config(path, [override])


def test_facts_are_plain_json_and_complete():
    facts = RunConfig(data=Path("a/b.txt")).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == set(RunConfig.model_fields) - {"thresholds", "pair_freq"}  # not part of the experiment; unset
    assert parse_config(facts) == RunConfig(data=Path("a/b.txt"))


DIFFERENT = {
    "router_type": None,  # only one value exists
    "data": None,  # enters the hash by its content
    "perturbation_strategy": "random",
    "perturbation_mode": "repulsive",
    "merge": "example",
    "routing": "frozen",
    "router_input": "first",
    "device": "cuda",
    "max_grad_norm": 1.0,
    "sparsity": 0.2,
    "expert_dropout": 0.5,
    "tier_basis": "current",
    "hidden_size": 192,
    "num_heads": 2,
}


@pytest.mark.parametrize("name", [name for name in RunConfig().facts() if DIFFERENT.get(name, 0) is not None])
def test_every_option_changes_the_hash(name: str):
    default = RunConfig()
    value = DIFFERENT[name] if name in DIFFERENT else getattr(default, name) + 1
    other = default.model_copy(update={name: value})
    assert parse_config(other.facts()).run_hash("text") != default.run_hash("text")


def test_a_frequency_of_pairs_changes_the_hash_only_if_it_is_set():
    config = RunConfig(probe_freq=10, pair_freq=50)
    assert config.facts()["pair_freq"] == 50
    assert parse_config(config.facts()) == config
    assert config.run_hash("text") != RunConfig(probe_freq=10).run_hash("text")


def test_a_frequency_of_pairs_that_leaves_uneven_gaps_is_refused():
    with pytest.raises(ConfigError, match="pair_freq = 25 and probe_freq = 10 leave uneven gaps"):
        parse_config({"probe_freq": 10, "pair_freq": 25})


def test_the_hash_depends_on_config_and_text_only():
    assert RunConfig(seed=3).run_hash("text") == RunConfig(seed=3, data=Path("elsewhere.txt")).run_hash("text")
    assert RunConfig().run_hash("text") != RunConfig().run_hash("another text")


def test_a_config_cannot_be_changed_after_it_was_checked():
    with pytest.raises(ValidationError, match="frozen"):
        RouterConfig().sparsity = 2.0


def written(path, config, **facts):
    """Write a run file that records these options."""
    with DynamicsLogger(path, num_experts=1) as logger:
        logger.log_run({f"config.{name}": value for name, value in config.facts().items()} | facts)
    return path


def test_the_options_of_a_run_file_are_used_again(tmp_path):
    config = parse_config({"seed": 7, "merge": "example", "max_grad_norm": 0.5, "thresholds": {"awakening_ratio": 1.2}})
    registered = Thresholds().changed(config.thresholds).registration()
    path = written(tmp_path / "dynamics.db", config, **registered)
    assert load_config(path) == config
    assert load_config(path, ["seed=8"]) == config.model_copy(update={"seed": 8})


def test_a_run_file_of_another_trainer_is_no_config(tmp_path):
    with DynamicsLogger(tmp_path / "dynamics.db", num_experts=1) as logger:
        logger.log_run({"config.seed": 1})
    with pytest.raises(ConfigError, match="not trained by `prismatic train`"):
        load_config(tmp_path / "dynamics.db")


@pytest.mark.parametrize("facts", [{"config.hidden_size": -1}, {"config.router_type": "prismatic", "config.new": 1}])
def test_options_of_a_run_file_are_checked_like_any_other(tmp_path, facts):
    path = written(tmp_path / "dynamics.db", parse_config({}), **facts)
    with pytest.raises(ConfigError, match=r"hidden_size|unknown option 'new'"):
        load_config(path)


def test_a_damaged_run_file_is_no_config(tmp_path):
    path = tmp_path / "dynamics.db"
    path.write_bytes(b"SQLite format 3\x00" + bytes(80))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)
