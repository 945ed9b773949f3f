"""Sentences of our own for Streamlit's markdown, in which every character is what it is."""

import re


def escape_markdown(text: str) -> str:
    """A sentence of our own for st.markdown, in which brackets, stars and underscores are what they are."""
    return re.sub(r"[^\w\s,.;%×·–—…≥≤∞-]|_", lambda match: f"&#{ord(match[0])};", text)


def markdown_sentence(text: str) -> str:
    """The same as a sentence with its capital and its full stop."""
    return escape_markdown(text[:1].upper() + text[1:]) + "."
