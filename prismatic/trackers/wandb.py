"""W&B offline: `run-ID.wandb` is a log of records in LevelDB's framing, each a protocol buffer of W&B's own.

The records are parsed by the library's definitions. The framing is read here: the library's reader of it was never
public, and is gone since version 0.31.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import Tracked, as_number

HEADER = b":W&B\xe1\xbe\x00"  # name, magic number, version
BLOCK, FRAME = 32_768, struct.Struct("<IHB")  # bytes; checksum, length and kind before each piece
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read(source: Path) -> list[Tracked]:
    """The run of a .wandb file, or the runs in a folder.

    Raises TrackerError for what is none, and ImportError where W&B is not installed.
    """
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2 as messages

        record: Any = vars(messages)["Record"]  # which protobuf makes as it loads, so that no type checker knows of it
    except (ImportError, KeyError) as error:
        raise ImportError('.wandb files need W&B: pip install "prismatic-dynamics[trackers]"') from error
    files = sorted(source.rglob("*.wandb")) if source.is_dir() else [source]
    return [_run(path, record, DecodeError) for path in files]


def _run(path: Path, record_type: Any, broken: type[Exception]) -> Tracked:
    run, config = Tracked(path.stem.removeprefix("run-"), "wandb"), dict[str, Any]()
    try:
        for data in records(path.read_bytes()):
            record = record_type.FromString(data)
            if record.HasField("run"):
                run.name = record.run.display_name or run.name
                config |= _values(record.run.config.update)
            elif record.HasField("config"):
                config |= _values(record.config.update)
            elif record.HasField("history"):
                _take(run, _values(record.history.item), record.history.step.num)
    except OSError as error:
        raise TrackerError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError, broken) as error:
        if not run.metrics:
            raise TrackerError(f"{path}: cannot be read as a run of W&B ({error}).") from error
        run.notes.append(f"{path.name} is read up to a record that is broken or not whole ({error})")
    run.config = config
    return run


def _values(items: Any) -> dict[str, Any]:
    """By name, joined with dots where it is nested."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _take(run: Tracked, values: dict[str, Any], step: int) -> None:
    own = as_number(values.pop("_step", step))
    wall_time = as_number(values.get("_timestamp"))
    kept = {name: value for name, value in values.items() if not name.startswith("_")}  # those are W&B's own
    run.add(step if own is None else int(own), kept, wall_time)


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log: pieces with a checksum, in blocks, a record in one piece or several.

    Raises ValueError where it is none or broken; at the end of the file that is a record that was not written whole.
    """
    if not data.startswith(HEADER):
        raise ValueError(f"it begins with {data[:8]!r}, not with {HEADER!r}")
    place, parts = len(HEADER), list[bytes]()
    while place + FRAME.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < FRAME.size:  # too small for a piece: zeros
            place += left
            continue
        checksum, length, kind = FRAME.unpack_from(data, place)
        piece = data[place + FRAME.size : place + FRAME.size + length]
        if len(piece) < length or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"at byte {place:,}")
        place += FRAME.size + length
        parts.append(piece)
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts.clear()
        elif kind not in (FIRST, MIDDLE):
            raise ValueError(f"at byte {place:,}")
    if parts or any(data[place:]):
        raise ValueError(f"after byte {place:,} the rest is missing")
