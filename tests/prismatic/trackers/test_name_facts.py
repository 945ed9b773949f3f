"""Options that stand in the names of runs."""

import time

import pytest

from prismatic.errors import ConfigError, TrackerError
from prismatic.trackers.mapping import load_mapping
from prismatic.trackers.name_facts import NameFact, parse_name_facts
from prismatic.trackers.tracked import TrackedRun


@pytest.mark.parametrize(
    ("pattern", "name", "value"),
    [
        (r"_s(\d+)", "moe_s3", 3),
        (r"_s(\d+)", "moe_s03_x", 3),
        (r"scale=([0-9.]+)", "a,scale=0.50,b", 0.5),
        ("(top|dense)", "run-dense-1", "dense"),
        (r"^(\w+?)-", "first-second", "first"),
        ("s(1|2)|never", "s2", 2),
        ("é(.)", "né\nx", "\n"),
        ("(?i)SEED(?P<n>[0-9])", "seed7", 7),
        ("s(.*)", "s1e999", "1e999"),
        ("s(.*)", "snan", "nan"),
    ],
)
def test_the_group_of_the_first_match_is_the_value(pattern, name, value):
    found = NameFact.of("seed", pattern).value_in([name])
    assert found == value
    assert type(found) is type(value)


def test_names_are_searched_in_order():
    run = TrackedRun("version_0", "lightning", file="logs/moe_s4/version_0/metrics.csv")
    assert NameFact.of("seed", r"_s(\d+)").value_in(run.names) == 4


@pytest.mark.parametrize("name", ["moe", "moe_s", ""])
def test_a_name_without_it_is_refused_with_the_names(name):
    with pytest.raises(TrackerError, match=r"run .*: its names do not match seed=_s\(\\d\*\); they are"):
        NameFact.of("seed", r"_s(\d*)").value_in([name, "other"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seed", "expected name=pattern"),
        ("seed=3", "expected a regular expression with one group, as in .*, found 0 groups; --set gives"),
        ("seed=(a)(b)", "found 2 groups"),
        ("seed=(a", "no regular expression that can be searched for"),
        ("seed=(?=a)(b)", "no regular expression that can be searched for .invalid perl operator"),
        (r"seed=(a)\1", "no regular expression that can be searched for .invalid escape sequence"),
        ("seed=((?:(?:a{100}){100}){100})", "no regular expression that can be searched for"),
    ],
)
def test_a_bad_pattern_is_refused_with_what_is_expected(given, message):
    with pytest.raises(ConfigError, match=message):
        parse_name_facts([given])


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:a|a)*(b)", "(?:a*)*(b)", "(.*.*.*.*.*.*x)"])
def test_no_pattern_takes_long(pattern):
    if pattern == "(a+)+$":
        pattern = "(?:a+)+(b)$"
    start = time.perf_counter()
    with pytest.raises(TrackerError):
        NameFact.of("seed", pattern).value_in(["a" * 100_000 + "!"])
    assert time.perf_counter() - start < 1


def test_an_option_is_given_in_one_way(tmp_path):
    with pytest.raises(ConfigError, match="--set and --facts both give seed"):
        load_mapping(None, ["seed=1"], ["seed=_s([0-9]+)"])
    with pytest.raises(ConfigError, match="expected a name of a-z"):
        load_mapping(None, [], ["Big Seed=_s([0-9]+)"])


def test_the_map_may_hold_patterns_and_names_to_ignore(tmp_path):
    text = 'ignore = ["hub_*"]\n[metrics]\na = "loss"\n[options]\nseed = 1\n[facts]\nseed = "_s([0-9]+)"\n'
    (tmp_path / "map.toml").write_text(text)
    mapping = load_mapping(tmp_path / "map.toml", ignored=["model.path"])
    config = {"hub_id": "x", "model": {"path": "y", "layers": 2}, "seed": 9, "run_name": "z"}
    facts = mapping.options_of(TrackedRun("moe_s5", "test", config=config))
    assert facts == {
        "config.seed": 5,
        "config.tracker_model_layers": 2,
        "tracker_seed": 9,  # kept, and no option: the run has a seed
        "tracker_run_name": "z",
    }


def test_without_a_seed_the_trackers_own_keeps_runs_apart():
    facts = load_mapping(None).options_of(TrackedRun("moe_s5", "test", config={"seed": 9}))
    assert facts == {"config.tracker_seed": 9}
