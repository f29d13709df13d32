"""Text as the tokens of BERT: lower-case words and marks, cut into the longest pieces of a vocabulary.

Wu et al., "Google's neural machine translation system" (2016), section 4.1, as Devlin et al. (2018) use it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_LONGEST = 100


def vocabulary(path: Path) -> dict[str, int]:
    """Each piece's number; those that continue a word begin with ``##``."""
    return {piece: number for number, piece in enumerate(path.read_text("utf-8").splitlines())}


def pieces(text: str, known: Mapping[str, int]) -> list[str]:
    """The pieces of ``text``; ``[UNK]`` for a word that cannot be cut into known ones."""
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    return [piece for word in re.findall(r"\w+|[^\w\s]", plain) for piece in _cut(word, known)]


def _cut(word: str, known: Mapping[str, int]) -> list[str]:
    found: list[str] = []
    start = 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if mark + word[start:end] in known), None)
        if end is None or len(word) > _LONGEST:
            return ["[UNK]"]
        found.append(mark + word[start:end])
        start = end
    return found


def feed(text: str, known: Mapping[str, int], length: int) -> dict[str, np.ndarray]:
    """``input_ids`` and ``attention_mask``, (1, length) int64, cut off or padded to that."""
    inner: Sequence[str] = pieces(text, known)[: length - 2]
    ids = np.zeros((1, length), np.int64)
    used = [known[piece] for piece in ("[CLS]", *inner, "[SEP]")]
    ids[0, : len(used)] = used
    return {"input_ids": ids, "attention_mask": (np.arange(length) < len(used)).astype(np.int64)[None]}
