"""The child process that opens the files of a tracker, behind walls and under limits.

confined.py starts it as `python -I -S -B worker.py FOLDER...`, with the folders to import from. One line of JSON on
stdin says what to read; the reply is a line of JSON for each run, and a last line that says how it ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prismatic.trackers.tracked import TrackedRun

MEMORY_BYTES = 4 << 30


def main() -> None:
    """Answer one request."""
    sys.path += sys.argv[1:]
    from prismatic.errors import TrackerError
    from prismatic.sandbox import walls
    from prismatic.sandbox.limits import set_limits
    from prismatic.trackers.formats import READERS, read_tracked

    request = json.loads(sys.stdin.readline())
    reply, sys.stdout = sys.stdout, sys.stderr  # a library may print

    def send(message: dict[str, Any]) -> None:
        # A value of a config that JSON does not know is left out.
        reply.write(json.dumps(message, default=lambda value: None) + "\n")
        reply.flush()

    # A library that is missing is reported by the reader that needs it.
    for library in READERS[request["family"]].LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    set_limits({"AS": MEMORY_BYTES, "FSIZE": 0, "CORE": 0})
    walls.enforce(request["files"], request["folders"], threads=True)
    try:
        for run in read_tracked(Path(request["source"]), request["format"], request["only"]):
            send(as_json(run))
        send({"end": "read"})
    except TrackerError as error:
        send({"end": "refused", "problem": str(error)})
    except ImportError as error:
        send({"end": "library", "problem": str(error)})
    except MemoryError:
        send({"end": "refused", "problem": f"{request['source']}: reading it takes more than {MEMORY_BYTES:,} bytes."})
    except Exception as error:  # whatever a hostile file provokes in a library
        problem = f"{request['source']}: cannot be read ({type(error).__name__}: {str(error)[:200]})."
        send({"end": "refused", "problem": problem})


def as_json(run: TrackedRun) -> dict[str, Any]:
    """Return a run as JSON's types."""
    about = {name: getattr(run, name) for name in ("name", "tracker", "id", "group", "file", "planned_steps", "config")}
    metrics = {name: [list(values), list(values.values())] for name, values in run.metrics.items()}
    walls = [list(run.wall_times), list(run.wall_times.values())]
    return {**about, "notes": run.notes, "metrics": metrics, "wall_times": walls}


if __name__ == "__main__":
    main()
