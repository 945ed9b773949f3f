"""Escaping for Streamlit's markdown: brackets, stars, underscores and links appear as typed."""

import re

from validation.text import sentence


def escape_markdown(text: str) -> str:
    """Return our own text for `st.markdown` with every markup character escaped."""
    return re.sub(r"[^\w\s,.;%×·–—…≥≤∞-]|_", lambda match: f"&#{ord(match[0])};", text)


def markdown_sentence(text: str) -> str:
    """Return the escaped text with a capital letter and a full stop."""
    return escape_markdown(sentence(text))
