"""The tables of a run file once they are read: other programs' columns, checksums, packed arrays, tidy rows."""
