"""Child processes that open untrusted files (*_worker.py), and their parents' ends (*_client.py)."""
