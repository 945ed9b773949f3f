"""The plan of a study, as words of a command and as facts of a run file."""

import json
import random

import pytest

from prismatic.contract.study import Study, as_ranges, read_study
from prismatic.errors import ConfigError
from prismatic.sweep.plan import plan

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize("case", range(20))
def test_words_name_the_same_study_and_grid_reads_their_seeds(case: int):
    draw = random.Random(case)
    seeds = tuple(sorted(draw.sample(range(30), draw.randint(1, 20))))
    study = Study(seeds, runs=3 * len(seeds), sha256=SHA256)
    assert Study.from_words(study.words()) == study
    assert plan(None, [f"seed={as_ranges(seeds)}"]).study.seeds == seeds


@pytest.mark.parametrize("seeds", ["", "five", "5..0", "-1", "0..", "0,", "0..99999999999", "1" * 30])
def test_seeds_that_cannot_be_read_are_refused(seeds: str):
    with pytest.raises(ConfigError, match=r"expected seeds=0\.\.5 runs=18 sha256="):
        Study.from_words([f"seeds={seeds}", "runs=1", f"sha256={SHA256}"])


@pytest.mark.parametrize("words", [["seeds=0", "runs=1"], ["seeds=0", "runs=x", f"sha256={SHA256}"], ["seeds=0"] * 3])
def test_incomplete_words_are_refused(words: list[str]):
    with pytest.raises(ConfigError, match="expected"):
        Study.from_words(words)


def test_facts_name_the_same_study():
    study = Study((0, 1, 5), runs=9, sha256=SHA256)
    assert read_study(json.loads(json.dumps(study.facts()))) == study


@pytest.mark.parametrize("seeds", ["0,1", [], [0, True], [0, [1]], None])
def test_seeds_of_another_kind_are_no_registration(seeds: object):
    assert read_study(Study((0, 1), runs=2, sha256=SHA256).facts() | {"study.seeds": seeds}) is None


@pytest.mark.parametrize("rest", [{}, {"study.runs": None}, {"study.runs": True}, {"study.sha256": "a"}])
def test_seeds_alone_are_a_registration(rest: dict):
    assert read_study({"study.seeds": [5, 0, 5], **rest}) == Study((0, 5))
