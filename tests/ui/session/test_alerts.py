"""Alerts to a real web server: sent once each, without blocking, and whatever the server does."""

import logging
import threading
from dataclasses import replace

import pytest

from tests.support.webhook import hook as hook
from ui.session.alerts import Alerts
from validation.diagnostics import ERROR, Finding

BAD = Finding(
    "exploding", ERROR, "the gradients explode", "1e30 at step 40", "too high a rate", "lower it", "07bfa2d26"
)


def test_an_alert_says_what_is_wrong_and_what_to_do(hook):
    alerts = Alerts(hook.url)
    alerts.send_once("07bfa2d26 1.0", BAD)
    alerts.wait()
    ((path, kind, body),) = hook.got
    assert (path, kind, alerts.failed) == ("/hook/secret", "application/json", 0)
    expected = {"run": "07bfa2d26", "diagnostic": "exploding", "severity": "error", "cause": "too high a rate"}
    assert expected.items() <= body.items()
    assert {"symptom", "evidence", "fix", "schema", "text"} <= body.keys()
    assert "07bfa2d26" in body["text"]
    assert "the gradients explode" in body["text"]


def test_the_words_of_a_file_are_no_markup_of_a_chat_program(hook):
    alerts = Alerts(hook.url)
    alerts.send_once("a", replace(BAD, evidence="<!channel> <http://evil.example|here> &"))
    alerts.wait()
    assert not {"<", ">"} & {*hook.got[0][2]["text"]}


def test_each_run_and_diagnostic_is_told_once_whoever_says_it_and_when(hook):
    alerts = Alerts(hook.url)
    sessions = [threading.Thread(target=alerts.send_once, args=("a", BAD)) for _ in range(20)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    alerts.send_once("a", replace(BAD, evidence="2e30 at step 41"))
    alerts.send_once("a", replace(BAD, id="nonfinite"))
    alerts.send_once("b", BAD)
    alerts.wait()
    assert [body["diagnostic"] for _, _, body in hook.got] == ["exploding", "nonfinite", "exploding"]


def test_nobody_waits_for_a_server_that_does_not_answer(hook):
    hook.goes_on.clear()
    alerts = Alerts(hook.url)
    for number in range(50):
        alerts.send_once(str(number), BAD)
    hook.goes_on.set()  # only now: send_once() has returned already
    alerts.wait()
    assert len(hook.got) == 50


def test_a_server_that_is_busy_is_asked_again(hook):
    hook.answers = [503, 503, 200]
    alerts = Alerts(hook.url, pause=0.0)
    alerts.send_once("a", BAD)
    alerts.wait()
    assert (len(hook.got), alerts.failed) == (3, 0)


@pytest.mark.parametrize(("answer", "attempts"), [(404, 1), (302, 1), (500, 3)])
def test_what_is_refused_is_counted_and_logged_without_the_secret_address(hook, answer, attempts, caplog):
    hook.answers = [answer] * attempts
    alerts = Alerts(hook.url, pause=0.0)
    with caplog.at_level(logging.WARNING, "prismatic.alerts"):
        alerts.send_once("a", BAD)
        alerts.wait()
    assert [path for path, _, _ in hook.got] == ["/hook/secret"] * attempts
    assert alerts.failed == 1
    assert str(answer) in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_is_not_there_harms_nobody(hook):
    gone = Alerts("http://127.0.0.1:9/hook", timeout=1.0, pause=0.0)
    gone.send_once("a", BAD)
    gone.wait()
    assert gone.failed == 1
