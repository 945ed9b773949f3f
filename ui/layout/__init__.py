"""The frame that all pages share: title, login, sidebar, run picker and cards."""
