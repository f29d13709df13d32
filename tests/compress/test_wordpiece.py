"""Text as tokens, by the vocabulary of a few pieces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import wordpiece

PIECES = "[PAD] [UNK] [CLS] [SEP] un ##aff ##able affable , naive ##s the".split()
KNOWN = {piece: number for number, piece in enumerate(PIECES)}


@pytest.mark.parametrize(("text", "found"), [
    ("Unaffable,", ["un", "##aff", "##able", ","]),
    ("affable", ["affable"]),
    ("na\u00efves", ["naive", "##s"]),
    ("the xyz", ["the", "[UNK]"]),
    ("unxyz", ["[UNK]"]),
    ("un" * 51, ["[UNK]"]),
    ("  ", []),
])  # fmt: skip
def test_longest_pieces_first(text: str, found: list[str]) -> None:
    assert wordpiece.pieces(text, KNOWN) == found


def test_cut_off_and_padded() -> None:
    short, long = (wordpiece.feed("the " * count, KNOWN, 6) for count in (2, 9))
    assert short["input_ids"].tolist() == [[2, 11, 11, 3, 0, 0]]
    assert short["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert long["input_ids"].tolist() == [[2, 11, 11, 11, 11, 3]]
