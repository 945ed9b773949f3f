"""The hash that names a run of `prismatic train`: over its options and the content of its text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGITS = 9


def run_hash(options: Mapping[str, Any], corpus_sha256: str) -> str:
    """Return nine hex digits that identify an experiment: every option by name, and the text's content, not its path.

    options: plain JSON values, as the facts `config.NAME` of a run file hold them.
    """
    identity = {**options, "data": corpus_sha256}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:DIGITS]
