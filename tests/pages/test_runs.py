"""The Runs page: queries in SQL, the facts of a run, and the meaning of its columns."""

from hashlib import sha256

import pytest

from tests.support.app_pages import EXAMPLES, opened
from tests.support.simulated_runs import simulated_run, write


def asked(sql):
    """Return the Runs page after this query."""
    at = opened("pages/6_Runs.py", (EXAMPLES / "as-is.db", "as-is"), (EXAMPLES / "positive-control.db", "positive"))
    at.text_area(key="sql").set_value(sql)
    return at.get("form_submit_button")[0].click().run() if at.get("form_submit_button") else at.button[0].click().run()


def test_a_question_in_sql_is_answered_about_all_chosen_runs():
    at = asked("SELECT count(DISTINCT run) AS runs, count(*) AS n FROM dynamics")
    assert not at.exception
    assert at.dataframe[0].value.to_dict("records") == [{"runs": 2, "n": 151 * 3 + 76 * 7}]


def test_columns_of_one_name_and_numbers_beyond_a_browser_are_shown():
    at = asked("SELECT 1 AS x, 9007199254740993 AS x, 1e300 AS large, [1] AS l, 0.5 AS half")
    assert not at.exception
    (row,) = at.dataframe[0].value.to_dict("records")
    assert row == {"x": 1, "x_1": "9007199254740993", "large": "1e+300", "l": "[1]", "half": 0.5}


@pytest.mark.parametrize("sql", ["DROP TABLE runs", "SELECT * FROM read_csv('/etc/passwd')", "SELEC 1", ""])
def test_what_is_no_question_is_said_and_changes_nothing(sql):
    at = asked(sql)
    assert not at.exception
    assert at.error[0].value == "The query failed."


def test_the_runs_page_shows_what_is_known_of_a_run():
    at = opened("pages/6_Runs.py", (EXAMPLES / "as-is.db", "as-is"))
    facts = next(table.value for table in at.dataframe if "fact" in table.value)
    assert dict(zip(facts["fact"], facts["value"], strict=True))["merge"] == "batch"
    hashes = next(table.value for table in at.dataframe if "hash" in table.value)
    assert sha256((EXAMPLES / "as-is.db").read_bytes()).hexdigest() in hashes["hash"].tolist()


def test_the_runs_page_tells_what_each_column_means_and_whether_the_file_has_it(tmp_path):
    at = opened("pages/6_Runs.py", (write(simulated_run(), tmp_path / "x.db"), "x"))
    columns = next(table.value for table in at.dataframe if "meaning" in table.value).set_index(["table", "column"])
    assert columns.loc[("dynamics", "expert_1_top_norm"), "unit"] == "loss / weight"
    assert columns["here"][("dynamics", "expert_0_top_norm")]
    assert not columns["here"][("layers", "top_norm")]


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
