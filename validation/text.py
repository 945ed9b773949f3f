"""Words for people: untrusted text made printable, plurals, statuses without underscores, whole sentences."""

from __future__ import annotations

from prismatic.text import printable as printable

FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


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
