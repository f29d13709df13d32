"""Artifacts for VTA: programs and machine code in one file, what damages them, and how the host rounds."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from vta_models import residual, samples, small, small_artifact

import dlcomp
from dlcomp.codegen.vta import compile_network
from dlcomp.codegen.vta.partition import partition
from dlcomp.errors import ArtifactError, UsageError
from dlcomp.runtime.vta import VtaSession


def test_artifacts(tmp_path: Path) -> None:
    model = small()
    compiled = compile_network(model, "pynq")
    small_artifact().save(tmp_path / "net.dlc")
    opened = dlcomp.open(tmp_path / "net.dlc")
    feed = {"x": samples(2, seed=6)}
    # The last of it is a softmax, of floats.
    np.testing.assert_allclose(opened.run(feed)["y"], compiled.run(feed)["y"], rtol=1e-6)
    assert opened.check().ok
    assert [kernel.name for kernel in opened.kernels] == [row.name for row in compiled.cycles()]
    with pytest.raises(UsageError, match="no kernels to time"):
        opened.profile(feed)


def test_a_damaged_header_is_refused() -> None:
    artifact = small_artifact()
    objects = [bytes(artifact._files[name]) for name in artifact.manifest.objects]
    header = json.loads(objects[0])
    changed = copy.deepcopy(header)
    changed["segments"][0]["host"]["weights"] = [0, 99]
    fewer = {**header, "segments": header["segments"][:-1]}
    for broken in (fewer, {**header, "views": 3}, changed, []):
        with pytest.raises(ArtifactError, match="malformed"):
            VtaSession([json.dumps(broken).encode(), *objects[1:]], artifact.weights, artifact.signature)
    with pytest.raises(ArtifactError, match="malformed: objects are missing"):
        VtaSession(objects[:-1], artifact.weights, artifact.signature)
    older = json.dumps({**header, "format": 1}).encode()
    with pytest.raises(ArtifactError, match="format 1, this is 2"):
        VtaSession([older, *objects[1:]], artifact.weights, artifact.signature)


def test_code_of_the_host_for_another_processor_is_refused() -> None:
    artifact = small_artifact()
    objects = [bytes(artifact._files[name]) for name in artifact.manifest.objects]
    header = json.loads(objects[0])
    header["segments"][0]["host"]["target"] = dlcomp.Target.parse("riscv64-linux-gnu").to_dict()
    with pytest.raises(ArtifactError, match="made for riscv64"):
        VtaSession([json.dumps(header).encode(), *objects[1:]], artifact.weights, artifact.signature)


def test_the_host_is_compiled_and_nothing_is_evaluated(tmp_path: Path) -> None:
    """The file holds no ONNX network; running it imports neither ONNX's evaluator nor TVM's compiler."""
    compiled, path, feed = (
        compile_network(small("HardSwish"), "pynq"),
        tmp_path / "net.dlc",
        samples(2, seed=8),
    )
    small("HardSwish").compile("vta:pynq").save(path)
    np.save(tmp_path / "x.npy", feed)
    script = (
        "import sys, numpy as np\nimport dlcomp\n"
        f"found = dlcomp.open({str(path)!r}).run({{'x': np.load({str(tmp_path / 'x.npy')!r})}})['y']\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, found)\n"
        "assert 'onnx.reference' not in sys.modules and 'tvm' not in sys.modules, 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    found = np.load(tmp_path / "y.npy")
    # Softmax is of floats; all before it are integers or exact.
    np.testing.assert_allclose(found, compiled.run({"x": feed})["y"], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), scale=st.integers(-20, 12), flavour=st.sampled_from(["normal", "ends"])
)
def test_the_compiled_host_quantizes_as_onnx_says(seed: int, scale: int, flavour: str) -> None:
    """Halves to even; what does not fit int8, infinities too, to its ends (which ONNX's evaluator wraps)."""
    rng = np.random.default_rng(seed)
    values = samples(2, seed=seed % 1000) * np.float32(2.0**scale)
    if flavour == "ends":
        ends = np.array([np.inf, -np.inf, 0.5, -0.5, 1.5, 127.5, -128.5, 3e38], np.float32)
        values.reshape(-1)[: 4 * ends.size] = rng.permutation(np.repeat(ends, 4))
    first = partition(small().source).segments[0]
    (node,) = first.network.graph.node
    stored = {t.name: numpy_helper.to_array(t) for t in first.network.graph.initializer}
    (found,) = small_artifact().session().network.hosts[0]({"x": values}).values()
    with np.errstate(over="ignore"):
        wanted = np.clip(np.rint(values / stored[node.input[1]]), -128, 127).astype(np.int8)
    np.testing.assert_array_equal(found, wanted)


def test_a_float_network_is_quantized_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dlcomp.cli import main

    onnx.save(residual(), tmp_path / "float.onnx")
    np.savez(tmp_path / "data.npz", x=samples(16))
    command = ["compile", str(tmp_path / "float.onnx"), "--target", "vta:pynq", "-o", str(tmp_path / "a.dlc")]
    assert main(command) == 3
    assert "compile --calib DATA" in capsys.readouterr().err
    assert main([*command, "--calib", str(tmp_path / "data.npz")]) == 0
    feed = {"x": samples(2, seed=11)}
    # The same as in two steps.
    found = dlcomp.open(tmp_path / "a.dlc").run(feed)["y"]
    np.testing.assert_array_equal(found, small_artifact().run(feed)["y"])
    assert main([*command, "--calib", str(tmp_path / "none.npz")]) == 2
