"""A module for each format: a file or folder in, runs out. database.py opens an untrusted SQLite file."""
