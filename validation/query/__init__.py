"""RunFiles as DuckDB relations, and questions about them in SQL."""
