"""The training text, as bytes: where it comes from, the held-out part, and random batches."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from prismatic.errors import CorpusError
from prismatic.layer.perturbation import noise_seed

HELD_OUT = 0.1


class Corpus:
    """A text as bytes: the last tenth is held out, the rest is for training. `sha256` identifies the text."""

    def __init__(self, text: bytes, *, name: str):
        self.name = name
        self.sha256 = hashlib.sha256(text).hexdigest()
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        cut = int(len(text) * (1 - HELD_OUT))
        self.splits = {"train": data[:cut], "held_out": data[cut:]}

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read a text file; without a path, the English text of Python's own documentation.

        Raises CorpusError for a file that cannot be read.
        """
        if path is None:
            # Part of every Python, so that training on real English needs no download.
            from pydoc_data.topics import topics

            return cls("\n\n".join(topics[key] for key in sorted(topics)).encode(), name="pydoc_data.topics")
        try:
            return cls(Path(path).read_bytes(), name=Path(path).name)
        except OSError as error:
            raise CorpusError(f"data: {path} cannot be read ({error.strerror}); give a text file.") from error

    def require(self, length: int) -> None:
        """Raise CorpusError if the training or the held-out part has fewer than `length` bytes."""
        for split, data in self.splits.items():
            if len(data) < length:
                raise CorpusError(
                    f"data: {self.name} has {len(data)} bytes in its {split} part, one sequence needs {length}; "
                    "use a longer text or a smaller sequence_length."
                )

    def batch(self, step: int, *, batch_size: int, length: int, seed: int, split: str = "train") -> Tensor:
        """Return random windows, int64 [batch_size, length], a function of the arguments only, as a resumed run needs.

        Raises CorpusError for a text that `require(length)` refuses.
        """
        self.require(length)
        data = self.splits[split]
        generator = torch.Generator().manual_seed(noise_seed(seed, split, step))
        starts = torch.randint(len(data) - length + 1, (batch_size, 1), generator=generator)
        return data[starts + torch.arange(length)].long()
