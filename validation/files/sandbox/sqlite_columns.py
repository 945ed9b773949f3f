"""Cells as they were read, and the typed columns in which they are sent.

Part of the child process that sqlite_worker.py is, whose docstring describes the form of a page.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from validation.files.sandbox.sqlite_checks import Reject

if TYPE_CHECKING:
    from validation.files.sandbox import arrow_driver

LARGE_PAGE = 100_000  # values and characters; a smaller one is written before a thread would begin

Row = tuple[Any, ...]


class Column:
    """The values of one column, in the form in which they are sent."""

    def __init__(self, kind: str) -> None:
        self.kind, self.present, self.text = kind, bytearray(), bytearray()
        self.values: array[Any] = array("i" if kind in "tb" else kind)  # of texts and BLOBs, their lengths

    def extend(self, cells: Row | arrow_driver.Cells) -> None:
        """Add cells as they were read. Raises TypeError if one of them has the wrong type."""
        known = len(self.values)
        if not isinstance(cells, tuple):
            self.values.frombytes(cells.values)
            self.text += cells.text
            present: Any = cells.present
        elif self.kind == "t":
            texts = [None if cell is None else encode(cell) for cell in cells]
            self.values.extend([-1 if text is None else len(text) for text in texts])
            self.text += b"".join(filter(None, texts))
            present = None
        elif self.kind == "b":
            if not {*map(type, cells)} <= {bytes, type(None)}:
                raise TypeError
            self.values.extend([-1 if cell is None else len(cell) for cell in cells])
            self.text += b"".join(filter(None, cells))
            present = None
        else:
            try:
                self.values.extend(array(self.kind, cells))
                present = None
            except TypeError:  # a NULL, a float that is an integer, or a wrong type
                self.values.extend(array(self.kind, [self.number(cell) for cell in cells]))
                present = [self.kind == "d" or cell is not None for cell in cells]
        self.present.extend(present or b"\1" * (len(self.values) - known))

    def number(self, cell: Any) -> Any:
        """Return a cell as a value for the array. Raises TypeError if it has the wrong type."""
        if self.kind == "d":
            return float("nan") if cell is None else cell
        return 0 if cell is None else integer(cell)

    def keep_newest(self, rows: int) -> None:
        """Remove all values but the last ones."""
        old = self.values[:-rows]
        if old:
            del self.values[:-rows], self.present[:-rows]
            del self.text[: sum(length for length in old if self.kind == "t" and length > 0)]

    def sent_kind(self) -> str:
        """Return the kind that says how the values are sent; the docstring of this module describes them."""
        return self.kind + "?" * (0 in self.present)

    @property
    def size(self) -> int:
        """The number of values it holds; a BLOB counts by its bytes, eight to a value."""
        return len(self.text) // 8 if self.kind == "b" else len(self.values)

    def take(self) -> list[Any]:
        """Remove all values, and return the bytes to send."""
        taken = [self.values, self.text, *([self.present] if 0 in self.present else [])]
        self.present, self.text, self.values = bytearray(), bytearray(), array(self.values.typecode)
        return taken


def integer(cell: Any) -> int:
    """Return an integer, also for a float without a fraction, which pandas writes. Raises TypeError otherwise."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    if not isinstance(cell, int):
        raise TypeError
    return cell


def encode(cell: Any) -> bytes:
    """Return the UTF-8 of a text or a number. Raises TypeError for a BLOB."""
    if isinstance(cell, bytes):
        raise TypeError
    return str(cell).encode()


def first_bad_cell(rows: list[Row], columns: dict[str, Column]) -> Reject:
    """Return the error for the first cell of `rows` that has the wrong type for its column."""
    names = list(columns)
    for row in rows:
        for (name, column), cell in zip(columns.items(), row, strict=False):
            try:
                Column(column.kind).extend((cell,))
            except TypeError:
                sql_type = "TEXT" if isinstance(cell, str) else "BLOB" if isinstance(cell, bytes) else "REAL"
                size = len(cell) if isinstance(cell, str | bytes) else 8
                step = row[names.index("step")] if "step" in names and name != "step" else None
                if column.kind == "b":
                    found = "a text" if isinstance(cell, str) else "a number"
                    return Reject("bad_array", column=name, step=step, expected="a BLOB", found=found)
                code = "bad_step" if name == "step" else "bad_value"
                return Reject(code, column=name, step=step, type=sql_type, bytes=size, value=repr(cell)[:40])
    return Reject("unexpected", problem="a value changed while it was read")


def wrong_array(columns: dict[str, Column], count: str, most: int) -> Reject | None:
    """Return the error for the first BLOB that does not hold as many float32 as its row says; None if all do."""
    if count not in columns:
        return Reject("no_known_columns", columns=[*columns][:20])
    counts, steps = columns[count].values, columns["step"].values if "step" in columns else None
    for place, (number, present) in enumerate(zip(counts, columns[count].present, strict=True)):
        if not present or not 0 < number <= most:
            found, step = number if present else "NULL", steps[place] if steps else None
            return Reject("bad_array", column=count, step=step, expected=f"1 to {most} {count}", found=found)
    expected = array("i", [4 * number for number in counts])
    for name, column in columns.items():
        if column.kind != "b" or column.values == expected:
            continue
        for place, (found, right) in enumerate(zip(column.values, expected, strict=True)):
            if found not in (-1, right):
                told = f"{right} bytes for {counts[place]} {count}"
                step = steps[place] if steps else None
                return Reject("bad_array", column=name, step=step, expected=told, found=f"{found} bytes")
    return None


class Reply:
    """The tables of one file as they are sent, page by page."""

    def __init__(self, send: Callable[[dict[str, Any], list[Any]], None]) -> None:
        self._send = send
        self.sizes: dict[str, int] = {}  # the number of values of each table
        self.text_bytes: dict[str, int] = {}  # of its texts and BLOBs

    def page(self, table: str, columns: dict[str, Column]) -> None:
        """Send the rows that the columns hold, and remove them."""
        self.sizes[table] = self.sizes.get(table, 0) + sum(column.size for column in columns.values())
        self.text_bytes[table] = self.text_bytes.get(table, 0) + sum(len(column.text) for column in columns.values())
        rows, layout = 0, []
        for name, column in columns.items():
            rows = len(column.values)
            layout.append([name, column.sent_kind()])
        blobs = [blob for column in columns.values() for blob in column.take()]
        self._send({"page": table, "rows": rows, "columns": layout}, blobs)

    def drop(self, table: str) -> None:
        """Take back what was sent of a table."""
        if self.sizes.pop(table, None) is not None:
            self._send({"drop": table}, [])


class Sender:
    """Writes to stdout; large pages in a thread, so that the next one is read meanwhile."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[dict[str, Any], list[Any]]] = queue.Queue(1)
        self._thread: threading.Thread | None = None

    def send(self, message: dict[str, Any], blobs: list[Any]) -> None:
        """Write a line of JSON, and the values that follow it, after everything that was sent before."""
        if sum(map(len, blobs)) < LARGE_PAGE or not self._has_thread():
            self._waiting.join()
            self._write(message, blobs)
        else:
            self._waiting.put((message, blobs))

    def _has_thread(self) -> bool:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_waiting, daemon=True)
            with contextlib.suppress(RuntimeError):  # the system allows no thread
                self._thread.start()
        return self._thread.is_alive()

    def _write_waiting(self) -> None:
        try:
            while True:
                self._write(*self._waiting.get())
                self._waiting.task_done()
        finally:
            os._exit(1)  # nobody reads any more, and this process would wait for ever

    def _write(self, message: dict[str, Any], blobs: list[Any]) -> None:
        sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
        for blob in blobs:
            sys.stdout.buffer.write(blob)
        sys.stdout.buffer.flush()
