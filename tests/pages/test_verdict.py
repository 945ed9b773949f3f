"""The Verdict page: its closed parts are made when they are opened."""

from tests.support.app_pages import EXAMPLES, opened


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
