"""The folder that an agent may read: every path that it names, links included, must lie inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prismatic.errors import PrismaticError
from validation.text import printable

MOST_ENTRIES = 200_000  # of a folder that is searched for links that lead outside
MOST_NAMES = 1_000


class RefusedPathError(PrismaticError, ValueError):
    """A path that an agent may not read, or that is none."""


class Root:
    """A folder, and the paths inside it."""

    def __init__(self, folder: Path) -> None:
        """Raises RefusedPathError if there is no such folder."""
        self.folder = Path(os.path.realpath(folder))
        if not self.folder.is_dir():
            raise RefusedPathError(f"--root {printable(folder, 300)}: expected a folder, found none there.")

    def sources(self, names: Sequence[str]) -> list[Path]:
        """Return the files and folders of these names. Raises RefusedPathError."""
        if not 0 < len(names) <= MOST_NAMES:
            raise RefusedPathError(f"runs: expected 1 to {MOST_NAMES:,} paths, found {len(names):,}; name folders.")
        return [self._source(name) for name in names]

    def _source(self, name: str) -> Path:
        try:
            path = self._inside(self.folder / name, name)
            path.stat()
        except RefusedPathError:
            raise
        except FileNotFoundError:
            raise RefusedPathError(f"{_shown(name)}: found nothing there; name a path in {self.folder}.") from None
        except (OSError, ValueError) as error:  # too long, with a null character, or closed to this user
            reason = getattr(error, "strerror", None) or str(error)
            raise RefusedPathError(f"{_shown(name)}: this path cannot be used ({reason}); name another.") from None
        if path.is_dir():
            self._require_links_inside(path, name)
        return path

    def _inside(self, path: Path, name: str) -> Path:
        """Return the real path. Raises RefusedPathError for one outside, and OSError or ValueError for none."""
        found = Path(os.path.realpath(path))
        if not found.is_relative_to(self.folder):
            raise RefusedPathError(
                f"{_shown(name)}: this lies outside of {self.folder}, the folder that the server was started with."
            )
        return found

    def _require_links_inside(self, folder: Path, name: str) -> None:
        """Raise RefusedPathError if a link in a folder leads outside: whoever reads the folder would follow it."""
        entries = 0
        for place, folders, files in os.walk(folder):
            entries += len(folders) + len(files)
            if entries > MOST_ENTRIES:
                raise RefusedPathError(f"{_shown(name)}: more than {MOST_ENTRIES:,} entries; name a smaller folder.")
            for entry in (*folders, *files):
                if os.path.islink(os.path.join(place, entry)):
                    self._inside(Path(place, entry), os.path.join(name, entry))


def _shown(name: str) -> str:
    return printable(name, 300)
