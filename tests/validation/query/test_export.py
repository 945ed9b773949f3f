"""`prismatic export` writes every row of a relation as CSV or Parquet."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.query.database import RELATIONS

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("relation", RELATIONS)
def test_both_formats_hold_every_row_of_each_relation(relation, tmp_path, capsys):
    for kind in ("csv", "parquet"):
        command = ["export", str(EXAMPLES / "as-is.db"), str(EXAMPLES / "zero-norms.db"), "--relation", relation]
        assert main([*command, "-o", str(tmp_path / f"rows.{kind}")]) == 0
    table = pq.read_table(tmp_path / "rows.parquet")
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert table.column_names == RELATIONS[relation]
    assert len(rows) == len(table)
    assert f"{len(table):,} rows of {relation}" in capsys.readouterr().out
    if relation == "dynamics":
        assert len(table) == 151 * 3 + 200 * 3
        assert [float(row["bottom_norm"]) for row in rows] == table["bottom_norm"].to_pylist()


def test_a_bad_file_is_reported_and_the_others_are_written(tmp_path, capsys):
    (tmp_path / "bad.db").write_text("no run")
    target = tmp_path / "rows.csv"
    assert main(["export", str(tmp_path / "bad.db"), str(EXAMPLES / "as-is.db"), "-o", str(target)]) == 2
    assert "skipped: " in capsys.readouterr().err
    assert len(target.read_text().splitlines()) == 1 + 151 * 3


@pytest.mark.parametrize(("name", "words"), [("rows.xlsx", "must end in .csv or .parquet"), ("no/rows.csv", "error: ")])
def test_an_output_that_cannot_be_written_is_an_error(tmp_path, capsys, name, words):
    assert main(["export", str(EXAMPLES / "as-is.db"), "-o", str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err


def test_a_text_that_a_spreadsheet_would_run_is_marked_in_csv_alone(tmp_path):
    path = write(simulated_run(steps=5), tmp_path / "dynamics.db", note="=HYPERLINK(1)", minus="-5", plain="a=b")
    for kind in ("csv", "parquet"):
        assert main(["export", str(path), "--relation", "facts", "-o", str(tmp_path / f"rows.{kind}")]) == 0
    marked = {row["key"]: row["value"] for row in csv.DictReader((tmp_path / "rows.csv").read_text().splitlines())}
    kept = {row["key"]: row["value"] for row in pq.read_table(tmp_path / "rows.parquet").to_pylist()}
    texts = ("note", "minus", "plain")
    assert [marked[key] for key in texts] == ["'=HYPERLINK(1)", "'-5", "a=b"]
    assert [kept[key] for key in texts] == ["=HYPERLINK(1)", "-5", "a=b"]
