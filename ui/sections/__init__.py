"""The content of the pages, one module per page."""
