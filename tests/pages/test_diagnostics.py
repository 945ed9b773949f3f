"""The Diagnostics page: its checks, the charts of its findings, and the log of files that were read."""

from tests.support.app_pages import EXAMPLES, opened


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
    assert log["result"].tolist() == ["not_a_run", "read"]
    alone = opened("pages/5_Diagnostics.py", (tmp_path / "notes.txt", "notes.txt"))
    assert not alone.exception
    assert any("notes.txt" in text.value for text in alone.text)
