"""The home page: uploads, runs on this machine, limits of a session, runs in training, and alerts."""

import threading
import time
from html import unescape

import pytest
from streamlit.testing.v1 import AppTest

from tests.support.app_pages import EXAMPLES, ROOT, banner, opened, texts
from tests.support.machine_runs import a_run, running
from tests.support.machine_runs import folder as folder
from tests.support.simulated_runs import simulated_run, write
from tests.support.webhook import hook as hook  # a fixture
from ui.session import live
from ui.session.library import Library, Source
from validation.files.parquet_set import write_set
from validation.files.sources import read_sources
from validation.judgement.glance import glance_of
from validation.judgement.judge import judge
from validation.verdict.words.wording import ends


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
    assert at.button(key="read-picked").label == "Read this run"


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
    assert not banner(at)


def test_more_files_than_a_session_may_hold_are_refused_whole(monkeypatch):
    monkeypatch.setenv("PRISMATIC_SESSION_FILES", "1")
    at = opened("app.py", (EXAMPLES / "as-is.db", "as-is"))
    at.session_state["files"] = True
    at.run()
    at.file_uploader[0].upload("zero.db", (EXAMPLES / "zero-norms.db").read_bytes()).run()
    assert "at most 1 file:" in at.error[0].value
    assert "1 run read" in texts(at)


def test_more_bytes_than_a_session_may_hold_are_refused(monkeypatch):
    monkeypatch.setenv("PRISMATIC_SESSION_MEGABYTES", "1")
    at = opened()
    at.file_uploader[0].upload("large.db", bytes(2 << 20)).run()
    assert "at most 1 MB" in at.error[0].value
    assert not banner(at)


def test_start_over_forgets_the_files_and_the_address(folder):
    a_run(folder, "aaaaaaaaa")
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.query_params["run"] = "aaaaaaaaa"
    at.run()
    next(button for button in at.button if button.label == "Start over").click().run()
    assert not at.exception
    assert "run" not in at.query_params
    assert not banner(at)


def test_one_of_several_files_can_be_removed():
    at = opened("app.py", (EXAMPLES / "as-is.db", "as-is"), (EXAMPLES / "zero-norms.db", "zero"))
    at.session_state["files"] = True
    at.run()
    next(button for button in at.button if "zero" in button.label).click().run()
    assert not at.exception
    assert "1 run read" in texts(at)


@pytest.mark.parametrize("page", ["app.py", "pages/1_Dynamics.py", "pages/4_Compare.py"])
def test_a_live_run_that_turns_bad_is_told_on_every_page_until_it_is_read(folder, page):
    logger, path = running(folder, "aaaaaaaaa")
    try:
        at = opened(page, (path, "live"), (EXAMPLES / "as-is.db", "as-is"))
        assert not at.exception
        assert "aaaaaaaaa has an error: all gradient norms are zero" in at.error[0].value
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
        assert banner(at)
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
        sent = [(body["run"], body["diagnostic"]) for _, _, body in hook.got]
        assert ("aaaaaaaaa", "zero_norms") in sent
        assert len(sent) == len(set(sent))
    finally:
        logger.close()
        live._alert_sender.clear()


@pytest.mark.parametrize(
    "example", ["as-is.db", "per-example.db", "positive-control.db", "zero-norms.db", "study"], ids=lambda name: name
)
def test_home_shows_the_glance_of_the_example(example):
    """The banner, the next step, each claim with its reason, and the documented reading."""
    judgement = judge(
        *read_sources([(EXAMPLES / example, example)] if example.endswith(".db") else [EXAMPLES / example])
    )
    glance, at = glance_of(judgement), opened("app.py", (EXAMPLES / example, example))
    assert not at.exception
    for words in (glance.shown.word.upper(), glance.headline, glance.sentence, *glance.notes):
        assert words in banner(at)
    page = unescape(texts(at))
    for words in (glance.step.text, glance.documented, glance.premise, *(row.reason[1:] for row in glance.rows)):
        assert words in page
    estimates = " ".join(each.proto.body for each in at.get("html"))
    for claim in (claim for row in glance.rows for claim in ([own for _, own, _ in row.groups] or [row.claim])):
        assert ends(claim) in estimates
    assert not at.get("code") or at.get("code")[0].value == glance.step.command


def test_a_positive_control_is_no_success_on_home():
    at = opened("app.py", (EXAMPLES / "positive-control.db", "positive"))
    assert "SELF-TEST PASSED" in banner(at)
    assert "supported" not in texts(at).partition("By the rules of the original")[0].lower()
    at = opened("pages/3_Layers.py", (EXAMPLES / "positive-control.db", "positive"))
    assert texts(at).count("It stays found if any one layer is removed.") == 2


def test_a_confounder_is_named_everywhere():
    at = opened("app.py", (EXAMPLES / "as-is.db", "as-is"))
    assert texts(at).count("confounded by routing") >= 4  # three claims, and the run in the sidebar


def test_one_click_on_an_example_gives_a_verdict():
    at = opened()
    at.button(key="as-is").click().run()
    assert not at.exception
    assert "CONFOUNDED BY ROUTING" in banner(at)


def test_an_upload_is_judged_beside_files_that_cannot_be():
    at = opened()
    good = ("dynamics.db", (EXAMPLES / "as-is.db").read_bytes(), "application/octet-stream")
    at.file_uploader[0].set_value([good, ("notes.txt", b"no run at all", "text/plain")]).run()
    assert not at.exception
    assert "Not read: notes.txt" in unescape(at.expander[0].label)
    at.session_state["rejected"] = True
    at.run()
    assert any("expected a run file" in text.value for text in at.text)
    assert "CONFOUNDED BY ROUTING" in banner(at)


def test_an_upload_stays_when_the_page_is_changed():
    at = opened()
    at.file_uploader[0].upload("dynamics.db", (EXAMPLES / "as-is.db").read_bytes()).run()
    at.switch_page("pages/1_Dynamics.py").run()
    assert at.get("vega_lite_chart")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"SQLite format 3\x00", (EXAMPLES / "as-is.db").read_bytes()[:50_000]]
)
def test_a_bad_upload_alone_gets_its_sentence_and_no_verdict(content):
    at = opened()
    at.file_uploader[0].upload("bad.db", content, "application/octet-stream").run()
    assert not at.exception
    assert any("Fix: " in text.value for text in at.text)
    assert not banner(at)


def test_several_runs_are_told_apart_and_summed_up(tmp_path):
    files = [
        write(simulated_run(seed=s), tmp_path / f"{s}.db", **{"config.seed": s, "run_hash": f"{s}" * 9})
        for s in range(3)
    ]
    at = opened("app.py", *((file, file.name) for file in files))
    assert not at.exception
    assert at.sidebar.selectbox[0].options == ["000000000", "111111111", "222222222"]
    assert at.get("dataframe")[-1].value["seed"].tolist() == [0, 1, 2]


def test_the_glance_of_several_runs_is_about_all_of_them_and_the_chart_about_the_picked_one():
    at = opened("app.py", (EXAMPLES / "study", "study"))
    assert "No awakening in any of 3 experiments" in banner(at)
    picked = at.sidebar.selectbox[0].value
    assert f"Run {picked}, one of 6 seeds" in texts(at)
    other = next(name for name in at.sidebar.selectbox[0].options if name != picked)
    at.sidebar.selectbox[0].set_value(other).run()
    assert not at.exception
    assert f"Run {other}, one of 6 seeds" in texts(at)


def test_the_same_run_uploaded_and_picked_is_one_run(tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_bytes((EXAMPLES / "as-is.db").read_bytes())
    at = opened()
    at.session_state["library"].sources += [
        Source(EXAMPLES / "as-is.db", "picked"),
        Source(copy, "copy", uploaded=True),
    ]
    at.run()
    assert not at.exception
    assert not at.sidebar.selectbox


def test_a_set_is_chosen_like_a_file(tmp_path):
    write_set(read_sources([EXAMPLES / "as-is.db", EXAMPLES / "positive-control.db"])[0], tmp_path / "set")
    at = opened("app.py", (tmp_path / "set", "set"))
    assert not at.exception
    assert [len(table.value) for table in at.dataframe if "awakening" in table.value] == [2]
