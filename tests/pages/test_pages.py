"""Each page, run by Streamlit's own test harness on real run files: none, one, several, bad ones."""

import html
from hashlib import sha256
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.support.simulated_runs import simulated_run, write
from ui.session.library import Library, Source
from ui.widgets.markdown import escape_markdown
from validation.files.parquet_set import write_set
from validation.files.sources import read_sources

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HARMFUL = (
    "![x](http://example.invalid/x.png) <b>bold</b> :red[red] $x$ `code` www.example.invalid a@b.c _i_ :material/x: ->"
)


def opened(page="app.py", *sources):
    """The page after a session chose these files."""
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.session_state["library"] = Library([Source(Path(path), name) for path, name in sources])
    return at.run() if page == "app.py" else at.switch_page(page).run()


def texts(at):
    """Everything that a person would read on the page."""
    return " ".join(
        str(element.value)
        for kind in ("markdown", "caption", "error", "warning", "info", "title", "subheader", "success")
        for element in at.get(kind)
    )


@pytest.mark.parametrize(
    ("example", "status"), [("as-is", "confounded"), ("positive-control", "supported"), ("zero-norms", "invalid")]
)
def test_home_gives_the_verdict_that_the_example_promises(example, status):
    at = opened("app.py", (EXAMPLES / f"{example}.db", example))
    assert f"[{status}]" in at.subheader[0].value


def test_home_shows_both_readings_of_each_claim():
    at = opened("app.py", (EXAMPLES / "as-is.db", "as-is"))
    cards = [caption.value for caption in at.caption if caption.value.startswith("As written: ")]
    assert len(cards) == 3


def test_a_positive_control_is_marked_on_home():
    at = opened("app.py", (EXAMPLES / "positive-control.db", "positive"))
    assert "put in by hand" in texts(at)


def test_one_click_on_an_example_gives_a_verdict():
    at = opened()
    next(button for button in at.button if "as is" in button.label).click().run()
    assert not at.exception
    assert "Verdict" in at.subheader[0].value


def test_an_upload_is_judged_beside_files_that_cannot_be():
    at = opened()
    good = ("dynamics.db", (EXAMPLES / "as-is.db").read_bytes(), "application/octet-stream")
    at.file_uploader[0].set_value([good, ("notes.txt", b"no run at all", "text/plain")]).run()
    assert not at.exception
    assert any("expected a run file" in text.value for text in at.text)
    assert "confounded" in at.subheader[0].value


def test_an_upload_stays_when_the_page_is_changed():
    at = opened()
    at.file_uploader[0].upload("dynamics.db", (EXAMPLES / "as-is.db").read_bytes()).run()
    at.switch_page("pages/1_Dynamics.py").run()
    assert at.get("vega_lite_chart")


def test_parts_of_the_verdict_are_made_when_they_are_opened():
    at = opened("pages/2_Verdict.py", (EXAMPLES / "as-is.db", "as-is"))
    assert not at.get("dataframe")
    for part, columns in {
        "see-claims": {"reading", "claim", "because"},
        "see-facts": {"fact", "value"},
        "see-thresholds": {"threshold", "used", "registered", "default"},
    }.items():
        at.session_state[part] = True
        at.run()
        assert not at.exception
        assert any(columns <= set(table.value) for table in at.get("dataframe"))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"SQLite format 3\x00", (EXAMPLES / "as-is.db").read_bytes()[:50_000]]
)
def test_a_bad_upload_alone_gets_its_sentence_and_no_verdict(content):
    at = opened()
    at.file_uploader[0].upload("bad.db", content, "application/octet-stream").run()
    assert not at.exception
    assert any("Fix: " in text.value for text in at.text)
    assert not at.subheader


def test_several_runs_are_told_apart_and_summed_up(tmp_path):
    files = [
        write(simulated_run(seed=s), tmp_path / f"{s}.db", **{"config.seed": s, "run_hash": f"{s}" * 9})
        for s in range(3)
    ]
    at = opened("app.py", *((file, file.name) for file in files))
    assert not at.exception
    assert at.sidebar.selectbox[0].options == ["000000000", "111111111", "222222222"]
    assert len(at.get("dataframe")[-1].value) == 3


def test_our_own_sentences_keep_every_character():
    sentence = "train with --set merge=example control_experts=1 [0.98, 1.00] (see *this*)"
    assert html.unescape(escape_markdown(sentence)) == sentence
    assert not set("_[]()*=") & set(escape_markdown(sentence))


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


def test_a_metric_that_is_not_logged_is_said_and_not_drawn(tmp_path):
    at = opened("pages/1_Dynamics.py", (write(simulated_run(), tmp_path / "x.db"), "x"))
    group = at.get("button_group")[0]
    group.set_value(["Direction"] if isinstance(group.value, list) else "Direction").run()
    assert "does not log direction" in at.info[0].value
    assert len(at.get("vega_lite_chart")) == 1  # the scores


@pytest.mark.parametrize("view", ["Tier norms", "By tier", "Together", "Divergence", "Direction", "Routing", "Loss"])
def test_each_view_of_the_dynamics_draws(view):
    at = opened("pages/1_Dynamics.py", (EXAMPLES / "positive-control.db", "positive"))
    at.get("button_group")[0].set_value([view] if isinstance(at.get("button_group")[0].value, list) else view).run()
    assert not at.exception
    assert at.get("vega_lite_chart")


def test_the_header_of_the_dynamics_has_each_experts_divergence():
    at = opened("pages/1_Dynamics.py", (EXAMPLES / "as-is.db", "as-is"))
    assert [metric.label for metric in at.metric][:2] == ["Divergence score, expert 1", "Divergence score, expert 2"]


def test_diagnostics_list_every_check():
    from validation.diagnostics import CHECKS

    at = opened("pages/5_Diagnostics.py", (EXAMPLES / "as-is.db", "as-is"))
    tables = [block.value.splitlines() for block in at.markdown if block.value.startswith("| Check | Result |")]
    assert {line.count("|") for table in tables for line in table} == {4}
    documented, *themes = (table[2:] for table in tables)
    assert len(documented) == 4
    assert sum(map(len, themes)) == len(CHECKS)


def test_diagnostics_draw_what_each_finding_was_found_in():
    at = opened("pages/5_Diagnostics.py", (EXAMPLES / "as-is.db", "as-is"))
    assert not at.exception
    assert len(at.get("vega_lite_chart")) == 2


def test_files_that_were_not_read_stand_beside_those_that_were(tmp_path):
    (tmp_path / "notes.txt").write_text("no run at all")
    at = opened("pages/5_Diagnostics.py", (EXAMPLES / "as-is.db", "as-is"), (tmp_path / "notes.txt", "notes.txt"))
    log = next(table.value for table in at.dataframe if "result" in table.value)
    assert log["result"].tolist() == ["read", "not_a_run"]
    alone = opened("pages/5_Diagnostics.py", (tmp_path / "notes.txt", "notes.txt"))
    assert not alone.exception
    assert any("notes.txt" in text.value for text in alone.text)


def asked(sql):
    """The Runs page after this question."""
    at = opened("pages/6_Runs.py", (EXAMPLES / "as-is.db", "as-is"), (EXAMPLES / "positive-control.db", "positive"))
    at.text_area(key="sql").set_value(sql)
    return at.get("form_submit_button")[0].click().run() if at.get("form_submit_button") else at.button[0].click().run()


def test_a_question_in_sql_is_answered_about_all_chosen_runs():
    at = asked("SELECT count(DISTINCT run) AS runs, count(*) AS n FROM dynamics")
    assert not at.exception
    assert at.dataframe[0].value.to_dict("records") == [{"runs": 2, "n": 151 * 7}]


@pytest.mark.parametrize("sql", ["DROP TABLE runs", "SELECT * FROM read_csv('/etc/passwd')", "SELEC 1", ""])
def test_what_is_no_question_is_said_and_changes_nothing(sql):
    at = asked(sql)
    assert not at.exception
    assert at.error[0].value == "This cannot be answered."


def test_the_runs_page_shows_what_is_known_of_a_run():
    at = opened("pages/6_Runs.py", (EXAMPLES / "as-is.db", "as-is"))
    facts = next(table.value for table in at.dataframe if "fact" in table.value)
    assert dict(zip(facts["fact"], facts["value"], strict=True))["merge"] == "batch"
    hashes = next(table.value for table in at.dataframe if "hash" in table.value)
    assert sha256((EXAMPLES / "as-is.db").read_bytes()).hexdigest() in hashes["hash"].tolist()


def test_the_runs_page_tells_what_each_column_means_and_whether_the_file_has_it(tmp_path):
    at = opened("pages/6_Runs.py", (write(simulated_run(), tmp_path / "x.db"), "x"))
    told = next(table.value for table in at.dataframe if "meaning" in table.value).set_index(["table", "column"])
    assert told.loc[("dynamics", "expert_1_top_norm"), "unit"] == "loss / weight"
    assert told["in this file"][("dynamics", "expert_0_top_norm")]
    assert not told["in this file"][("layers", "top_norm")]


def test_a_question_to_start_from_can_be_chosen_and_is_answered():
    from ui.sections.runs import EXAMPLES as QUESTIONS

    at = opened("pages/6_Runs.py", (EXAMPLES / "as-is.db", "as-is"))
    for name, sql in QUESTIONS.items():
        at.selectbox(key="sql-example").set_value(name).run()
        assert at.text_area(key="sql").value == sql
        at.button[0].click().run()
        assert not at.exception
        assert not at.error
        assert len(at.dataframe[0].value)


def test_a_set_is_chosen_like_a_file(tmp_path):
    write_set(read_sources([EXAMPLES / "as-is.db", EXAMPLES / "positive-control.db"])[0], tmp_path / "set")
    at = opened("app.py", (tmp_path / "set", "set"))
    assert not at.exception
    assert [len(table.value) for table in at.dataframe if "verdict" in table.value] == [2]
