"""The first visit of Home: the cards of the examples, and what they promise."""

import re

import pytest

from tests.support.app_pages import EXAMPLES, opened, texts
from ui.sections.first_visit import CARDS, STUDIES
from ui.session.catalog import by_key, examples, studies
from validation import judge, read_sources
from validation.judgement.glance import glance_of

STUDY_RUNS = 24


def test_every_example_has_a_card_and_a_picture():
    assert {entry.path.stem for entry in examples()} == {*CARDS}
    assert all(entry.path.with_suffix(".svg").is_file() for entry in examples())


@pytest.mark.parametrize("entry", examples(), ids=lambda entry: entry.path.stem)
def test_a_card_shows_the_status_that_its_files_have(entry):
    judgement = judge(*read_sources([entry.path]))
    assert CARDS[entry.path.stem].shown == glance_of(judgement).shown


@pytest.mark.parametrize("name", CARDS)
def test_a_card_opens_its_example_with_one_click(name):
    at = opened()
    assert CARDS[name].button in [button.label for button in at.button]
    at.button(key=name).click().run()
    assert not at.exception
    assert f"{STUDY_RUNS if name == 'study' else 1} run" in texts(at)
    assert at.query_params["from" if name == "study" else "run"]


def test_every_study_has_a_card_and_an_address():
    assert {entry.path.name for entry in studies()} == {*STUDIES}
    assert {entry.key for entry in studies()} <= {*by_key()}


@pytest.mark.long
@pytest.mark.parametrize("entry", studies(), ids=lambda entry: entry.path.name)
def test_the_card_of_a_study_opens_its_answers_with_one_click(entry):
    card, name = STUDIES[entry.path.name], entry.path.name
    judgement = judge(*read_sources([entry.path]))
    assert card.shown == glance_of(judgement).shown
    at = opened()
    at.button(key=f"study-{name}").click().run()
    assert not at.exception
    assert f"Study {name}" in texts(at)
    assert not [box.value for box in at.warning]
    sentence = glance_of(judgement).sentence
    assert all(number in sentence for number in re.findall(r"[0-9.]+x", card.lesson))


def test_the_first_page_reads_no_run(monkeypatch):
    monkeypatch.setattr("ui.session.library.read_sources", lambda *_, **__: pytest.fail("a run was read"))
    at = opened()
    assert not at.exception
    assert len(at.get("image")) == len(CARDS)


def test_the_pictures_are_those_of_the_examples():
    from examples.pictures import picture

    for entry in examples():
        drawn = picture(judge(*read_sources([entry.path])))
        assert drawn == entry.path.with_suffix(".svg").read_text(), f"{entry.path.stem}: run `make pictures`"
    assert EXAMPLES.is_dir()
