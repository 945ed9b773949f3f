"""Escaping for Streamlit's markdown: brackets, stars, underscores and links appear as typed."""

import re
from collections.abc import Iterable

from validation.text import sentence


def escape_markdown(text: str) -> str:
    """Return our own text for `st.markdown` with every markup character escaped."""
    return re.sub(r"[^\w\s,.;%×·–—…≥≤∞-]|_", lambda match: f"&#{ord(match[0])};", text)


def markdown_sentence(text: str) -> str:
    """Return the escaped text with a capital letter and a full stop."""
    return escape_markdown(sentence(text))


def markdown_table(rows: Iterable[Iterable[str]]) -> str:
    """Return a table of escaped cells, the first row its head; `st.table` loads code first, and the page would jump."""
    lines = ["| " + " | ".join(row).replace("\n", " ") + " |" for row in rows]
    columns = lines[0].count(" | ") + 1
    return "\n".join([lines[0], "| --- " * columns + "|", *lines[1:]])
