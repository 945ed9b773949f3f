"""The training text: its source, the held-out part and the batches."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.errors import CorpusError
from prismatic.train.corpus import Corpus

COUNTING = Corpus(bytes(range(250)), name="counting")


def test_without_a_file_it_is_a_long_english_text():
    corpus = Corpus.load()
    text = bytes(corpus.splits["train"].tolist()).decode()
    assert text.count(" the ") > 1000
    assert corpus.name == "pydoc_data.topics"


def test_a_file_is_read_as_its_bytes(tmp_path: Path):
    (tmp_path / "text.txt").write_bytes(bytes(range(256)) * 2)
    corpus = Corpus.load(tmp_path / "text.txt")
    assert torch.cat([*corpus.splits.values()]).tolist() == [*range(256)] * 2
    assert (corpus.name, corpus.sha256) == ("text.txt", hashlib.sha256(bytes(range(256)) * 2).hexdigest())


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.binary(max_size=200))
def test_the_last_tenth_is_held_out_and_nothing_is_lost(text: bytes):
    train, held_out = Corpus(text, name="any").splits.values()
    assert bytes(train.tolist() + held_out.tolist()) == text
    assert len(text) / 10 <= len(held_out) < len(text) / 10 + 1 or not text


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.integers(0, 10**9), st.integers(0, 2**62), st.integers(1, 25), st.sampled_from(["train", "held_out"]))
def test_every_sequence_is_a_window_of_its_split(step: int, seed: int, length: int, split: str):
    batch = COUNTING.batch(step, batch_size=4, length=length, seed=seed, split=split)
    assert (batch.shape, batch.dtype) == ((4, length), torch.int64)
    assert bool((batch.diff(dim=1) == 1).all())
    first, last = COUNTING.splits[split][[0, -1]].tolist()
    assert batch.min() >= first
    assert batch.max() <= last


def test_a_batch_depends_on_its_step_seed_and_split_and_nothing_else():
    torch.manual_seed(0)
    first = COUNTING.batch(5, batch_size=64, length=4, seed=1)
    torch.manual_seed(1)
    assert torch.equal(first, COUNTING.batch(5, batch_size=64, length=4, seed=1))
    assert not torch.equal(first, COUNTING.batch(6, batch_size=64, length=4, seed=1))
    assert not torch.equal(first, COUNTING.batch(5, batch_size=64, length=4, seed=2))


def test_the_two_splits_are_not_drawn_at_the_same_positions():
    half = Corpus(bytes(100), name="zeros")
    half.splits = dict.fromkeys(half.splits, torch.arange(100, dtype=torch.uint8))
    batches = [half.batch(0, batch_size=64, length=4, seed=1, split=split) for split in half.splits]
    assert not torch.equal(*batches)


def test_every_window_can_be_drawn():
    starts = COUNTING.batch(0, batch_size=2000, length=20, seed=0, split="held_out")[:, 0]
    assert sorted(set(starts.tolist())) == [*range(225, 231)]


def test_the_error_for_a_text_too_short_for_one_sequence_names_the_length_it_needs():
    with pytest.raises(CorpusError, match="counting has 25 bytes in its held_out part, one sequence needs 26"):
        COUNTING.batch(0, batch_size=1, length=26, seed=0, split="held_out")
