"""The child processes import nothing of the project; the constants that they repeat equal the originals."""

from __future__ import annotations

from prismatic.contract import schema
from validation.files import set_manifest, training_status
from validation.files.sandbox import received, sqlite_worker, zip_worker


def test_the_workers_constants_equal_those_of_the_project():
    assert sqlite_worker.SIDE_TABLES == schema.SIDE_TABLES
    assert set(schema.SIDE_TABLES) == set(schema.TABLES)
    assert sqlite_worker.APPLICATION_ID == schema.APPLICATION_ID
    assert tuple(f"{tier}_norm" for tier in schema.TIERS) == sqlite_worker.TIER_NORMS
    assert (sqlite_worker.SIDE_ROWS, sqlite_worker.TEXT_BYTES) == (received.SIDE_ROWS, received.TEXT_BYTES)
    assert zip_worker.MANIFEST == set_manifest.MANIFEST
    assert set(training_status.NO_ROWS) <= {"dynamics", *schema.SIDE_TABLES}
