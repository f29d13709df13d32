"""Coded weights: every array comes back bit by bit, codes are as short as they can be, damage is refused."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from rewrite import edited, members

import dlcomp
from dlcomp.codegen.program import Program
from dlcomp.errors import ArtifactError
from dlcomp.runtime import storage
from dlcomp.runtime.artifact import Artifact
from dlcomp.runtime.coding import decode, encode, fields, huffman, rans
from dlcomp.runtime.coding.account import account
from dlcomp.runtime.coding.places import fill
from dlcomp.runtime.coding.stream import Reader, Writer, pack, unpack
from dlcomp.runtime.coding.tensor import PLACES, VALUES

RNG = np.random.default_rng(0)
counts_of_symbols = st.lists(st.integers(0, 10**6), min_size=2, max_size=200).filter(any)


def sparse(shape: tuple[int, ...], share: float, values: int = 15) -> np.ndarray:
    """As pruning leaves weights: some columns empty, others of different density."""
    array = RNG.integers(1, values + 1, shape).astype("float32") / 16
    density = np.clip(share * 2 * RNG.random(shape[-1]), 0, 1) * (RNG.random(shape[-1]) < 0.7)
    return np.where(RNG.random(shape) < density, array, 0).astype("float32")


def shared(shape: tuple[int, ...], values: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(values).astype("float32")[RNG.integers(0, values, shape)])


def back(array: np.ndarray, ways: list[tuple[str, str]] | None = None) -> bytes:
    coded = encode(array, ways)
    found = decode(coded.data, array.dtype.name, array.shape)
    assert found.shape == array.shape
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()
    assert sum(coded.parts.values()) == len(coded.data)
    return coded.data


@given(
    npst.arrays(
        st.sampled_from(["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool"]),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_array_comes_back(array: np.ndarray) -> None:
    back(array)


@pytest.mark.parametrize("way", [(where, how) for where in PLACES for how in VALUES], ids=str)
@pytest.mark.parametrize("array", [
    sparse((30, 97), 0.1), sparse((5000,), 0.01), sparse((4, 3, 5, 7), 0.5), sparse((20, 600), 0.0005),
    np.array([0, 0, 0, 1], "float32"), np.array([1], "float32"), shared((70, 70), 40),
    np.where(RNG.random((40, 50)) < 0.1, RNG.standard_normal((40, 50)), 0).astype("float32")[:, :30],
], ids=lambda array: str(array.shape))  # fmt: skip
def test_every_way_to_write(array: np.ndarray, way: tuple[str, str]) -> None:
    if len(np.unique(array)) > 256 and way[1] != "plain":
        pytest.skip("too many values for a palette")
    back(array, [way])


@pytest.mark.parametrize("array", [
    np.zeros((3, 0), "float32"), np.zeros((100, 100), "float32"), np.full((9,), -0.0, "float32"),
    np.array([0.0, -0.0, np.nan, -np.nan, np.inf] * 50, "float32"), np.arange(300, dtype="float32"),
    np.arange(256, dtype="uint8"), np.float32(3.5).reshape(()),
], ids=lambda array: str(array.shape))  # fmt: skip
def test_edges(array: np.ndarray) -> None:
    back(array)


@given(counts_of_symbols)
@settings(deadline=None)
def test_huffman_codes_are_the_shortest(counts: list[int]) -> None:
    """As many bits as the tree of repeated merging, where its codes are not longer than 15 bits."""
    lengths = huffman.lengths_of(np.array(counts))
    used = [n for n in lengths if n]
    assert [bool(n) for n in lengths] == [bool(c) for c in counts]
    assert sum(2.0**-n for n in used) == (1.0 if len(used) > 1 else 0.5)
    heap = [(count, 0) for count in counts if count]
    heapq.heapify(heap)
    bits, depth = 0, 0
    while len(heap) > 1:
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        bits, depth = bits + a + b, max(left, right) + 1
        heapq.heappush(heap, (a + b, depth))
    total = int((lengths * np.array(counts)).sum())
    assert total >= bits
    if depth <= 15 and len(used) > 1:
        assert total == bits


def test_huffman_lengths_are_limited() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    lengths = huffman.lengths_of(np.array(fibonacci))
    assert lengths.max() == 15
    assert sum(2.0 ** -int(n) for n in lengths) == 1.0


@given(st.lists(st.integers(0, 30), max_size=300))
@settings(deadline=None)
def test_streams_come_back(symbols: list[int]) -> None:
    array = np.array(symbols, np.int64)
    counts = np.bincount(array, minlength=31)
    lengths = huffman.lengths_of(counts)
    coded = huffman.encode(array, lengths)
    assert huffman.decode(coded, len(array), huffman.table(lengths), 31).tolist() == symbols
    freq = rans.frequencies(counts)[None]
    assert (rans.read_table(rans.table(freq), 1, 31) == freq).all()
    assert rans.decode(rans.encode(array, freq), len(array), freq).tolist() == symbols


@given(counts_of_symbols)
def test_frequencies(counts: list[int]) -> None:
    made = rans.frequencies(np.array(counts))
    assert made.sum() == 1 << rans.PRECISION
    assert made.min() >= 0
    assert (made[np.array(counts) > 0] > 0).all()


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02, 0.001])
def test_rans_reaches_the_entropy(share: float) -> None:
    """Within one percent and the state, also where a symbol takes a hundredth of a bit."""
    bits = (RNG.random(200_000) < share).astype(np.int64)
    freq = rans.frequencies(np.bincount(bits, minlength=2))[None]
    p = bits.mean()
    entropy = -len(bits) * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    assert len(rans.encode(bits, freq)) < 1.01 * entropy + 4 * 50


def test_contexts_save_bits() -> None:
    contexts = RNG.integers(0, 2, 100_000)
    bits = (RNG.random(100_000) < np.where(contexts, 0.5, 0.01)).astype(np.int64)
    counts = np.bincount(contexts * 2 + bits, minlength=4).reshape(2, 2)
    freq = np.stack([rans.frequencies(row) for row in counts])
    coded = rans.encode(bits, freq, contexts)
    assert (rans.decode(coded, len(bits), freq, contexts) == bits).all()
    alone = rans.frequencies(counts.sum(axis=0))[None]
    assert len(coded) < 0.75 * len(rans.encode(bits, alone))


@given(st.lists(st.integers(0, 3000), unique=True, max_size=60), st.integers(2, 8))
def test_distances_with_fillers(places: list[int], width: int) -> None:
    """Counting on by each distance comes to every place, and to fillers where one is far."""
    gaps, real = fill(np.array(sorted(places), np.int64), width)
    assert all(0 <= gap < 2**width for gap in gaps)
    reached = np.cumsum(gaps + 1) - 1
    assert reached[real].tolist() == sorted(places)
    # A filler stands only where the distance is the longest there is.
    assert (gaps[~real] == 2**width - 1).all()


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=50))
def test_bits_in_order(codes: list[tuple[int, int]]) -> None:
    """The text of all bits, written one after the other."""
    kept = [(code % 2**width, width) for code, width in codes]
    text = "".join(format(code, f"0{width}b") for code, width in kept if width)
    packed = pack(*(np.array(part, np.int64) for part in (zip(*kept, strict=True) if kept else ([], []))))
    assert "".join(format(byte, "08b") for byte in packed)[: len(text)] == text
    assert len(packed) == math.ceil(len(text) / 8)


@given(st.integers(0, 16), st.data())
def test_bits_of_one_width(width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    packed = pack(np.array(values, np.int64), np.full(len(values), width))
    assert unpack(packed, len(values), width).tolist() == values


@given(st.lists(st.integers(0, 2**48)))
def test_numbers(values: list[int]) -> None:
    out = Writer()
    for value in values:
        out.number("n", value)
    reader = Reader(out.data)
    assert [reader.number() for _ in values] == values
    reader.end()


@pytest.mark.parametrize("array", [sparse((40, 60), 0.1), shared((30, 30), 16), np.zeros((9, 9), "float32")])
def test_damage_is_an_error_and_nothing_else(array: np.ndarray) -> None:
    """Bytes changed, cut off or added: an ArtifactError, or an array of the right shape."""
    ways = [(where, how) for where in PLACES for how in VALUES[1:]] if array.any() else [("all", "packed")]
    refused = 0
    for way in ways:
        whole = encode(array, [way]).data
        for _ in range(25):
            damaged = bytearray(whole)
            for _ in range(RNG.integers(1, 4)):
                damaged[RNG.integers(len(damaged))] = RNG.integers(256)
            cut = RNG.integers(-3, 4)
            damaged = damaged + bytes(cut) if cut > 0 else damaged[: len(damaged) + cut]
            try:
                assert decode(bytes(damaged), "float32", array.shape).shape == array.shape
            except ArtifactError:
                refused += 1
    assert refused > 8 * len(ways)


def test_a_few_bytes_that_claim_to_be_many() -> None:
    data = encode(np.zeros((10, 10), "float32")).data
    with pytest.raises(ArtifactError, match="claim to be 4000000000000"):
        decode(data, "float32", (10**6, 10**6))


@pytest.fixture
def coded(program: Program, tmp_path: Path) -> Path:
    """The small artifact with weights of three values."""
    weights = [np.sign(np.round(np.asarray(array))).astype(array.dtype) for array in program.weights]
    return Artifact.build(replace(program, weights=weights)).save(tmp_path / "coded.dlc", coded=True)


def test_an_artifact_with_coded_weights(coded: Path, tmp_path: Path) -> None:
    opened = dlcomp.open(coded)
    opened.save(tmp_path / "plain.dlc", coded=False)
    plain = dlcomp.open(tmp_path / "plain.dlc")
    inputs = {s.name: RNG.standard_normal(s.shape).astype(s.dtype) for s in opened.signature.inputs}
    for name, right in plain.run(inputs).items():
        assert dlcomp.open(coded).run(inputs)[name].tobytes() == right.tobytes()
    assert storage.CODED not in members(tmp_path / "plain.dlc")
    sizes = {name: len(data) for name, data in members(coded).items()}
    weights = dlcomp.open(coded).manifest.weights
    assert 0 < sizes[storage.CODED] == sum(weight.coded for weight in weights)
    # From a file without coded weights come the same coded ones.
    plain.save(tmp_path / "again.dlc", coded=True)
    assert members(tmp_path / "again.dlc")[storage.CODED] == members(coded)[storage.CODED]


def test_every_byte_has_a_purpose(coded: Path, saved: Path) -> None:
    found = account(coded)
    assert sum(found.parts.values()) == found.file == coded.stat().st_size
    assert {name: len(data) for name, data in members(coded).items()} == found.members
    parts = {part: size for part, size in found.parts.items() if part.startswith("coded ")}
    assert sum(parts.values()) == len(members(coded)[storage.CODED])
    # Three values of a float32 in the palette of the matrix, as many or fewer in that of the bias.
    assert 12 < parts["coded palette"] <= 24
    assert found.weight_bytes == sum(parts.values()) + found.parts.get("plain weights", 0)
    plain = account(saved)
    assert sum(plain.parts.values()) == saved.stat().st_size
    assert plain.weights == ()


def test_files_without_coded_weights_are_as_before(artifact: Artifact, tmp_path: Path) -> None:
    artifact.save(tmp_path / "a.dlc")
    opened = dlcomp.open(tmp_path / "a.dlc")
    assert opened.manifest.to_json()["schema"] == 1
    assert all("coded" not in weight for weight in opened.manifest.to_json()["weights"])


@pytest.mark.parametrize(("change", "reason"), [
    (lambda c, m: c.update({"weights.coded": bytes(len(c["weights.coded"]))}), "not what was saved"),
    (lambda c, m: c.pop("weights.coded"), "'weights.coded' is missing"),
    (lambda c, m: m["weights"][0].update(coded=10**6), "does not lie within weights.coded"),
    (lambda c, m: m["weights"][0].update(coded=9), "weight 'weight0'.*early"),
    (lambda c, m: m["weights"][0].update(coded=-1), "-1 is not a size"),
    (lambda c, m: m.update(schema=3), "schema version 3 is newer than 2"),
])  # fmt: skip
def test_damaged_files_are_refused(coded: Path, tmp_path: Path, change: object, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        dlcomp.open(edited(coded, tmp_path / "damaged.dlc", change))  # type: ignore[arg-type]


@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 6), st.integers(1, 40), st.integers(0, 1 << 30))
@settings(deadline=None)
def test_words_of_numbers_come_back(bits: int, blocks: int, depth: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2**bits, fields.shape_of((blocks, depth, width), bits)).astype(np.uint8)
    words = fields.words(found, bits, (blocks, depth, width))
    np.testing.assert_array_equal(fields.numbers(words, bits), found)
    coded = encode(words)
    assert sum(coded.parts.values()) == len(coded.data)
    np.testing.assert_array_equal(decode(coded.data, "int32", words.shape), words)


def test_words_take_what_their_numbers_do() -> None:
    """Mostly zeros: far less than the words, whose patterns are all different."""
    rng = np.random.default_rng(0)
    found = (rng.integers(0, 32, (4, 600, 64)) * (rng.random((4, 600, 64)) < 0.2)).astype(np.uint8)
    words = fields.words(found, 5, (4, 100, 64))
    assert len(encode(words).data) <= len(encode(found).data) + 2
    assert len(encode(words).data) < 0.4 * words.nbytes


def test_damaged_words_are_refused() -> None:
    rng = np.random.default_rng(0)
    rare = np.where(rng.random((2, 60, 64)) < 0.1, rng.integers(0, 32, (2, 60, 64)), 31)
    words = fields.words(rare.astype(np.uint8), 5, (2, 10, 64))
    data = encode(words).data
    assert data[:2] == bytes([254, 5])
    for bits in (0, 1, 9, 255):
        with pytest.raises(ArtifactError, match=f"numbers of {bits} bits"):
            decode(data[:1] + bytes([bits]) + data[2:], "int32", words.shape)
    with pytest.raises(ArtifactError, match="words of numbers themselves"):
        decode(data[:2] + data, "int32", words.shape)
    # Numbers of 5 bits where 4 are announced, as many of them as there would be.
    inner = encode(np.full((2, 80, 64), 17, np.uint8)).data
    with pytest.raises(ArtifactError, match="more than 4 bits"):
        decode(bytes([254, 4]) + inner, "int32", words.shape)
