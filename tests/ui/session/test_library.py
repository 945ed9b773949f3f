"""The library of a session: its uploads go with it, and it is closed when its session is gone."""

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
