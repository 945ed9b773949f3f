"""Pages of the app in Streamlit's test harness: open one with chosen files, and read its text."""

from html import unescape
from pathlib import Path

from streamlit.testing.v1 import AppTest

from ui.session.library import Library, Source

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HARMFUL = (
    "![x](http://example.invalid/x.png) <b>bold</b> :red[red] $x$ `code` www.example.invalid a@b.c _i_ :material/x: ->"
)


def opened(page="app.py", *sources):
    """Return the page after a session chose these files."""
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.session_state["library"] = Library([Source(Path(path), name) for path, name in sources])
    return at.run() if page == "app.py" else at.switch_page(page).run()


def texts(at):
    """Return the words on the page."""
    return " ".join(
        str(element.value)
        for kind in ("markdown", "caption", "error", "warning", "info", "title", "subheader", "success")
        for element in at.get(kind)
    )


def banner(at):
    """Return the words of the verdict's banner; empty on a page without one."""
    blocks = [block for block in (at.main, *_below(at.main)) if str(getattr(block.proto, "id", "")).endswith("-banner")]
    return unescape(" ".join(str(element.value) for block in blocks for element in block.children.values()))


def _below(block):
    """Yield the blocks in a block."""
    for child in getattr(block, "children", {}).values():
        if hasattr(child, "children"):
            yield child
            yield from _below(child)
