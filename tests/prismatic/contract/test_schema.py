"""The lists of tables in the contract name tables that the contract defines, and each step table has a step."""

from prismatic.contract.schema import SIDE_TABLES, STEP_TABLES, TABLES, dynamics_columns


def test_the_side_tables_are_all_tables_but_dynamics():
    assert sorted(SIDE_TABLES) == sorted(TABLES)


def test_every_step_table_has_the_column_step_as_part_of_its_key():
    assert "step" in [column.name for column in dynamics_columns(1)]
    assert {name for name, (_, key) in TABLES.items() if "step" in key} == {*STEP_TABLES} - {"dynamics"}
