"""The child process that opens untrusted zip archives: the only code of this project that does.

zip_client.py starts it as `python -I -S -B zip_worker.py FOLDERS` (the standard library, and prismatic/sandbox from
the first folder) with one line of JSON on stdin. Like sqlite_worker.py it cannot write files: it sends what it unpacks
to stdout, as messages of one JSON line each, some with bytes after it:

    {"member": name, "beside": [...]}       a run file of the archive begins; beside: its -wal and -journal there
    {"member": name, "set": n, "part": p}   or a file of the n-th set in the archive, at its path p in the set
    {"bytes": count}                        that many bytes of it follow
    {"done": null}                          it is complete; otherwise the code and facts of the error
    {"end": null, "zips": n}                the archive ends; otherwise the code and facts of why it cannot be opened
"""

from __future__ import annotations

import codecs
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

CHUNK = 1 << 18
RUN_SUFFIXES = (".db", ".sqlite", ".sqlite3", ".db3")
COMPANIONS = ("-wal", "-journal")
CHECKPOINT = ("data.pkl", "constants.pkl")  # torch.save() puts these into its zip
NAMES_SHOWN = 20
MANIFEST = "prismatic-set.json"
# The files of a set, as parquet_set.py writes them. Nothing else of a set is unpacked.
PART = re.compile(
    MANIFEST.replace(".", "[.]") + r"|[a-z]{4,12}/(perturbation_scale=[\w.+-]{1,24}/)?part-\d{5}[.]parquet"
)
SETS, PARTS = 8, 2000  # at most, in one archive


class Reject(Exception):
    """The archive, or one of its members, cannot be unpacked: a stable code and the facts."""

    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code, self.details = code, details


def send(message: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message, and the bytes that follow it, to stdout."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n" + payload)


def last_part(name: str) -> str:
    """Return a member's file name in lower case, without its folders."""
    return name.replace("\\", "/").rpartition("/")[2].lower()


def is_run(entry: zipfile.ZipInfo) -> bool:
    """Return whether a member has the name of a run file. macOS adds `._NAME` companions, which are not runs."""
    name = last_part(entry.filename)
    return name.endswith(RUN_SUFFIXES) and not name.startswith("._") and not entry.is_dir()


def chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the bytes of one member. Raises Reject for any error of zipfile and its decompressors."""
    if entry.flag_bits & 0x1:
        raise Reject("locked_member")
    try:
        with archive.open(entry) as member:
            while data := member.read(CHUNK):
                yield data
    except MemoryError:
        raise Reject("too_large", limit="memory_bytes") from None
    except NotImplementedError as error:  # a compression method that Python does not know
        raise Reject("not_unpacked", problem=str(error)) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        raise Reject("damaged_member", problem=str(error) or type(error).__name__) from None
    except Exception as error:  # lzma and bz2 have their own errors, and an attacker may find more
        raise Reject("damaged_member", problem=type(error).__name__) from None


def send_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: dict[str, Any], spent: int) -> int:
    """Send one member, and return its size in bytes.

    A declared size over the limit is enough to reject it; a small declared size is not trusted, and bytes are counted.
    """
    size = 0
    for limit, most in (("file_bytes", limits["file_bytes"]), ("unpacked_bytes", limits["unpacked_bytes"] - spent)):
        if entry.file_size > most:
            raise Reject("too_large", limit=limit)
    for data in chunks(archive, entry):
        size += len(data)
        if size > limits["file_bytes"]:
            raise Reject("too_large", limit="file_bytes")
        if spent + size > limits["unpacked_bytes"]:
            raise Reject("too_large", limit="unpacked_bytes")
        send({"bytes": len(data)}, data)
    return size


def set_files(entries: list[zipfile.ZipInfo]) -> Iterator[tuple[zipfile.ZipInfo, int, str]]:
    """Yield the files of each set, with the set's number and the file's path in the set."""
    names = [entry.filename for entry in entries]
    roots = [name.removesuffix(MANIFEST) for name in names if name == MANIFEST or name.endswith("/" + MANIFEST)]
    for number, root in enumerate(roots[:SETS]):
        for entry in entries:
            part = entry.filename.removeprefix(root)
            if entry.filename.startswith(root) and PART.fullmatch(part):
                yield entry, number, part


def unpack(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Send every run file and every file of a set, and return the number of zip archives inside."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        runs = [entry for entry in entries if is_run(entry)]
        parts = list(set_files(entries))
        if not runs and not parts:
            code = "checkpoint" if any(last_part(name) in CHECKPOINT for name in names) else "zip_without_runs"
            raise Reject(code, names=[name[:60] for name in names[:NAMES_SHOWN]])
        if len(runs) > limits["members"] or len(parts) > PARTS:
            raise Reject("too_large", limit="members")
        present, spent = {name.lower() for name in names}, 0
        members: list[tuple[zipfile.ZipInfo, dict[str, Any]]] = [
            (entry, {"beside": [suffix for suffix in COMPANIONS if entry.filename.lower() + suffix in present]})
            for entry in runs
        ]
        for entry, about in members + [(entry, {"set": number, "part": part}) for entry, number, part in parts]:
            send({"member": entry.filename[:1000], **about})
            try:
                spent += send_member(archive, entry, limits, spent)
                send({"done": None})
            except Reject as error:
                send({"done": [error.code, error.details]})
    return {"zips": sum(name.lower().endswith(".zip") for name in names)}


def answer(path: str, limits: dict[str, Any]) -> None:
    """Unpack an archive, and send the end of the reply, which names any error: a hostile file may raise anything."""
    try:
        send({"end": None, **unpack(path, limits)})
    except Reject as error:
        send({"end": [error.code, error.details]})
    except MemoryError:
        send({"end": ["too_large", {"limit": "memory_bytes"}]})
    except OSError as error:
        send({"end": ["system", {"problem": error.strerror or str(error)}]})
    except Exception as error:  # zipfile.BadZipFile, and whatever else a hostile directory provokes
        send({"end": ["damaged_zip", {"problem": str(error)[:200] or type(error).__name__}]})


def main() -> None:
    """Handle one request."""
    sys.path += sys.argv[1:2]
    from prismatic.sandbox import walls
    from prismatic.sandbox.limits import set_limits

    request = json.loads(sys.stdin.buffer.readline())
    codecs.lookup("cp437")  # for names in an archive: its module cannot be loaded later
    limits = request["limits"]
    # The memory cap matters here: an LZMA member may ask for gigabytes.
    most = {"AS": limits["memory_bytes"], "FSIZE": 0, "NOFILE": 16, "CORE": 0, "NPROC": 0}
    set_limits(most | {"CPU": int(limits["seconds"]) + 2})
    walls.enforce([request["path"]])
    answer(request["path"], limits)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
