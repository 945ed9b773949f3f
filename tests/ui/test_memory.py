"""Freed memory of a server: it is given back."""

import os

import pytest

from ui.memory import ARROW_POOL, limit_arenas, return_memory


@pytest.mark.parametrize(("before", "after"), [("", "system"), ("mimalloc", "mimalloc")])
def test_arrow_takes_its_memory_from_the_c_library_unless_the_operator_says_otherwise(monkeypatch, before, after):
    monkeypatch.setenv(ARROW_POOL, before)
    if not before:
        monkeypatch.delenv(ARROW_POOL)
    limit_arenas()
    assert os.environ[ARROW_POOL] == after
    return_memory()
