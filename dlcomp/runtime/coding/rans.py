"""Range asymmetric numeral systems: a stream within a fraction of a bit of its entropy.

Duda, "Asymmetric numeral systems", 2013; many states take turns on one stream of 16-bit words (Giesen,
"Interleaved entropy coders", 2014), so that NumPy works on all of them in one step. Where a symbol takes
less than a bit, as the zeros of sparse weights do, Huffman codes cannot follow.
"""

from __future__ import annotations

import numpy as np

from dlcomp.errors import ArtifactError
from dlcomp.runtime.coding.stream import pack, packed_size, unpack

# Frequencies are in units of 2**-14; rarer symbols get one unit.
PRECISION = 14
_TOTAL = 1 << PRECISION
_LOWEST = 1 << 16
# A state costs four bytes: 0.008 bits a symbol.
_SYMBOLS_PER_STATE = 4096


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Integers (K,) below 2**14 that sum to 2**14, at least 1 where ``counts`` (K,) is not zero.

    K is more than 1 and at most 2**13.
    """
    counts = np.asarray(counts, np.float64)
    total = counts.sum()
    if total == 0:
        counts = np.ones_like(counts)
        total = counts.sum()
    made: np.ndarray = np.maximum(np.rint(counts * (_TOTAL / total)), counts > 0).astype(np.int64)
    # What rounding gives too much or too little, the most frequent symbols bear.
    while excess := int(made.sum()) - _TOTAL:
        place = int(made.argmax())
        made[place] -= min(excess, int(made[place]) // 2) if excess > 0 else excess
    if made.max() == _TOTAL:
        # Stored are 14 bits, so that nothing is certain; a unit costs 0.0001 bits a symbol.
        place = int(made.argmax())
        made[place] -= 1
        made[place - 1] += 1
    return made


def table(freq: np.ndarray) -> bytes:
    """Frequencies (C, K) as stored: 14 bits each, the last of each row left out, as it is the rest."""
    stored = freq[:, :-1].reshape(-1)
    return pack(stored, np.full(len(stored), PRECISION))


def table_size(rows: int, symbols: int) -> int:
    """Bytes of :func:`table`."""
    return packed_size(rows * (symbols - 1), PRECISION)


def read_table(data: bytes, rows: int, symbols: int) -> np.ndarray:
    """Frequencies (rows, symbols) from :func:`table`."""
    stored = unpack(data, rows * (symbols - 1), PRECISION).reshape(rows, symbols - 1)
    rest = _TOTAL - stored.sum(axis=1)
    if (rest < 0).any():
        raise ArtifactError("frequencies of coded weights are damaged")
    return np.concatenate([stored, rest[:, None]], axis=1)


def encode(symbols: np.ndarray, freq: np.ndarray, contexts: np.ndarray | None = None) -> bytes:
    """``symbols`` (N,) by the frequencies ``freq`` (C, K) of each one's context, (N,) below C."""
    count = len(symbols)
    lanes = _lanes(count)
    start = np.cumsum(freq, axis=1) - freq
    context = np.zeros(count, np.int64) if contexts is None else contexts
    width, low = freq[context, symbols], start[context, symbols]
    state = np.full(lanes, _LOWEST, np.int64)
    words: list[np.ndarray] = []
    for step in range((count - 1) // lanes if count else -1, -1, -1):
        f, c = width[step * lanes : (step + 1) * lanes], low[step * lanes : (step + 1) * lanes]
        x = state[: len(f)]
        full = x >= f << (32 - PRECISION)
        words.append((x[full] & 0xFFFF).astype("<u2"))
        x[full] >>= 16
        quotient, rest = np.divmod(x, f)
        x[:] = (quotient << PRECISION) + rest + c
    return state.astype("<u4").tobytes() + b"".join(word.tobytes() for word in reversed(words))


def decode(data: bytes, count: int, freq: np.ndarray, contexts: np.ndarray | None = None) -> np.ndarray:
    """``count`` symbols, (count,) int64.

    Raises
    ------
    ArtifactError
        The data are not ``count`` symbols: words are left or missing, or a state is not back at its start.
    """
    lanes = _lanes(count)
    if len(data) < 4 * lanes or len(data) % 2:
        raise ArtifactError("entropy-coded weights end early")
    state = np.frombuffer(data, "<u4", lanes).astype(np.int64)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.int64)
    start = np.cumsum(freq, axis=1) - freq
    rows, alphabet = freq.shape
    # One table for all contexts: the symbol of every slot.
    symbol_at = np.repeat(np.tile(np.arange(alphabet), rows), freq.reshape(-1))
    flat_freq, flat_start = freq.reshape(-1), start.reshape(-1)
    found = np.empty(count, np.int64)
    place = 0
    for begin in range(0, count, lanes or 1):
        x = state[: min(lanes, count - begin)]
        slot = x & _TOTAL - 1
        if contexts is None:
            symbol = key = symbol_at[slot]
        else:
            context = contexts[begin : begin + lanes]
            symbol = symbol_at[(context << PRECISION) + slot]
            key = context * alphabet + symbol
        x[:] = flat_freq[key] * (x >> PRECISION) + slot - flat_start[key]
        empty = x < _LOWEST
        more = np.count_nonzero(empty)
        if more:
            if place + more > len(words):
                raise ArtifactError("entropy-coded weights end early")
            x[empty] = x[empty] << 16 | words[place : place + more]
            place += more
        found[begin : begin + lanes] = symbol
    if place != len(words) or (state != _LOWEST).any():
        raise ArtifactError("entropy-coded weights are damaged")
    return found


def _lanes(count: int) -> int:
    """States that take turns; of as many symbols the decoder knows the same number."""
    return -(-count // _SYMBOLS_PER_STATE)
