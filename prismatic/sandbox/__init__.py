"""The walls around processes that open untrusted files, and the reader of run files that the training side uses."""
