"""The child process that answers SQL by the user: DuckDB behind walls and limits, with nothing but the relations.

A statement that reads nothing but these relations can still end the process that runs it, take all its memory or run
for hours. user_sql.py starts this file as `python -I -S -B`, with the folders to import from as arguments, for one
question. It writes one line of JSON (the question, the limits, the views, the folders, the names of the tables) and an
Arrow stream for each table to stdin. The reply is one line of JSON:

    {"refused": SENTENCE}, {"late": true} or {"columns": [[NAME, KIND], ...], "rows": N, "more": BOOL, "cut": N}

and in the last case a line for each row, an array of its cells. `cut` counts the cells that were shortened.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

THREADS = 2
BATCH_ROWS = 256
LINES_BEFORE = 2  # a question, in the text that DuckDB makes of a relation over it
FIRST = "SELECT 1, 'a', 0.5, [1::HUGEINT], MAP {'a': {'b': now()}}"  # asked to load what answers need


def main() -> None:
    """Answer one question."""
    sys.path += sys.argv[1:]
    from prismatic.sandbox.limits import set_limits
    from prismatic.sandbox.walls import enforce
    from validation.query.one_select import Refused

    request = json.loads(sys.stdin.buffer.readline())
    limits = request["limits"]
    con = open_database(limits["database"])
    # DATA counts what can be filled; of AS, libraries and the stacks of threads take a part that they never touch.
    most = {"DATA": limits["memory"], "AS": limits["memory"] + (2 << 30), "FSIZE": 0, "NOFILE": 256, "CORE": 0}
    set_limits(most)
    enforce(folders=request["folders"], threads=True)
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        load_relations(con, request)
        send({"loaded": True})
        allow_seconds(limits["seconds"])
        lines = answer(con, request["sql"], limits)
    except Refused as error:
        lines = iter([{"refused": str(error)}])
    except MemoryError:
        lines = iter([{"refused": "it needs more memory than a question may take"}])
    for line in lines:
        send(line)
    sys.stdout.buffer.flush()


def open_database(memory: int) -> duckdb.DuckDBPyConnection:
    """Return an empty database, with all loaded that a question may need: behind the walls no library can be loaded.

    It starts no thread: one that runs before the walls are up is outside them.
    """
    import duckdb
    import pyarrow as pa

    from validation.query.one_select import require_select
    from validation.query.relations import empty_database

    pa.set_cpu_count(1)
    with duckdb.connect(":memory:", config={"threads": "1", "async_threads": "0"}) as con:
        require_select(con, FIRST)
        Rows(con.sql(FIRST), {"rows": 1, "bytes": 1000, "cell_bytes": 1000})
    return empty_database(memory, threads=1)


def end_with_parent(parent: int) -> None:
    """End this process soon after its parent: a killed server leaves no question behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def allow_seconds(seconds: float) -> None:
    """End this process if its threads together take more time than the question has."""
    try:
        import resource

        used = time.process_time() + THREADS * seconds
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1, int(used) + 2))
    except (ImportError, ValueError, OSError):
        return


def load_relations(con: duckdb.DuckDBPyConnection, request: dict[str, Any]) -> None:
    """Load the relations, whose tables follow on stdin. Raises Refused, MemoryError."""
    import duckdb
    import pyarrow as pa

    from validation.query.one_select import Refused, first_words
    from validation.query.relations import Relations, load

    stream = pa.PythonFile(sys.stdin.buffer, mode="r")
    tables = {name: lambda: pa.ipc.open_stream(stream) for name in request["tables"]}
    con.execute(f"SET threads = {THREADS}")
    try:
        load(con, Relations(tables, request["views"], request["folders"]))
    except duckdb.OutOfMemoryException:
        raise Refused("the runs together take more memory than a question may; choose fewer runs") from None
    except duckdb.Error as error:  # such as a damaged Parquet file of a set
        raise Refused(f"the runs cannot be loaded: {first_words(error)}") from None


def answer(con: duckdb.DuckDBPyConnection, sql: str, limits: dict[str, Any]) -> Iterator[Any]:
    """Return the lines of the reply. Raises Refused."""
    import duckdb
    import pyarrow as pa

    from validation.query.one_select import Refused, first_words, require_select

    asked = None
    timer = threading.Timer(limits["seconds"], con.interrupt)
    timer.start()
    try:
        require_select(con, sql)
        asked = con.sql(sql)
        rows = Rows(asked, limits)
        return iter([rows.header(), *rows.lines])
    except (duckdb.Error, pa.ArrowException, RuntimeError) as error:
        if "interrupt" in str(error).lower():
            return iter([{"late": True}])
        if isinstance(error, duckdb.OutOfMemoryException):
            raise MemoryError from None
        raise Refused(_lines_as_asked(first_words(error)) if asked else first_words(error)) from None
    finally:
        timer.cancel()


def _lines_as_asked(words: str) -> str:
    """Return an error of a relation over the question with the numbers of the question's own lines."""
    return re.sub(r"\bLINE (\d+):", lambda found: f"LINE {int(found[1]) - LINES_BEFORE}:", words, count=1)


class Rows:
    """The rows of an answer as lines of JSON, up to the limits."""

    def __init__(self, relation: duckdb.DuckDBPyRelation, limits: dict[str, Any]) -> None:
        """Raises Refused if not even one row fits."""
        from validation.query.carried_types import carried_type, kind_of
        from validation.query.one_select import Refused

        types = relation.types
        self.columns = [[name[:200], kind_of(of)] for name, of in zip(relation.columns, types, strict=True)]
        # By number: names may occur twice.
        casts = ", ".join(f"CAST(#{i} AS {carried_type(of)}) AS c{i}" for i, of in enumerate(types, 1))
        reader = relation.project(casts).to_arrow_reader(BATCH_ROWS)
        self.lines: list[bytes] = []
        self.more, self.cut, self._most = False, 0, limits["cell_bytes"]
        left = limits["bytes"]
        for batch in reader:
            for row in range(len(batch)):
                line = json.dumps([self._cell(column[row]) for column in batch.columns]).encode() + b"\n"
                left -= len(line)
                if left < 0 or len(self.lines) == limits["rows"]:
                    self.more = True
                    break
                self.lines.append(line)
            if self.more:
                break
        if self.more and left < 0 and not self.lines:
            raise Refused("one row is larger than an answer may be; select fewer columns")

    def header(self) -> dict[str, Any]:
        """Return the first line of the reply."""
        return {"columns": self.columns, "rows": len(self.lines), "more": self.more, "cut": self.cut}

    def _cell(self, cell: pa.Scalar) -> Any:
        """Return a value that JSON has, and count it if it was shortened."""
        value = cell.as_py(maps_as_pydicts="lossy")
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = value if isinstance(value, str) else json.dumps(value)
        data = text.encode(errors="replace")
        if len(data) <= self._most:
            return value
        self.cut += 1
        return data[: self._most].decode(errors="ignore") + f" … (cut; {len(data):,} bytes)"


def send(line: Any) -> None:
    """Write one line of the reply."""
    sys.stdout.buffer.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
    sys.stdout.buffer.flush() if isinstance(line, dict) else None


if __name__ == "__main__":
    main()
