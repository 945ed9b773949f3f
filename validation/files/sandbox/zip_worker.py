"""The child process that opens untrusted zip archives: the only code of this project that does.

`archives.py` starts it as `python -I -S -B unpacker.py` (standard library only) with one line of JSON on stdin. Like
reader.py it can write no file: what it unpacks goes to stdout, as messages of a JSON line each, some with bytes after:

    {"member": name, "beside": [...]}       a run file of the archive begins; beside: its -wal and -journal there
    {"member": name, "set": n, "part": p}   or a file of the n-th set in the archive, at its place p in the set
    {"bytes": count}                        and so many bytes of it follow
    {"done": null}                          it is whole; else the code and facts of why it is not
    {"end": null, "zips": n, ...}           the archive ends; else why it cannot be opened
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

CHUNK = 1 << 18
RUN_SUFFIXES = (".db", ".sqlite", ".sqlite3", ".db3")
BESIDE = ("-wal", "-journal")
CHECKPOINT = ("data.pkl", "constants.pkl")  # what torch.save() puts into its zip
SHOWN = 20
MARK = "prismatic-set.json"
# The files of a set, as sets.py writes them: nothing else of it is unpacked.
PART = re.compile(MARK.replace(".", "[.]") + r"|[a-z]{4,12}/perturbation_scale=[\w.+-]{1,24}/part-\d{5}[.]parquet")
SETS, PARTS = 8, 2000  # in one archive


class Reject(Exception):
    """The archive, or one of its members, cannot be unpacked: a stable code and the facts."""

    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code, self.details = code, details


def confine(limits: dict[str, Any], *, threads: bool = False) -> None:
    """Gives up for good what unpacking needs not, as reader.py does; an LZMA member may ask for gigabytes."""
    try:
        import resource
    except ImportError:  # Windows: the parent's timer and its own counts remain
        return
    seconds = int(limits["seconds"]) + 2
    most = {"AS": limits["memory_bytes"], "FSIZE": 0, "NOFILE": 64 if threads else 16, "CORE": 0, "CPU": seconds}
    most |= {} if threads else {"NPROC": 0}
    for name, value in most.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        except (AttributeError, ValueError, OSError):  # macOS: RLIMIT_AS cannot be lowered
            continue


def say(message: dict[str, Any], payload: bytes = b"") -> None:
    """Sends one message."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n" + payload)


def last_part(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].lower()


def is_run(entry: zipfile.ZipInfo) -> bool:
    """Whether a member is called like a run file. macOS adds small companions, `._NAME`, that are none."""
    name = last_part(entry.filename)
    return name.endswith(RUN_SUFFIXES) and not name.startswith("._") and not entry.is_dir()


def chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of one member; whatever zipfile raises for a bad one becomes a Reject."""
    if entry.flag_bits & 0x1:
        raise Reject("locked_member")
    try:
        with archive.open(entry) as member:
            while data := member.read(CHUNK):
                yield data
    except MemoryError:
        raise Reject("too_large", limit="memory_bytes") from None
    except NotImplementedError as error:  # a method of compression that Python does not know
        raise Reject("not_unpacked", problem=str(error)) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        raise Reject("damaged_member", problem=str(error) or type(error).__name__) from None
    except Exception as error:  # lzma and bz2 have errors of their own, and an attacker may find more
        raise Reject("damaged_member", problem=type(error).__name__) from None


def send(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: dict[str, Any], spent: int) -> int:
    """Sends one member, and answers how many bytes it took. That it is small is not believed, that it is large is."""
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
        say({"bytes": len(data)}, data)
    return size


def of_sets(entries: list[zipfile.ZipInfo]) -> Iterator[tuple[zipfile.ZipInfo, int, str]]:
    """The files of each set, with the set's number and their place in it."""
    names = [entry.filename for entry in entries]
    roots = [name.removesuffix(MARK) for name in names if name == MARK or name.endswith("/" + MARK)]
    for number, root in enumerate(roots[:SETS]):
        for entry in entries:
            part = entry.filename.removeprefix(root)
            if entry.filename.startswith(root) and PART.fullmatch(part):
                yield entry, number, part


def unpack(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Sends every run file of the archive; answers what else the archive holds."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        runs = [entry for entry in entries if is_run(entry)]
        parts = list(of_sets(entries))
        if not runs and not parts:
            checkpoint = any(last_part(name) in CHECKPOINT for name in names)
            raise Reject(
                "checkpoint" if checkpoint else "zip_without_runs", names=[name[:60] for name in names[:SHOWN]]
            )
        if len(runs) > limits["members"] or len(parts) > PARTS:
            raise Reject("too_large", limit="members")
        there, spent = {name.lower() for name in names}, 0
        asked: list[tuple[zipfile.ZipInfo, dict[str, Any]]] = [
            (entry, {"beside": [suffix for suffix in BESIDE if entry.filename.lower() + suffix in there]})
            for entry in runs
        ]
        for entry, about in asked + [(entry, {"set": number, "part": part}) for entry, number, part in parts]:
            say({"member": entry.filename[:1000], **about})
            try:
                spent += send(archive, entry, limits, spent)
                say({"done": None})
            except Reject as error:
                say({"done": [error.code, error.details]})
    return {"zips": sum(name.lower().endswith(".zip") for name in names)}


def main() -> None:
    """Answers one request."""
    request = json.loads(sys.stdin.buffer.readline())
    confine(request["limits"])
    try:
        say({"end": None, **unpack(request["path"], request["limits"])})
    except Reject as error:
        say({"end": [error.code, error.details]})
    except MemoryError:
        say({"end": ["too_large", {"limit": "memory_bytes"}]})
    except OSError as error:
        say({"end": ["system", {"problem": error.strerror or str(error)}]})
    except Exception as error:  # zipfile.BadZipFile, and what else a hostile directory may provoke
        say({"end": ["damaged_zip", {"problem": str(error)[:200] or type(error).__name__}]})
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
