"""Sets in a zip or a folder: their runs equal those of the run files, and nothing in them is trusted."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.set_files import files_of, put_files, with_fitting_manifest
from tests.support.simulated_runs import simulated_run, write
from tests.validation.files.test_sources import assert_equal
from ui.session.library import spool_folder
from validation.files.limits import ReadLimits
from validation.files.parquet_set import write_set
from validation.files.read_files import read_files
from validation.files.run_file import RunFile
from validation.files.sandbox import set_client
from validation.files.set_manifest import MANIFEST
from validation.files.sources import read_sources
from validation.files.temporary import ALIVE
from validation.judgement.judge import judge
from validation.report.json_report import as_json

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.db"))


@pytest.fixture(scope="module")
def runs() -> list[RunFile]:
    return read_files(EXAMPLES)[0]


@pytest.fixture(scope="module")
def files(runs: list[RunFile], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a set of the examples."""
    root = tmp_path_factory.mktemp("set") / "runs"
    write_set(runs, root)
    return files_of(root)


def packed(path: Path, files: dict[str, bytes], root: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(root + name, data)
    return path


@pytest.mark.parametrize("root", ["", "all/my runs/"])
def test_the_runs_of_an_uploaded_set_are_the_runs_of_their_files(tmp_path: Path, files, runs, root):
    found, rejected = read_files([packed(tmp_path / "set.zip", files, root)])
    assert not rejected
    by_id = {run.id: run for run in found}
    assert by_id.keys() == {run.id for run in runs}
    for run in runs:
        own = by_id[run.id]
        assert own.name.endswith("set.zip")
        assert_equal(replace(own, sha256=run.sha256), run)
    assert as_json(judge([by_id[run.id] for run in runs]))["controlled"] == as_json(judge(runs))["controlled"]


def test_a_run_that_was_given_as_a_file_is_not_read_again_from_a_set(tmp_path: Path, files, runs):
    found, rejected = read_files([*EXAMPLES, packed(tmp_path / "set.zip", files)])
    assert not rejected
    assert [run.sha256 for run in found] == [run.sha256 for run in runs]


def test_an_uploaded_folder_with_a_set_is_read_as_one(files, runs, tmp_path: Path):
    uploads = [upload(f"my runs/set/{name}", data) for name, data in files.items()]
    uploads += [upload("my runs/7/dynamics.db", write(simulated_run(steps=5), tmp_path / "7.db").read_bytes())]
    uploads += [upload("my runs/7/config.json", b"{}")]
    sources = spool_folder(uploads)
    assert [source.name for source in sources] == ["my runs/7/dynamics.db", "set"]
    found, rejected = read_files([(source.path, source.name) for source in sources])
    assert not rejected
    assert len(found) == len(runs) + 1


def upload(name: str, data: bytes) -> SimpleNamespace:
    """Return an upload as Streamlit passes it for one file of a folder."""
    return SimpleNamespace(name=name, getbuffer=lambda: memoryview(data))


def changed(files: dict[str, bytes], table: str, data: bytes | None) -> dict[str, bytes]:
    """Return the files with another one in a table, and a manifest that fits it; without the file for None."""
    name = next(name for name in files if name.startswith(table))
    others = {other: content for other, content in files.items() if other != name}
    if data is None:
        return others
    return {**others, name: data} if name == MANIFEST else with_fitting_manifest({**others, name: data})


def bomb() -> bytes:
    """Return a few bytes of Parquet that expand to gigabytes of text."""
    stream, rows = io.BytesIO(), 1_000_000
    key = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), ["y" * 4000])
    pq.write_table(pa.table({"run": key, "key": key, "value": key}), stream, store_schema=False)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("table", "data", "id"),
    [
        ("dynamics", b"PAR1 and no more PAR1", "not_a_set"),
        ("dynamics", None, "not_a_set"),
        ("runs", None, "not_a_set"),
        ("facts", bomb(), "too_large"),
        (MANIFEST, b"{}", "not_a_set"),
        (MANIFEST, json.dumps({"format": "prismatic-set/2", "runs": 10**9}).encode(), "not_a_set"),
        (MANIFEST, b'{"format": "prismatic-set/9", "runs": 3}', "not_a_set"),
    ],
    ids=["not parquet", "a part is missing", "no runs", "bomb", "no format", "too few runs", "version"],
)
def test_a_bad_set_is_refused_whole_with_a_reason(tmp_path: Path, files, table, data, id, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found, (rejected,) = read_files([packed(tmp_path / "set.zip", changed(files, table, data))])
    assert not found
    assert rejected.error.id == id
    assert rejected.error.fix
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_a_bad_set_does_not_affect_the_run_files_beside_it(tmp_path: Path, files):
    bad = {**changed(files, "runs", b"nothing"), "beside/dynamics.db": EXAMPLES[0].read_bytes()}
    found, rejected = read_files([packed(tmp_path / "both.zip", bad)])
    assert (len(found), len(rejected)) == (1, 1)


def test_the_names_in_a_set_are_never_paths(tmp_path: Path, files, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bad = ["../runs/x.parquet", "runs/perturbation_scale=../../../x/part-00000.parquet", "/x", "a/b/part-00000.parquet"]
    found, rejected = read_files([packed(tmp_path / "set.zip", {**files, **dict.fromkeys(bad, b"x")})])
    assert (len(found), rejected) == (len(EXAMPLES), [])
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} - {ALIVE} == {"set.zip"}


def test_a_set_of_more_runs_than_an_archive_may_hold_is_refused(tmp_path: Path, files):
    found, (rejected,) = read_files([packed(tmp_path / "set.zip", files)], limits=ReadLimits(members=2))
    assert not found
    assert rejected.error.id == "too_large"
    assert "members" in str(rejected.error)


def test_bad_values_are_refused_as_in_a_run_file(tmp_path: Path, files):
    """The reader of run files validates the values of the Parquet files."""
    name = next(name for name in files if name.startswith("dynamics"))
    table = pq.read_table(io.BytesIO(files[name]))
    column = table.column_names.index("top_norm")
    texts = table.set_column(column, "top_norm", pa.array(["x"] * len(table)))
    stream = io.BytesIO()
    pq.write_table(texts, stream)
    found, rejected = read_files([packed(tmp_path / "set.zip", changed(files, name, stream.getvalue()))])
    assert len(found) + len(rejected) >= 1
    assert rejected
    assert {one.error.id for one in rejected} <= {"wrong_schema", "not_a_set"}


# -- Sets in a folder: the same walls ----------------------------------------------------------------------------------


def test_this_process_opens_no_parquet_file_of_a_folder(tmp_path: Path, files, runs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pq, "ParquetFile", lambda *_, **__: 1 / 0)
    found, rejected = read_sources([put_files(tmp_path / "set", files)])
    assert ({run.id for run in found}, rejected) == ({run.id for run in runs}, [])


@pytest.mark.parametrize(
    ("table", "data", "id"),
    [
        ("facts", bomb(), "too_large"),
        ("steps", b"PAR1 and no more PAR1", "not_a_set"),
        (MANIFEST, b"[" * 100_000, "not_a_set"),
    ],
    ids=["bomb", "not parquet", "nested"],
)
def test_a_bad_set_in_a_folder_is_refused_and_the_files_beside_it_are_read(tmp_path: Path, files, table, data, id):
    folder = put_files(tmp_path / "set", changed(files, table, data))
    found, (rejected,) = read_sources([EXAMPLES[0], folder])
    assert len(found) == 1
    assert rejected.error.id == id
    assert str(folder) in str(rejected.error)


def test_a_set_that_claims_the_hash_of_another_file_takes_no_run_away(tmp_path: Path, files):
    name = next(name for name in files if name.startswith("runs"))
    table = pq.read_table(io.BytesIO(files[name]))
    own = table["sha256"].to_pylist()
    shifted = table.set_column(table.column_names.index("sha256"), "sha256", pa.array([*own[1:], own[0]]))
    stream = io.BytesIO()
    pq.write_table(shifted, stream)
    forged = changed(files, name, stream.getvalue())
    for source in (put_files(tmp_path / "set", forged), packed(tmp_path / "set.zip", forged)):
        assert len(read_sources([*EXAMPLES, source])[0]) == len(EXAMPLES) + len(own)


def test_a_set_whose_rows_belong_to_no_run_is_damaged(tmp_path: Path, files):
    name = next(name for name in files if name.startswith("runs"))
    table = pq.read_table(io.BytesIO(files[name]))
    stream = io.BytesIO()
    pq.write_table(table.slice(0, len(table) - 1), stream)
    found, (rejected,) = read_sources([put_files(tmp_path / "set", changed(files, name, stream.getvalue()))])
    assert not found
    assert "rows of no run" in str(rejected.error)


LIES: dict[str, bytes] = {
    "no reply": b"",
    "no JSON": b"{\n",
    "another run id": b'{"id": "<b>", "name": "", "sha256": ""}\n',
    "a table of millions": b'{"id": "abcdef", "tables": {"dynamics": [1000000000, [["step", "q"]]]}}\n',
    "an end that is a number": b'{"end": 7}\n',
}


@pytest.mark.parametrize("reply", LIES.values(), ids=LIES.keys())
def test_a_lying_set_worker_is_not_trusted(tmp_path: Path, files, monkeypatch: pytest.MonkeyPatch, reply: bytes):
    (tmp_path / "liar.py").write_text(f"import sys; input(); sys.stdout.buffer.write({reply!r})")
    monkeypatch.setattr(set_client, "SET_WORKER", tmp_path / "liar.py")
    found, (rejected,) = read_sources([put_files(tmp_path / "set", files)])
    assert not found
    assert rejected.error.id == "unreadable"
