"""An artifact runs, saves, opens, checks itself and says exactly why it will not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rewrite
from small_programs import build, dense, x_of
from tvm import relax

import dlcomp
from dlcomp.codegen.program import Program
from dlcomp.errors import ArtifactError, UsageError
from dlcomp.model import Step, TensorSpec
from dlcomp.runtime import testvector
from dlcomp.runtime.artifact import Artifact


def reference(program: Program, x: np.ndarray) -> np.ndarray:
    weight, bias = program.weights
    return np.maximum(x @ weight + bias, 0)


def test_it_computes_what_numpy_computes(artifact: Artifact, program: Program) -> None:
    x = x_of(artifact)
    np.testing.assert_allclose(artifact.run({"x": x})["y"], reference(program, x), rtol=1e-4, atol=1e-4)


def test_saved_and_opened_it_is_the_same(artifact: Artifact, saved: Path) -> None:
    opened = dlcomp.open(saved)
    x = x_of(artifact)
    np.testing.assert_array_equal(opened.run({"x": x})["y"], artifact.run({"x": x})["y"])
    assert opened.signature == artifact.signature
    assert opened.target == artifact.target
    assert opened.kernels == artifact.kernels
    assert opened.manifest.options == {"level": 3}
    assert opened.check().ok


def test_history_survives_and_is_printed(program: Program, tmp_path: Path) -> None:
    steps = (Step("prune", {"ratio": np.float32(0.5)}, {"zeros": 7}),)
    path = Artifact.build(program, model_name="m", history=steps).save(tmp_path / "m.dlc")
    opened = dlcomp.open(path)
    assert opened.manifest.history == (Step("prune", {"ratio": 0.5}, {"zeros": 7}),)
    assert "prune" in str(opened)


def test_saving_twice_gives_equal_files(artifact: Artifact, saved: Path, tmp_path: Path) -> None:
    again = dlcomp.open(saved).save(tmp_path / "again.dlc")
    assert again.read_bytes() == saved.read_bytes()


def test_an_artifact_may_be_saved_over_the_file_it_was_opened_from(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.dlc"
    path.write_bytes(saved.read_bytes())
    opened = dlcomp.open(path)
    opened.save(path)
    assert opened.check().ok
    assert dlcomp.open(path).check().ok


def test_saving_where_one_cannot_is_a_usage_error(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        artifact.save(tmp_path / "no" / "such" / "m.dlc")


# -- inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [
        ({}, ["'x' is missing", "float32[4, 64]"]),
        ({"X": np.zeros((4, 64), np.float32)}, ["no input is named 'X'", "nearest: x", "'x' is missing"]),
        ({"x": np.zeros((4, 64))}, ["is float64, not float32", "astype('float32')"]),
        ({"x": np.zeros((4, 64), ">f4")}, ["is >f4, not float32"]),
        ({"x": np.zeros((4, 63), np.float32)}, ["(4, 63)", "(4, 64)"]),
        ({"x": np.zeros((4, 64, 1), np.float32)}, ["(4, 64, 1)"]),
        ({"x": [[1.0], [2.0, 3.0]]}, ["no array"]),
        ([1], ["mapping"]),
    ],
)
def test_wrong_inputs_are_refused_with_what_was_expected(
    artifact: Artifact, inputs: Any, texts: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        artifact.run(inputs)
    for text in texts:
        assert text in str(caught.value)


def unaligned(x: np.ndarray) -> np.ndarray:
    block = np.empty(x.nbytes + 65, np.uint8)
    view = block[-block.ctypes.data % 64 + 4 :][: x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def read_only(x: np.ndarray) -> np.ndarray:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, 1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
        unaligned,
        read_only,
    ],
)
def test_the_memory_form_of_an_input_does_not_matter(artifact: Artifact, program: Program, form: Any) -> None:
    x = x_of(artifact)
    np.testing.assert_allclose(artifact.run({"x": form(x)})["y"], reference(program, x), rtol=1e-4, atol=1e-4)


def test_an_input_is_not_changed_and_outputs_are_the_callers(artifact: Artifact) -> None:
    x = x_of(artifact)
    kept = x.copy()
    first = artifact.run({"x": x})["y"]
    expected = first.copy()
    artifact.run({"x": x * 3})
    np.testing.assert_array_equal(first, expected)
    first[:] = 0
    np.testing.assert_array_equal(artifact.run({"x": x})["y"], expected)
    np.testing.assert_array_equal(x, kept)


# -- forms of programs -------------------------------------------------------------------------------------


def test_a_program_without_weights(tmp_path: Path) -> None:
    spec = TensorSpec("x", (3,), "float32")
    program = build([spec], [replace(spec, name="y")], [], lambda b, x, w: [b.emit(relax.op.add(x[0], x[0]))])
    opened = dlcomp.open(Artifact.build(program).save(tmp_path / "m.dlc"))
    assert opened.run({"x": np.array([1, 2, 3], np.float32)})["y"].tolist() == [2, 4, 6]


def test_inputs_and_weights_that_are_passed_through_are_copied(tmp_path: Path) -> None:
    shape = (300, 300)
    weight = np.ones(shape, np.float32)
    spec = TensorSpec("x", shape, "float32")
    program = build(
        [spec], [replace(spec, name="same"), replace(spec, name="w")], [weight], lambda b, x, w: [x[0], w[0]]
    )
    opened = dlcomp.open(Artifact.build(program).save(tmp_path / "m.dlc"))
    x = np.zeros(shape, np.float32)
    outputs = opened.run({"x": x})
    outputs["same"][:] = 7
    outputs["w"][:] = 7
    assert x.max() == 0
    again = opened.run({"x": x})
    assert again["same"].max() == 0
    assert again["w"].min() == again["w"].max() == 1


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "float64"])
def test_every_dtype_as_input_weight_and_output(tmp_path: Path, dtype: str) -> None:
    weight = np.array([0, 1, 1, 0, 1], dtype)
    spec = TensorSpec("x", (5,), dtype)
    op = relax.op.logical_or if dtype == "bool" else relax.op.add
    program = build([spec], [replace(spec, name="y")], [weight], lambda b, x, w: [b.emit(op(x[0], w[0]))])
    opened = dlcomp.open(Artifact.build(program).save(tmp_path / "m.dlc"))
    x = np.array([1, 0, 1, 0, 1], dtype)
    found = opened.run({"x": x})["y"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, x | weight if dtype == "bool" else x + weight)
    assert opened.check().ok


def test_large_inputs_are_kept_as_a_seed_and_large_outputs_as_a_sample(tmp_path: Path) -> None:
    spec = TensorSpec("x", (600, 600), "float32")
    program = build([spec], [replace(spec, name="y")], [], lambda b, x, w: [b.emit(relax.op.add(x[0], x[0]))])
    path = Artifact.build(program).save(tmp_path / "m.dlc")
    opened = dlcomp.open(path)
    assert opened.manifest.check["generator"] == "random_inputs"
    assert path.stat().st_size < 200_000
    assert opened.check().ok


def test_check_sees_other_results(saved: Path, tmp_path: Path) -> None:
    def change(content: rewrite.Members, manifest: dict[str, Any]) -> None:
        weights = np.frombuffer(content["weights.bin"], np.float32) * np.float32(1.01)
        content["weights.bin"] = weights.tobytes()
        rewrite.rehash(content, manifest)

    found = dlcomp.open(rewrite.edited(saved, tmp_path / "m.dlc", change)).check()
    assert not found.ok
    assert "FAILED" in str(found)


def test_a_pickle_in_the_test_vector_is_refused() -> None:
    import io

    stream = io.BytesIO()
    np.savez(stream, output0=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="test vector"):
        testvector.load(stream.getvalue())


# -- process ----------------------------------------------------------------------------------------------

_LOAD = """
import json, sys, numpy, dlcomp
opened = dlcomp.open(sys.argv[1])
ok = opened.check().ok
address = opened.weights[0].ctypes.data
found, inside = {}, False
for line in open("/proc/self/smaps"):
    first = line.split()[0]
    if "-" in first:
        low, high = (int(part, 16) for part in first.split("-"))
        inside = low <= address < high
        if inside:
            found["file"] = line.split()[-1]
    elif inside:
        found[first.rstrip(":")] = int(line.split()[1]) if line.split()[1].isdigit() else 0
print(json.dumps({"ok": ok, "tvm": "tvm" in sys.modules, "map": found}), flush=True)
sys.stdin.read()
"""


def load_in_process(path: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _LOAD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_loading_needs_no_compiler_no_linker_and_no_path(saved: Path, tmp_path: Path) -> None:
    process = load_in_process(saved, PATH=str(tmp_path), HOME=str(tmp_path))
    out, _ = process.communicate("", timeout=60)
    found = json.loads(out)
    assert found["ok"]
    assert not found["tvm"], "running an artifact should not import TVM's compiler"


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_processes_share_the_pages_of_the_weights(tmp_path: Path) -> None:
    path = Artifact.build(dense(inner=512, columns=512)).save(tmp_path / "m.dlc")
    # One after the other: a page counts as shared only when the first process has touched it.
    processes, maps = [], []
    try:
        for _ in range(2):
            processes.append(load_in_process(path))
            maps.append(json.loads(processes[-1].stdout.readline())["map"])  # type: ignore[union-attr]
    finally:
        for process in processes:
            process.communicate("", timeout=60)
    for found in maps:
        assert found["file"] == str(path)
        assert found["Private_Dirty"] == 0
        assert found["Anonymous"] == 0
    assert maps[1]["Shared_Clean"] > 900


def test_threads_may_run_one_artifact_at_once(artifact: Artifact) -> None:
    xs = [x_of(artifact, seed) for seed in range(4)]
    expected = [artifact.run({"x": x})["y"] for x in xs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(artifact.run({"x": xs[number]})["y"], expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_printing_says_what_it_is(artifact: Artifact) -> None:
    for text in ("dense", "x: float32[4, 64]", "y: float32[4, 32]", "weights", artifact.target.cpu):
        assert text in str(artifact)
