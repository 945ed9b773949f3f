"""The content of the pages, a module each."""
