"""The reader of Lightning's CSVLogger: `metrics.csv` with a row per call of the logger, `hparams.yaml` with the config.

Values in the YAML file that need a class of Python are left out: nothing of it is ever run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.readers import table
from prismatic.trackers.tracked import TrackedRun, name_of, read_text

LIBRARIES: tuple[str, ...] = ("yaml",)
METRICS, HPARAMS = "metrics.csv", "hparams.yaml"
MAX_HPARAMS_BYTES = 1 << 20


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the run of a metrics.csv or its folder, or those of all versions below a folder.

    Raises TrackerError for files of another format, and ImportError if PyYAML is not installed.
    """
    if not source.is_dir():
        return _runs(source, source.parent)
    return [run for path in sorted(source.rglob(METRICS)) for run in _runs(path, source)]


def _runs(path: Path, source: Path) -> list[TrackedRun]:
    runs = table.read(path)
    for run in runs:
        run.tracker, run.name, run.file = "lightning", name_of(path.parent, source), str(path)
        if (path.parent / HPARAMS).exists():
            run.config = _hparams(path.parent / HPARAMS)
        else:
            run.notes.append(f"there is no {HPARAMS} beside {METRICS}, so no option of the training is known")
    return runs


def _hparams(path: Path) -> dict[str, Any]:
    """Return the scalars of hparams.yaml in their mappings."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError('hparams.yaml needs PyYAML: pip install "prismatic-dynamics[trackers]"') from error

    class Plain(yaml.SafeLoader):
        """A loader that knows no class of Python, and no alias, by which a short file can stand for an endless one."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                self.get_event()  # type: ignore[no-untyped-call]
                return yaml.ScalarNode("tag:yaml.org,2002:null", "null")
            return super().compose_node(parent, index)

    Plain.add_multi_constructor("", lambda loader, suffix, node: None)
    try:
        found = yaml.load(read_text(path, MAX_HPARAMS_BYTES), Plain)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, TypeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise TrackerError(f"{path}: cannot be read as YAML ({problem}).") from error
    return found if isinstance(found, dict) else {}
