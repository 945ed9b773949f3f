"""The reader of W&B's offline runs, `run-ID.wandb`: protocol buffers of W&B in LevelDB's log format.

W&B's library parses the records. This file reads the log format, because the library's reader was never public and
version 0.31 removed it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import TrackedRun, as_number

LIBRARIES: tuple[str, ...] = ("wandb.proto.wandb_internal_pb2", "google.protobuf.message")
HEADER = b":W&B\xe1\xbe\x00"  # name, magic number, version
BLOCK = 32_768  # bytes
FRAME = struct.Struct("<IHB")  # the header of each piece: checksum, length, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the run of a .wandb file, or the runs in a folder.

    Raises TrackerError for a file of another format, and ImportError if W&B is not installed.
    """
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2 as messages

        record: Any = vars(messages)["Record"]  # protobuf creates it at import, so type checkers do not know it
    except (ImportError, KeyError) as error:
        raise ImportError('.wandb files need W&B: pip install "prismatic-dynamics[trackers]"') from error
    files = sorted(source.rglob("*.wandb")) if source.is_dir() else [source]
    return [_run(path, record, DecodeError) for path in files]


def _run(path: Path, record_type: Any, decode_error: type[Exception]) -> TrackedRun:
    run, config = TrackedRun(path.stem.removeprefix("run-"), "wandb", file=str(path)), dict[str, Any]()
    try:
        for data in records(path.read_bytes()):
            record = record_type.FromString(data)
            if record.HasField("run"):
                run.name, run.id = record.run.display_name or run.name, record.run.run_id
                run.group = record.run.project
                config |= _values(record.run.config.update)
            elif record.HasField("config"):
                config |= _values(record.config.update)
            elif record.HasField("history"):
                _add_history(run, _values(record.history.item), record.history.step.num)
    except OSError as error:
        raise TrackerError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError, decode_error) as error:
        if not run.metrics:
            raise TrackerError(f"{path}: cannot be read as a run of W&B ({error}).") from error
        run.notes.append(f"{path.name} was read up to a damaged or incomplete record ({error})")
    run.config = config
    return run


def _values(items: Any) -> dict[str, Any]:
    """Return values by name; the parts of nested names are joined with dots."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _add_history(run: TrackedRun, values: dict[str, Any], step: int) -> None:
    own_step = as_number(values.pop("_step", step))
    wall_time = as_number(values.get("_timestamp"))
    metrics = {name: value for name, value in values.items() if not name.startswith("_")}  # W&B's own begin with _
    run.add(step if own_step is None else int(own_step), metrics, wall_time)


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log: each is one piece or several, with checksums, in blocks.

    Raises ValueError for another format, and at a damaged record or one that was not completely written.
    """
    if not data.startswith(HEADER):
        raise ValueError(f"it begins with {data[:8]!r} instead of {HEADER!r}")
    position, parts = len(HEADER), list[bytes]()
    while position + FRAME.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < FRAME.size:  # the rest of a block that is too small for a piece is zeros
            position += left
            continue
        checksum, length, kind = FRAME.unpack_from(data, position)
        piece = data[position + FRAME.size : position + FRAME.size + length]
        if len(piece) < length or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"at byte {position:,}")
        position += FRAME.size + length
        parts.append(piece)
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts.clear()
        elif kind not in (FIRST, MIDDLE):
            raise ValueError(f"at byte {position:,}")
    if parts or any(data[position:]):
        raise ValueError(f"after byte {position:,} the rest is missing")
