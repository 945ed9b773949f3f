"""The library of a session: its uploads go with it, and it is closed when its session is gone."""

import gc
import os
import subprocess
import sys
from pathlib import Path

from tests.support.app_pages import EXAMPLES
from ui.session import library
from ui.session.library import Library


def test_uploads_go_with_the_library_that_held_them():
    chosen = Library()
    place = chosen.folder()
    (place / "x.db").write_bytes(b"x")
    chosen.close()
    assert not place.exists()
    other = Library().folder()
    assert not Path(other).exists()  # the library was not referenced any more


def test_a_session_that_has_been_gone_for_long_is_closed_and_no_other(monkeypatch):
    gone, here = (library.Library([library.Source(EXAMPLES / "as-is.db", "as-is")]) for _ in range(2))
    monkeypatch.setattr(library, "_OPEN", {"gone": gone, "here": here})
    library.close_disconnected(lambda session: session == "here", 1e9)
    assert gone.sources
    library.close_disconnected(lambda session: session == "here", 0)
    assert not gone.sources
    assert here.sources


def test_a_disk_that_is_full_leaves_no_half_of_an_upload(tmp_path: Path):
    """The limit on the size of files stands for the disk."""
    script = """
import resource, io
import ui.session.library as library
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
class Upload(io.BytesIO):
    name = "x.db"
try:
    library.spool(Upload(b"x" * 5000))
    print("stored")
except OSError as error:
    print(error.strerror)
print([*library.library().folder().iterdir()])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(library.spool(Upload(b"x" * 5000)).path.stat().st_size)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.splitlines() == ["File too large", "[]", "5000"], done.stderr


def test_memory_is_returned_once_for_a_session_that_streamlit_forgets(monkeypatch):
    returned = []
    monkeypatch.setattr(library, "return_memory", lambda: returned.append("memory"))
    monkeypatch.setattr(library.st, "session_state", State())
    library._FORGOTTEN.clear()
    library.library()
    library.close_disconnected(lambda _: True, 0)
    assert not returned
    library.st.session_state.clear()
    gc.collect()
    library.close_disconnected(lambda _: True, 0)
    library.close_disconnected(lambda _: True, 0)
    assert returned == ["memory"]


class State(dict):
    """A session's state: Streamlit's own is there only while a page runs."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__
