"""Judge run files: read untrusted files, estimate with confidence intervals, decide with reasons. Needs no torch.

Public names are loaded when they are first used, so that `import validation` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from validation.files.sources import read_sources as read_sources
    from validation.judgement.judge import judge as judge
    from validation.query.database import connect as connect
    from validation.report.html_report import as_html as as_html
    from validation.report.json_report import as_json as as_json

_MODULES = {
    "as_html": "validation.report.html_report",
    "as_json": "validation.report.json_report",
    "connect": "validation.query.database",
    "judge": "validation.judgement.judge",
    "read_sources": "validation.files.sources",
}
__all__ = ["as_html", "as_json", "connect", "judge", "read_sources"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'validation' has no attribute {name!r}; it has {', '.join(sorted(_MODULES))}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
