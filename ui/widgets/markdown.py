"""Escaping for Streamlit's markdown: brackets, stars, underscores and links appear as typed."""

import re
from collections.abc import Iterable

from validation.text import sentence

ADDRESS = re.compile(r"(www(?=\.)|https?(?=:)|@(?=\w))", re.IGNORECASE)
UNSEEN = "\u2060"  # word joiner: as wide as nothing, and no line breaks at it


def escape_markdown(text: str) -> str:
    """Return our own text for `st.markdown` with every markup character escaped.

    Streamlit makes links of addresses even in escaped text; an unseen character in them prevents it.
    """
    broken = ADDRESS.sub(rf"\1{UNSEEN}", text)
    return re.sub(r"[^\w\s,.;%×·–—…≥≤∞\u2060-]|_", lambda match: f"&#{ord(match[0])};", broken)


def markdown_sentence(text: str) -> str:
    """Return the escaped text with a capital letter and a full stop."""
    return escape_markdown(sentence(text))


def markdown_table(rows: Iterable[Iterable[str]]) -> str:
    """Return a table of escaped cells, the first row its head; `st.table` loads code first, and the page would jump."""
    lines = ["| " + " | ".join(row).replace("\n", " ") + " |" for row in rows]
    columns = lines[0].count(" | ") + 1
    return "\n".join([lines[0], "| --- " * columns + "|", *lines[1:]])
