"""All pages with many kinds of files. One session opens all pages, so that its files are read and judged once."""

import gc
import weakref

import numpy as np
import pytest

from prismatic.runfile.logger import DynamicsLogger
from tests.support.app_pages import EXAMPLES, HARMFUL, opened, texts
from tests.support.layered_runs import write_layers
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run, study, write
from ui.layout.frame import PAGES


def of_group(folder, *, seeds=3, scales=(0.0, 1.0, 2.0)):
    """Write a run for each seed and each scale."""
    return [
        write(
            simulated_run(seed=10 * seed + place, steps=120),
            folder / f"{seed}-{place}.db",
            run_hash=f"{seed}{place}" + "a" * 7,
            **{"config.seed": seed, "config.perturbation_scale": scale, "config.merge": "example"},
        )
        for place, scale in enumerate(scales)
        for seed in range(seeds)
    ]


def of_study(folder, **made):
    """Write six seeds with layers and a probe, and their sham runs."""
    return [
        write(run, folder / f"{run.id}.db", run_hash=f"{place:x}" * 9)
        for place, run in enumerate(study(6, probed_run, twins=True, steps=120, **made))
    ]


def without_rows(path):
    DynamicsLogger(path, num_experts=2).close()
    return path


def of_harmful_words(path):
    facts = {"run_hash": HARMFUL, "config.merge": HARMFUL, "config.seed": HARMFUL, "exit_state": HARMFUL}
    return write(simulated_run(steps=120), path, planned_steps=9e9, **facts)


CHOSEN = {
    "as-is": lambda folder: [EXAMPLES / "as-is.db"],
    "positive-control": lambda folder: [EXAMPLES / "positive-control.db"],
    "zero-norms": lambda folder: [EXAMPLES / "zero-norms.db"],
    "many runs": of_group,
    "a study": lambda folder: of_study(folder, bottom=0.5, direction=np.linspace(0.3, 0, 24)),
    "an unfinished study": lambda folder: of_study(folder, facts={"planned_steps": 250}),
    "one run that decides": lambda folder: of_study(folder, bottom=0.5)[:1],
    "many runs, one with layers": lambda folder: [
        write_layers(folder / "layers.db", steps=10, run_hash="abc123abc"),
        *of_group(folder, seeds=2, scales=(1.0,)),
    ],
    "no row": lambda folder: [without_rows(folder / "empty.db")],
    "one row": lambda folder: [write(simulated_run(steps=1), folder / "one.db")],
    "two rows": lambda folder: [write(simulated_run(steps=2), folder / "two.db")],
    "one row of layers": lambda folder: [write_layers(folder / "layers.db", steps=1, layers=2)],
    "64 layers": lambda folder: [write_layers(folder / "layers.db", steps=3, layers=64, experts=4, histograms=True)],
    "harmful words": lambda folder: [of_harmful_words(folder / "words.db")],
}


@pytest.mark.parametrize("chosen", CHOSEN)
def test_every_page_bears(chosen, tmp_path):
    files = CHOSEN[chosen](tmp_path)
    at = opened("app.py", *((file, HARMFUL if "words" in chosen else file.name) for file in files))
    for page in PAGES:
        for part in ("thresholds", "claims", "facts"):
            at.session_state[f"see-{part}"] = True  # or what is in there would not be made
        at.switch_page(page).run()
        assert not at.exception, page
        assert at.title, page
        assert "http://" not in texts(at), page
        assert "<b>" not in texts(at), page


def test_every_page_explains_itself_before_any_run_is_chosen():
    at = opened()
    for page in PAGES:
        at.switch_page(page).run()
        assert not at.exception, page
        assert "prismatic train" in at.get("code")[0].value, page


@pytest.mark.parametrize("page", PAGES)
def test_no_page_holds_what_a_closed_session_had_read(page):
    at = opened(page, (EXAMPLES / "as-is.db", "as-is"))
    assert not at.exception
    library = at.session_state["library"]
    judgement = weakref.ref(library.judged(library.keys(), ()))
    assert judgement() is not None
    library.close()
    gc.collect()
    assert judgement() is None
