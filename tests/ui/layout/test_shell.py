"""The frame around the pages: the chosen run with its status, and what an empty page shows."""

import pytest

from tests.support.app_pages import EXAMPLES, HARMFUL, opened, texts
from tests.support.simulated_runs import simulated_run, write
from ui.layout.frame import ICONS, PAGES
from ui.widgets.about import ABOUT
from ui.widgets.placeholder import PICTURES
from validation.method.terms import TERMS

STATUSES = {
    "as-is": "⇄ confounded by routing",
    "positive-control": "◎ self-test passed",
    "zero-norms": "! invalid",
}


def in_sidebar(at):
    return " ".join(str(element.value) for element in (*at.sidebar.text, *at.sidebar.markdown, *at.sidebar.caption))


@pytest.mark.parametrize("example", STATUSES)
def test_every_page_shows_the_chosen_run_and_its_status_in_the_sidebar(example):
    at = opened("app.py", (EXAMPLES / f"{example}.db", example))
    for page in PAGES:
        at.switch_page(page).run()
        assert not at.exception
        assert STATUSES[example] in in_sidebar(at), page
        assert example in in_sidebar(at), page
        assert ("seed 0" in in_sidebar(at)) == (example != "zero-norms"), page  # that file names no seed


def test_seeds_that_are_judged_together_are_counted_beside_their_status(tmp_path):
    files = [
        write(
            simulated_run(seed=seed, steps=120),
            tmp_path / f"{seed}.db",
            **{"config.seed": seed, "config.merge": "example", "run_hash": f"{seed}" * 9},
        )
        for seed in range(3)
    ]
    at = opened("pages/4_Compare.py", *((file, file.name) for file in files))
    assert not at.exception
    assert at.sidebar.selectbox[0].options == [f"{seed}" * 9 for seed in range(3)]
    assert "3 runs that differ only in the seed" in in_sidebar(at)


def test_words_of_a_file_are_plain_text_in_the_sidebar(tmp_path):
    file = write(simulated_run(steps=120), tmp_path / "a.db", run_hash=HARMFUL)
    at = opened("pages/6_Runs.py", (file, HARMFUL))
    assert any(text.value.startswith(HARMFUL[:40]) for text in at.sidebar.text)
    assert HARMFUL[:40] not in " ".join(str(element.value) for element in (*at.sidebar.markdown, *at.sidebar.caption))


@pytest.mark.parametrize("page", [page for page, name in PAGES.items() if name != "Home"])
def test_an_empty_page_shows_a_picture_and_says_what_would_be_there(page):
    at = opened(page)
    assert not at.exception
    assert ABOUT[PAGES[page]] in texts(at)
    assert at.get("image")[0].proto.imgs[0].alt.startswith("Placeholder: ")


def test_each_page_has_an_icon_and_a_picture():
    names = [*PAGES.values()]
    assert [*ICONS] == names
    assert [*PICTURES] == [*ABOUT] == names[1:]


@pytest.mark.parametrize(
    ("page", "terms"),
    [
        ("app.py", {"awakening", "divergence", "sustainment", "positive control"}),
        ("pages/1_Dynamics.py", {"merged gradient", "isolated gradient", "probe"}),
        ("pages/3_Layers.py", {"tier", "share", "clean expert", "isolated gradient"}),
    ],
)
def test_terms_explain_themselves_where_they_stand(page, terms):
    at = opened(page, (EXAMPLES / "positive-control.db", "positive-control"))
    assert not at.exception
    shown = str([getattr(element.proto, "help", "") for element in (*at.markdown, *at.get("button_group"))])
    assert not [term for term in terms if TERMS[term] not in shown]
