"""Run files: write dynamics.db, list it, copy it, upgrade it."""
