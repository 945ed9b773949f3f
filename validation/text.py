"""Words for people: untrusted text made printable, plurals, statuses without underscores, whole sentences."""

from __future__ import annotations

import unicodedata

FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


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


def escaped(text: str) -> str:
    """Return text with an escape in place of each character that cannot be printed, so that other texts stay others."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def pluralize(count: int, thing: str) -> str:
    """Return a number with its noun: 1 run, 2 runs."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def spaced(name: str) -> str:
    """Return a status or another name with spaces for underscores: not_dormant is "not dormant"."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """Return the text with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def spreadsheet_text(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: with an apostrophe before =, +, -, @, tab or return.

    Source: OWASP, CSV injection. Numbers are written as numbers, so a minus of theirs stays as it is.
    """
    return f"'{text}" if text.startswith(FORMULA_BEGINS) else text
