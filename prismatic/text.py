"""Untrusted text made printable."""

from __future__ import annotations

import unicodedata


def printable(value: object, most: int = 60) -> str:
    """Return untrusted text without control, direction or private characters, cut to `most` characters."""
    if isinstance(value, list | tuple):
        return ", ".join(printable(item) for item in value[:20]) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 2**64 else "a huge number"
    if isinstance(value, float):
        return f"{value:,g}"
    bad = ("C", "Zl", "Zp")
    text = "".join("\ufffd" if unicodedata.category(c).startswith(bad) else c for c in str(value)[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"
