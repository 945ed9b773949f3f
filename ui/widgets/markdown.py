"""Escaping for Streamlit's markdown: brackets, stars, underscores and links appear as typed."""

import re


def escape_markdown(text: str) -> str:
    """Return our own text for `st.markdown` with every markup character escaped."""
    return re.sub(r"[^\w\s,.;%×·–—…≥≤∞-]|_", lambda match: f"&#{ord(match[0])};", text)


def markdown_sentence(text: str) -> str:
    """Return the escaped text with a capital letter and a full stop."""
    return escape_markdown(text[:1].upper() + text[1:]) + "."
