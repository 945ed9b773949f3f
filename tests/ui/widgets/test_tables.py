"""Tables: facts as text, with times in UTC."""

import pytest

from ui.widgets.tables import fact_text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("started", 1795406153.87, "2026-11-23 03:55:53 UTC"),
        ("started", 1e300, "1e+300"),
        ("started", True, "true"),
        ("seed", 3, "3"),
        ("merge", "batch", "batch"),
    ],
)
def test_a_fact_is_shown_as_text_and_a_time_in_utc(key, value, text):
    assert fact_text(key, value) == text
