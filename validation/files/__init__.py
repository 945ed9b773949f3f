"""Read untrusted run files, folders, archives and sets: paths in, RunFile objects and errors out."""
