"""The home page: what can be chosen, how much of it, what is live, and what an alert says."""

import os
import threading
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from prismatic.runfile.logger import DynamicsLogger
from tests.pages.test_pages import EXAMPLES, ROOT, opened, texts
from tests.support.simulated_runs import simulated_run, write
from tests.ui.session.test_alerts import hook as hook  # a fixture
from ui.session import catalog, live
from ui.session.library import Library, Source
from validation.files.training_status import glance


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The server's folder of runs."""
    monkeypatch.setenv("PRISMATIC_RUNS", str(tmp_path))
    catalog._catalog.clear()
    yield tmp_path
    catalog._catalog.clear()


def a_run(folder, name, **facts):
    path = folder / name / "dynamics.db"
    path.parent.mkdir(parents=True)
    return write(simulated_run(steps=120, seed=len(name)), path, run_hash=name, **facts)


def running(folder, name, steps=40):
    """A run in the middle of its training: its logger is left open."""
    path = folder / name / "dynamics.db"
    path.parent.mkdir(parents=True)
    logger = DynamicsLogger(path, num_experts=2, flush_seconds=0.01)
    logger.log_run({"run_hash": name, "exit_state": "running", "started": time.time(), "planned_steps": 1000})
    for step in range(steps):
        norms = {f"{tier}_norm": 0.0 for tier in ("top", "bottom", "middle")}
        logger.log(step, {"expert_gradients": {"expert_0": norms, "expert_1": norms}, "wall_time": time.time()})
    logger.flush()
    return logger, path


def test_a_glance_tells_the_runs_in_training_from_all_others(folder):
    logger, live_one = running(folder, "aaaaaaaaa")
    try:
        ended, crashed = a_run(folder, "bbbbbbbbb", exit_state="finished"), a_run(folder, "ccccccccc")
        (folder / "d").mkdir()
        junk = folder / "d" / "dynamics.db"
        junk.write_bytes(b"SQLite format 3\0 and no more")
        seen = {one.path: one.training for one in glance([live_one, ended, crashed, junk, folder / "none"])}
        assert seen == {live_one: True, ended: False, crashed: False, junk: False}
        os.utime(live_one, (1, 1))
        assert not glance([live_one])[0].training
    finally:
        logger.close()


def test_a_run_in_training_is_one_click_away_and_its_page_says_so(folder):
    logger, _ = running(folder, "aaaaaaaaa")
    try:
        a_run(folder, "bbbbbbbbb", exit_state="finished")
        at = opened()
        assert [button.label for button in at.button if button.label.startswith("Follow")] == ["Follow aaaaaaaaa"]
        next(button for button in at.button if button.label.startswith("Follow")).click().run()
        assert not at.exception
        assert "provisional" in texts(at)
        assert at.query_params["run"] == "aaaaaaaaa"
    finally:
        logger.close()


def test_runs_on_this_machine_are_picked_in_a_table_that_can_be_filtered(folder):
    for name in ("aaaaaaaaa", "bbbbbbbbb", "abababab1"):
        a_run(folder, name)
    at = opened()
    assert len(at.dataframe[0].value) == 3
    at.text_input(key="filter").set_value("AB").run()
    assert at.dataframe[0].value["run"].tolist() == ["abababab1"]
    at.button(key="read-picked").click().run()
    assert not at.exception
    assert "1 run read" in texts(at)
    assert at.query_params["run"] == "abababab1"


def test_more_runs_than_fit_are_not_read_at_once(folder, monkeypatch):
    for name in ("aaaaaaaaa", "bbbbbbbbb"):
        a_run(folder, name)
    monkeypatch.setenv("PRISMATIC_SESSION_FILES", "1")
    at = opened()
    assert at.button(key="read-picked").disabled
    at.text_input(key="filter").set_value("aa").run()
    assert at.button(key="read-picked").label == "Read all 1 shown"


def test_runs_of_several_folders_are_told_apart_where_they_have_one_name(folder, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    first, second = a_run(folder, "aaaaaaaaa"), a_run(other, "aaaaaaaaa")
    monkeypatch.setenv("PRISMATIC_RUNS", f"{folder}{os.pathsep}{other}")
    keys = {entry.path: key for key, entry in catalog.by_key().items()}
    assert len({keys[first], keys[second]}) == 2


@pytest.mark.parametrize("page", ["app.py", "pages/2_Verdict.py"])
def test_an_address_restores_the_runs_and_the_picked_one(folder, page):
    for name in ("aaaaaaaaa", "bbbbbbbbb"):
        a_run(folder, name)
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.query_params["from"] = ["aaaaaaaaa", "bbbbbbbbb"]
    at.query_params["run"] = "bbbbbbbbb"
    at.run()
    if page != "app.py":
        at.switch_page(page).run()
    assert not at.exception
    assert at.sidebar.selectbox[0].value == "bbbbbbbbb"
    assert at.query_params["from"] == ["aaaaaaaaa", "bbbbbbbbb"]


@pytest.mark.parametrize("name", ["../aaaaaaaaa", "/etc/passwd", "nothing", "<b>"])
def test_an_address_is_never_a_path(folder, name):
    a_run(folder, "aaaaaaaaa")
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.query_params["run"] = name
    at.run()
    assert not at.exception
    assert "not on this machine" in at.warning[0].value
    assert not at.subheader


def test_more_files_than_a_session_may_hold_are_refused_whole(monkeypatch):
    monkeypatch.setenv("PRISMATIC_SESSION_FILES", "1")
    at = opened("app.py", (EXAMPLES / "as-is.db", "as-is"))
    at.file_uploader[0].upload("zero.db", (EXAMPLES / "zero-norms.db").read_bytes()).run()
    assert "at most 1 fit" in at.error[0].value
    assert "1 run read" in texts(at)


def test_more_bytes_than_a_session_may_hold_are_refused(monkeypatch):
    monkeypatch.setenv("PRISMATIC_SESSION_MEGABYTES", "1")
    at = opened()
    at.file_uploader[0].upload("large.db", bytes(2 << 20)).run()
    assert "at most 1 MB" in at.error[0].value
    assert not at.subheader


def test_start_over_forgets_the_files_and_the_address(folder):
    a_run(folder, "aaaaaaaaa")
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.query_params["run"] = "aaaaaaaaa"
    at.run()
    next(button for button in at.button if button.label == "Start over").click().run()
    assert not at.exception
    assert "run" not in at.query_params
    assert not at.subheader


def test_one_of_several_files_can_be_removed():
    at = opened("app.py", (EXAMPLES / "as-is.db", "as-is"), (EXAMPLES / "zero-norms.db", "zero"))
    next(button for button in at.button if "zero" in button.label).click().run()
    assert not at.exception
    assert "1 run read" in texts(at)


@pytest.mark.parametrize("page", ["app.py", "pages/1_Dynamics.py", "pages/4_Compare.py"])
def test_a_live_run_that_turns_bad_is_told_on_every_page_until_it_is_read(folder, page):
    logger, path = running(folder, "aaaaaaaaa")
    try:
        at = opened(page, (path, "live"), (EXAMPLES / "as-is.db", "as-is"))
        assert not at.exception
        assert "aaaaaaaaa has turned bad: all gradient norms are zero" in at.error[0].value
        at.button(key="alerts-read").click().run()
        assert not at.error
        at.run()
        assert not at.error
    finally:
        logger.close()


def test_a_page_comes_to_its_end_however_fast_its_run_is_written(folder):
    logger, path = running(folder, "aaaaaaaaa")
    ended = threading.Event()

    def write_on():
        step = 1000
        while not ended.wait(0.005):
            logger.log(step, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}, "wall_time": time.time()})
            step += 1

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        at = opened("app.py", (path, "live"))
        assert not at.exception
        assert "Verdict" in at.subheader[0].value
    finally:
        ended.set()
        writer.join()
        logger.close()


def test_what_does_not_grow_gives_no_alert(folder):
    logger, path = running(folder, "aaaaaaaaa")
    logger.close()
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.session_state["library"] = Library([Source(path, "a copy", uploaded=True)])
    at.run()
    assert not at.exception
    assert not at.error
    at = opened("app.py", (EXAMPLES / "zero-norms.db", "zero"))
    assert not at.error


def test_the_operator_is_told_once_for_all_sessions(folder, monkeypatch, hook):
    monkeypatch.setenv("PRISMATIC_ALERT_URL", hook.url)
    live._alert_sender.clear()
    logger, path = running(folder, "aaaaaaaaa")
    try:
        for _ in range(2):
            assert not opened("app.py", (path, "live")).exception
        live._alert_sender(hook.url).wait()
        told = [(body["run"], body["diagnostic"]) for _, _, body in hook.got]
        assert ("aaaaaaaaa", "zero_norms") in told
        assert len(told) == len(set(told))
    finally:
        logger.close()
        live._alert_sender.clear()


def test_a_hint_is_given_on_the_first_visit_of_a_page_and_not_again():
    at = opened("pages/1_Dynamics.py", (EXAMPLES / "as-is.db", "as-is"))
    assert "lightbulb" in texts(at)
    at.run()
    assert "lightbulb" in texts(at)
    at.switch_page("pages/6_Runs.py").run()
    at.switch_page("pages/1_Dynamics.py").run()
    assert "lightbulb" not in texts(at)


def test_uploads_go_with_the_library_that_held_them():
    chosen = Library()
    place = chosen.folder()
    (place / "x.db").write_bytes(b"x")
    chosen.close()
    assert not place.exists()
    other = Library().folder()
    assert not Path(other).exists()  # nobody held it any longer
