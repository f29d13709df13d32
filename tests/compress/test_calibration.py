"""Calibration data of any number in bounded memory, the file that keeps what was seen, and the bar."""

from __future__ import annotations

import gc
import io
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
from onnx import helper

import dlcomp
from dlcomp import cli
from dlcomp.compress import observe as module
from dlcomp.compress.progress import shown
from dlcomp.errors import UsageError

node, value, weight = helper.make_node, networks.value, networks.weight


def thin(size: int, channels: int = 3) -> onnx.ModelProto:
    """Three convolutions on pictures; each halves them."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], strides=[2, 2], name="one"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], strides=[2, 2], name="two"),
        node("GlobalAveragePool", ["c"], ["y"]),
    ]
    stored = [weight("w1", channels, 3, 3, 3), weight("w2", 4, channels, 3, 3)]
    return networks.model(nodes, [value("x", [1, 3, size, size])], [value("y", [1, 4, 1, 1])], stored)


def pictures(count: int, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.standard_normal((1, 3, size, size), dtype=np.float32)


def peak(count: int) -> int:
    """Bytes that calibration on ``count`` pictures of 224x224, made when asked for, holds at most."""
    model = dlcomp.load(thin(224))
    model.compress(dlcomp.Quantize(), calibration=lambda: pictures(1, 224))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    model.compress(dlcomp.Quantize(), calibration=lambda: pictures(count, 224))
    most = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_data() -> None:
    """60 pictures are 36 MB."""
    assert peak(60) < peak(5) + (4 << 20)


@pytest.mark.slow
def test_ten_thousand_pictures() -> None:
    """They are 6 GB; what is held stays below one."""
    assert peak(10_000) < 1 << 30


def test_a_function_is_called_for_each_pass_over_the_data() -> None:
    calls = []

    def made() -> Iterator[np.ndarray]:
        calls.append(1)
        return pictures(3, 16)

    model = dlcomp.load(thin(16))
    from_function = model.compress(dlcomp.Quantize(rounding="gptq"), calibration=made)
    from_list = model.compress(dlcomp.Quantize(rounding="gptq"), calibration=list(pictures(3, 16)))
    assert from_function.source == from_list.source
    assert len(calls) == 2


def test_samples_with_a_dimension_too_many() -> None:
    model = dlcomp.load(networks.cnn())
    with pytest.raises(UsageError, match="x has 5 and not 4"):
        model.compress(dlcomp.Quantize(), calibration={"x": np.zeros((5, 1, 3, 16, 16), "float32")})


def test_a_function_that_makes_nothing_to_iterate_over() -> None:
    with pytest.raises(UsageError, match="function returned int"):
        dlcomp.load(thin(16)).compress(dlcomp.Quantize(), calibration=lambda: 3)


def test_a_cache_makes_the_same_network_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = dlcomp.load(thin(16)), list(pictures(4, 16))
    cache = tmp_path / "seen.npz"
    first = model.compress(dlcomp.Quantize(), calibration=data, cache=cache)
    assert cache.stat().st_size < 100_000
    monkeypatch.setattr(module, "runs", lambda *_: pytest.fail("the network was run"))
    again = model.compress(dlcomp.Quantize(), calibration=data, cache=cache)
    assert again.source == first.source
    # Ranges are chosen from what is kept, so that another method needs no run either.
    model.compress(dlcomp.Quantize(method="entropy"), calibration=data, cache=cache)


@pytest.mark.parametrize(("change", "reason"), [
    ("data", "is of other data"), ("network", "is of another network"), ("layers", "is of another network"),
    ("file", "is no calibration cache"),
])  # fmt: skip
def test_a_cache_that_does_not_match(change: str, reason: str, tmp_path: Path) -> None:
    model, data = dlcomp.load(thin(16)), list(pictures(4, 16))
    cache = tmp_path / "seen.npz"
    dlcomp.load(thin(16)).compress(dlcomp.Quantize(), calibration=data, cache=cache)
    quantize = dlcomp.Quantize(keep=("one",) if change == "layers" else ())
    if change == "data":
        data[1] = data[1] + np.float32(1e-6)
    elif change == "network":
        proto = thin(16)
        proto.graph.initializer[0].CopyFrom(weight("w1", 3, 3, 3, 3))
        raw = np.frombuffer(proto.graph.initializer[0].raw_data, np.float32) * np.float32(2)
        proto.graph.initializer[0].raw_data = raw.tobytes()
        model = dlcomp.load(proto)
    elif change == "file":
        cache.write_bytes(b"nothing of the kind")
    else:
        model = dlcomp.load(thin(16))
    with pytest.raises(UsageError, match=reason) as caught:
        model.compress(quantize, calibration=data, cache=cache)
    assert "remove it" in str(caught.value.hint)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        dlcomp.load(thin(16)).compress(
            dlcomp.Quantize(), calibration=list(pictures(2, 16)), cache=tmp_path / "no" / "seen.npz"
        )


def test_the_option(tmp_path: Path) -> None:
    onnx.save(thin(16), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate(list(pictures(4, 16))))
    line = [
        "compress",
        str(tmp_path / "net.onnx"),
        "--pass",
        "quantize",
        "--calib",
        str(tmp_path / "data.npz"),
    ]
    line += ["--calib-cache", str(tmp_path / "seen.npz"), "-o"]
    for name in ("a", "b"):
        assert cli.main([*line, str(tmp_path / f"{name}.onnx")]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "seen.npz").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_the_bar_is_for_terminals(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    assert list(shown(range(5), "calibrating", 5)) == list(range(5))
    assert ("calibrating" in stream.getvalue()) == terminal
    assert ("5/5" in stream.getvalue()) == terminal
