"""The command line: exit codes, messages, JSON; nothing but its own errors ever reaches the user."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlcomp
from dlcomp import cli, detect
from dlcomp.cli import options
from dlcomp.errors import UsageError

COMMANDS = ("inspect", "compile", "tune", "run", "bench", "profile", "verify", "targets", "doctor")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """relu(x w + b) with a symbolic batch."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((7, 5), dtype=np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal(5, dtype=np.float32), "b"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["g"]), helper.make_node("Relu", ["g"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    path = tmp_path_factory.mktemp("cli") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    path = model.with_suffix(".dlc")
    assert cli.main(["compile", str(model), "--shape", "x:3,7", "-o", str(path)]) == 0
    return path


def test_help_imports_nothing_heavy_and_is_fast() -> None:
    code = (
        "import sys; from dlcomp.cli import main; main(['--help']); "
        "heavy = {'tvm', 'tvm_ffi', 'onnx', 'numpy', 'onnxruntime'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    # Processor time, so that a busy machine does not fail it.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_version_lists_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("dlcomp ", "apache-tvm ", "apache-tvm-ffi ", "numpy ", "onnx "))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["targets", "--nope"],
        ["targets", "raspbery-pi"],
        ["compile"],
        ["compile", "no-such-file.onnx"],
        ["inspect", "no-such-file.onnx"],
        ["run", "no-such-file.dlc"],
    ],
)
def test_wrong_usage_is_exit_2_and_says_what(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert "Usage:" in shown.err or "hint: " in shown.err or "no-such-file" in shown.err


def test_unknown_target_is_refused_before_the_model_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compile", "no-such-file.onnx", "--target", "raspbery-pi-4"]) == 2
    assert "raspberry-pi-4" in capsys.readouterr().err


def test_text_named_onnx_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").write_text("not a network")
    assert cli.main(["inspect", str(tmp_path / "a.onnx")]) == 3
    assert "error: " in capsys.readouterr().err


def test_internal_error_is_one_line_unless_vv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("first\nlast line")

    monkeypatch.setattr("dlcomp.doctor.run_checks", broken)
    assert cli.main(["doctor"]) == 5
    shown = capsys.readouterr().err
    assert "RuntimeError: last line" in shown
    assert "-vv" in shown
    assert "Traceback" not in shown
    assert cli.main(["doctor", "-vv"]) == 5
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dlcomp.doctor.run_checks", interrupted)
    assert cli.main(["doctor"]) == 130


def test_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -c 'import sys; from dlcomp.cli import main; sys.exit(main())' targets"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_targets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["targets", "raspberry-pi-4", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["cpu"] == "cortex-a72"


@pytest.mark.parametrize(
    ("text", "shape"), [("x:1,3,48,320", ("x", (1, 3, 48, 320))), ("input:0:2,4", ("input:0", (2, 4)))]
)
def test_reads_shapes(text: str, shape: tuple[str, tuple[int, ...]]) -> None:
    assert options.parse_shapes([text]) == dict([shape])


@pytest.mark.parametrize("text", ["x", ":1,2", "x:1,,2", "x:0,2", "x:-1"])
def test_refuses_other_shapes(text: str) -> None:
    with pytest.raises(UsageError):
        options.parse_shapes([text])


def test_loads_npy_and_npz_but_no_pickles(tmp_path: Path) -> None:
    array = np.arange(3, dtype=np.float32)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array, y=array)
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert set(options.load_arrays([f"x=@{tmp_path}/a.npy"]) or {}) == {"x"}
    assert set(options.load_arrays([f"@{tmp_path}/a.npz"]) or {}) == {"x", "y"}
    for bad in (
        f"x=@{tmp_path}/p.npy",
        f"@{tmp_path}/a.npy",
        f"z=@{tmp_path}/a.npz",
        "x",
        f"x=@{tmp_path}/none.npy",
    ):
        with pytest.raises(UsageError):
            options.load_arrays([bad])


def test_compiled_model_runs_as_numpy_says(artifact: Path, model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 7), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    arguments = ["run", str(artifact), "--input", f"x=@{tmp_path}/x.npy", "--save", str(tmp_path / "y.npz")]
    assert cli.main(arguments) == 0
    w, b = (numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer)
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npz")["y"], np.maximum(x @ w + b, 0), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("fill", ["random", "zeros", "ones"])
def test_fills_inputs(artifact: Path, fill: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(artifact), "--fill", fill]) == 0
    assert "y" in capsys.readouterr().out


def test_open_dimensions_from_compile_to_verify(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(model.with_suffix(".open.dlc"))
    assert cli.main(["compile", str(model), "-o", path]) == 0
    out = capsys.readouterr().out
    assert "x: float32[n, 7]" in out
    hint = "--shape x:n,7 with a number for n"
    assert hint in out
    assert cli.main(["run", path]) == 2
    assert hint in capsys.readouterr().err
    for rows in (1, 6):
        assert cli.main(["run", path, "--shape", f"x:{rows},7"]) == 0
        assert cli.main(["verify", str(model), path, "--shape", f"x:{rows},7"]) == 0


def test_inspect_of_an_artifact(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(artifact)]) == 0
    out = capsys.readouterr().out
    for part in ("compiled for", "weights.bin", "gemm.packed{", "made by"):
        assert part in out
    assert cli.main(["inspect", str(artifact), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == dlcomp.open(artifact).manifest.to_json()
    assert cli.main(["inspect", str(artifact), "--shape", "x:1,7"]) == 2
    assert "a .dlc is compiled" in capsys.readouterr().err


def test_an_artifact_for_another_machine_can_be_looked_at(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "other.dlc")
    other = "aarch64-linux-gnu:cortex-a72" if platform.machine() == "x86_64" else "x86_64-linux-gnu:znver3"
    assert cli.main(["compile", str(model), "--target", other, "-o", path]) == 0
    assert cli.main(["inspect", path]) == 0
    assert f"compiled for {other}" in capsys.readouterr().out
    assert cli.main(["run", path]) == 3


def test_inspect_bench_profile_verify_give_json(model: Path, artifact: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    fast = ["--warmup", "0", "--min-time", "0", "--min-runs", "3"]
    for arguments in (
        ["inspect", str(model)],
        ["bench", str(artifact), *fast],
        ["bench", str(artifact), "--compare", "onnxruntime", "--model", str(model), *fast],
        ["profile", str(artifact), "--trace", str(tmp_path / "trace.json")],
        ["verify", str(model), str(artifact)],
    ):
        assert cli.main([*arguments, "--json", str(report)]) == 0, arguments
        assert json.loads(report.read_text())
    assert json.loads((tmp_path / "trace.json").read_text())


def test_verify_of_another_network_is_exit_1(model: Path, artifact: Path, tmp_path: Path) -> None:
    network = onnx.load(model)
    bias = network.graph.initializer[1]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(network, tmp_path / "other.onnx")
    assert cli.main(["verify", str(tmp_path / "other.onnx"), str(artifact)]) == 1


@pytest.mark.parametrize(
    ("target", "code", "says"),
    [("cuda:sm_90", 4, "CUDA device"), ("aarch64-linux-gnu:cortex-a72", 3, "aarch64")],
)
def test_compiles_for_what_is_not_here_and_says_so_when_run(
    model: Path, tmp_path: Path, target: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if target.startswith(detect.triple().split("-")[0]) or (target.startswith("cuda") and detect.cuda_arch()):
        pytest.skip(f"{target} is here")
    path = str(tmp_path / "other.dlc")
    assert cli.main(["compile", str(model), "--shape", "x:2,7", "--target", target, "-o", path]) == 0
    assert cli.main(["run", path]) == code
    assert says in capsys.readouterr().err
