"""SQL over runs: DuckDB databases of run files and sets, the project's questions, SQL by the user, export."""
