"""The lists of tables in the contract name the tables that the contract defines, and the SQLite worker's copy too."""

from prismatic.contract.schema import DETAIL_TABLES, SIDE_TABLES, STEP_TABLES, TABLES
from validation.files.sandbox import sqlite_worker


def test_the_lists_of_tables_hold_every_table():
    assert sorted(SIDE_TABLES) == sorted(TABLES)
    assert {*STEP_TABLES} <= {"dynamics", *TABLES}
    assert {*SIDE_TABLES} - {*DETAIL_TABLES} == {"run", "scalars"}


def test_the_workers_own_copy_is_the_contracts_list():
    assert sqlite_worker.SIDE_TABLES == SIDE_TABLES  # a copy, as the worker may import the standard library only
