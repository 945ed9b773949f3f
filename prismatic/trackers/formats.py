"""The formats that an import reads: which reader a file or folder needs, and the runs that it finds there."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from prismatic.errors import TrackerError
from prismatic.trackers.readers import huggingface, lightning, mlflow, neptune, table, tensorboard, trackio, wandb
from prismatic.trackers.readers.database import columns, opened
from prismatic.trackers.tracked import TrackedRun


class Reader(Protocol):
    """A module that reads one format."""

    LIBRARIES: tuple[str, ...]
    """The modules that it imports when it reads."""

    def read(self, source: Path, only: str | None = None) -> list[TrackedRun]:
        """Return the runs in a file or folder.

        A reader that finds a run by its name need not read the metrics of others than `only`. Raises TrackerError, and
        ImportError if the tracker's library is not installed.
        """
        ...


READERS: dict[str, Reader] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "trackio": trackio,
    "mlflow": mlflow,
    "huggingface": huggingface,
    "lightning": lightning,
    "neptune": neptune,
    "table": table,
}
FOLDERS = {  # by the names of the files in a folder; the first that is found decides
    "tensorboard": tensorboard.EVENTS,
    "wandb": "*.wandb",
    "huggingface": huggingface.STATE,
    "mlflow": mlflow.STORE,
    "lightning": lightning.METRICS,
    "neptune": neptune.PARTS,
    "trackio": "*.db",
}
DATABASES = (".db", ".sqlite", ".sqlite3")
FILE_STORE = "meta.yaml"  # of MLflow's folder mlruns/
KNOWN = (
    "a log folder of TensorBoard, W&B, trackio, the Trainer, Lightning or Neptune, an event file, a .wandb, a .db of "
    f"MLflow or trackio, {huggingface.STATE}, or a table: {', '.join(table.READERS)}"
)


def recognize(source: Path) -> str:
    """Return the format by the name of a file, or by the names of the files in a folder.

    `trackio` stands for any database, and `neptune` for any Parquet file: their content decides. Raises TrackerError.
    """
    if not source.exists():
        raise TrackerError(f"{source}: no such file or folder.")
    if source.is_dir():
        for name, pattern in FOLDERS.items():
            if next(source.rglob(pattern), None) is not None:
                return name
        if next(source.rglob(FILE_STORE), None) is not None:
            raise TrackerError(
                f"{source}: MLflow's folder of files is not read; make a database of it: "
                f"mlflow migrate-filestore --source {source} --target sqlite:///mlflow.db"
            )
        raise TrackerError(f"{source}: nothing in this folder is {KNOWN}.")
    if "tfevents" in source.name:
        return "tensorboard"
    if source.name == lightning.METRICS and (source.parent / lightning.HPARAMS).exists():
        return "lightning"
    suffixes = {".wandb": "wandb", ".json": "huggingface", **dict.fromkeys(DATABASES, "trackio")}
    suffixes |= {**dict.fromkeys(table.READERS, "table"), ".parquet": "neptune"}
    if source.suffix.lower() in suffixes:
        return suffixes[source.suffix.lower()]
    raise TrackerError(f"{source}: expected {KNOWN}. Name the format of other files with --format.")


def read_tracked(source: Path, tracker: str | None = None, only: str | None = None) -> list[TrackedRun]:
    """Return the runs in a tracker's files; of one that the user named, at least its metrics.

    Raises TrackerError, and ImportError if the tracker's library is not installed.
    """
    name = tracker or _by_content(recognize(source), source)
    return READERS[name].read(source, only)


def _by_content(name: str, source: Path) -> str:
    """Return the format of a file whose name leaves it open."""
    if source.is_dir():
        return name
    if name == "trackio":
        with opened(source, "a database of MLflow or trackio") as connection:
            return "mlflow" if columns(connection, "params") else name
    if name == "neptune":
        return name if neptune.is_export(table.parquet_columns(source)) else "table"
    return name
