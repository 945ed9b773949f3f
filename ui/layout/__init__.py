"""The frame of every page: header, sidebar, run picker, cards."""
