"""What was read from run files, kept by the hash of their bytes: a file that was validated once is not opened again.

One Arrow file per run holds its wide table, with everything small in its metadata; `layers` and `histograms` lie
beside it where the run has any. Numbers are mapped as they lie on the disk, and not copied: norms hardly repeat, so
packing them would save little space, and cost the time to unpack them. A cache never fails a reading: what cannot be
written or read is simply not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from platformdirs import user_cache_path

from prismatic.contract import schema
from validation.files.run_file import RunFile, arrow_schema
from validation.files.sandbox.incremental_read import Live

MOST_BYTES = 2 << 30
SMALL, LARGE = ("experts", "tiers", "events"), ("layers", "histograms")
ABOUT = ("run", "sha256", "facts", "duplicates", "ignored", "notes", "wal", "application_id", "version")
KEY = b"prismatic"


def default_folder() -> Path:
    """The user's cache folder, or what PRISMATIC_CACHE names."""
    return Path(os.environ.get("PRISMATIC_CACHE") or user_cache_path("prismatic") / "runs")


@cache
def _reader() -> str:
    """A hash of the code that reads: what another version read differently is not taken for this one's."""
    here = Path(__file__).parent
    code = [file.read_bytes() for file in [*sorted(here.rglob("*.py")), Path(schema.__file__)]]
    return hashlib.sha256(b"\0".join(code)).hexdigest()[:12]


class Cache:
    """A folder of runs by the sha256 of their files; the ones used longest ago go when it is over `most_bytes`.

    `live` knows the files that were being written, in memory: keep the cache to read them on and not from the start.
    """

    def __init__(self, folder: Path | None = None, *, most_bytes: int = MOST_BYTES):
        self.folder = (folder or default_folder()) / _reader()
        self._most_bytes = most_bytes
        self._bytes: int | None = None
        self.live = Live()

    def get(self, sha256: str) -> RunFile | None:
        """The run whose file had these bytes, under no name and no path; None where it is not known."""
        path = self._path(sha256)
        try:
            wide = _read(path)
            about = json.loads(wide.schema.metadata[KEY])
            side = {table: pa.Table.from_pylist(about[table], schema=arrow_schema(table)) for table in SMALL}
            for table in LARGE:
                empty = arrow_schema(table).empty_table()
                side[table] = _read(self._beside(path, table)) if table in about["beside"] else empty
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None
        known: dict[str, Any] = {name: about[name] for name in ABOUT}
        known |= {name: tuple(about[name]) for name in ("ignored", "notes")}
        return RunFile(name="", path=Path(), wide=wide.replace_schema_metadata(None), **known, **side)

    def put(self, run: RunFile) -> None:
        """Keep a run; not one that is still being written, or each state of its file would be kept."""
        large = {table: getattr(run, table) for table in LARGE if len(getattr(run, table))}
        about: dict[str, Any] = {name: getattr(run, name) for name in ABOUT}
        about |= {table: getattr(run, table).to_pylist() for table in SMALL}
        about["beside"] = list(large)
        path = self._path(run.sha256)
        with suppress(OSError, ValueError, TypeError, pa.ArrowException):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The run itself at last: it is there only when everything that belongs to it is.
            for table, content in large.items():
                _write(content, self._beside(path, table))
            _write(run.wide.replace_schema_metadata({KEY: json.dumps(about)}), path)
            self._added(path)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.arrow"

    def _beside(self, path: Path, table: str) -> Path:
        return path.with_name(f"{path.stem}.{table}.arrow")

    def _added(self, path: Path) -> None:
        """Keep the size below the limit, at the cost of one look at the folder per process."""
        if self._bytes is None:
            self._bytes = sum(file.stat().st_size for file in self.folder.parent.rglob("*.arrow"))
        else:
            self._bytes += sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}*"))
        if self._bytes > self._most_bytes:
            self._prune()

    def _prune(self) -> None:
        """Remove the files that were used longest ago, other versions' among them, until a tenth is free."""
        files = sorted(
            (file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.parent.rglob("*.arrow")
        )
        self._bytes = sum(size for _, size, _ in files)
        for _, size, file in files:
            if self._bytes <= 0.9 * self._most_bytes:
                return
            file.unlink(missing_ok=True)
            self._bytes -= size


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    table.validate(full=True)  # what nobody checks can make Arrow read beyond the file
    return table


def _write(table: pa.Table, path: Path) -> None:
    """A file that is whole or not there, whoever else writes it at the same time."""
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".new")
    try:
        with os.fdopen(handle, "wb") as stream, pa.ipc.new_file(stream, table.schema) as file:
            file.write_table(table.combine_chunks())
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
