"""What an artifact says when it may not be opened or run here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rewrite
from small_programs import x_of

import dlcomp
from dlcomp.codegen.program import Program
from dlcomp.errors import ArtifactError, ToolMissing
from dlcomp.runtime.artifact import Artifact
from dlcomp.target import Target


def refuse(saved: Path, path: Path, change: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        dlcomp.open(rewrite.edited(saved, path, change))
    assert caught.value.exit_code == 3
    assert caught.value.where == str(path)
    assert caught.value.hint
    return str(caught.value)


def test_missing_cpu_features_are_listed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have = Target.host().features
    monkeypatch.setattr("dlcomp.target.host_features", lambda: frozenset(have[2:]))
    with pytest.raises(ArtifactError) as caught:
        dlcomp.open(saved)
    assert f"{have[0]}, {have[1]}" in str(caught.value)
    assert "--target host" in str(caught.value)


def test_another_architecture_is_refused_but_can_be_looked_at(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.dlc"
    other = "x86_64" if Target.host().architecture != "x86_64" else "aarch64"

    def change(_: rewrite.Members, manifest: dict[str, Any]) -> None:
        target = Target.parse(f"{other}-linux-gnu")
        manifest["target"] = target.to_dict()
        manifest["required_features"] = list(target.features)

    text = refuse(saved, path, change)
    assert other in text
    opened = dlcomp.open(path, check_host=False)
    assert other in str(opened)
    with pytest.raises(ArtifactError):
        opened.run({"x": x_of(opened)})


def test_an_artifact_for_another_machine_is_built_without_a_test_vector(
    program: Program, tmp_path: Path
) -> None:
    other = Target.parse(
        "aarch64-linux-gnu:cortex-a72" if Target.host().architecture == "x86_64" else "x86_64-linux-gnu"
    )
    path = Artifact.build(replace(program, target=other)).save(tmp_path / "m.dlc")
    assert "made for" in dlcomp.open(path, check_host=False).manifest.check["absent"]


@pytest.mark.parametrize(
    ("package", "line"), [("tvm", "apache-tvm==9.9"), ("tvm_ffi", "apache-tvm-ffi==9.9")]
)
def test_another_binary_interface_names_the_pip_line(
    saved: Path, tmp_path: Path, package: str, line: str
) -> None:
    text = refuse(
        saved, tmp_path / "m.dlc", lambda _, manifest: manifest["versions"].update({package: "9.9"})
    )
    assert "pip install apache-tvm==" in text
    assert line in text


def test_a_newer_schema_asks_for_a_newer_dlcomp(saved: Path, tmp_path: Path) -> None:
    text = refuse(saved, tmp_path / "m.dlc", lambda _, manifest: manifest.update(schema=99))
    assert "newer" in text
    assert "pip install -U dlcomp" in text


@pytest.mark.parametrize(
    "member", ["manifest.json", "objects/lib0.o", "objects/vm.o", "weights.bin", "check.npz"]
)
def test_a_tampered_member_is_named(saved: Path, tmp_path: Path, member: str) -> None:
    content = rewrite.members(saved)
    # Within a name or a number, so that the manifest is still JSON.
    place = content[member].find(b"dense") if member == "manifest.json" else len(content[member]) // 2
    content[member] = content[member][:place] + b"D" + content[member][place + 1 :]
    path = rewrite.write(tmp_path / "m.dlc", content)
    with pytest.raises(ArtifactError, match=f"'{member}' is not what was saved"):
        dlcomp.open(path)


@pytest.mark.parametrize(
    "member", ["manifest.json", "objects/lib0.o", "objects/vm.o", "weights.bin", "check.npz"]
)
def test_a_missing_member_is_named(saved: Path, tmp_path: Path, member: str) -> None:
    text = refuse(saved, tmp_path / "m.dlc", lambda content, _: content.pop(member))
    assert f"'{member}' is missing" in text


def test_a_missing_member_that_the_manifest_does_not_list_either(saved: Path, tmp_path: Path) -> None:
    def change(content: rewrite.Members, manifest: dict[str, Any]) -> None:
        del content["weights.bin"], manifest["members"]["weights.bin"]

    assert "'weights.bin' is missing" in refuse(saved, tmp_path / "m.dlc", change)


def test_an_unlisted_member_is_refused(saved: Path, tmp_path: Path) -> None:
    text = refuse(saved, tmp_path / "m.dlc", lambda content, _: content.update(extra=b"x"))
    assert "'extra' is not in the manifest" in text


def _set(path: str, value: Any) -> Any:
    def change(_: rewrite.Members, manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = manifest
        for key in parents:
            place = place[int(key)] if key.isdigit() else place[key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "other"),
        ("schema", "1"),
        ("schema", True),
        ("schema", 0),
        ("name", 3),
        ("versions", []),
        ("target", "host"),
        ("target.triple", "pdp11-unix"),
        ("target.cores", "two"),
        ("required_features", []),
        ("signature.inputs", 7),
        ("signature.inputs.0.shape", [-1, 64]),
        ("signature.inputs.0.shape", [1 << 40, 1 << 40]),
        ("signature.inputs.0.shape", [1.5, 64]),
        ("signature.inputs.0.dtype", "object"),
        ("objects", []),
        ("objects", ["../x"]),
        ("weights.0.offset", 1 << 40),
        ("weights.0.offset", 4),
        ("weights.0.offset", -64),
        ("weights.0.shape", [1]),
        ("weights.0.dtype", "V4"),
        ("members", None),
        ("kernels", [{}]),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    saved: Path, tmp_path: Path, path: str, value: Any
) -> None:
    refuse(saved, tmp_path / "m.dlc", _set(path, value))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(saved: Path, tmp_path: Path, text: bytes) -> None:
    content = rewrite.members(saved) | {"manifest.json": text}
    with pytest.raises(ArtifactError):
        dlcomp.open(rewrite.write(tmp_path / "m.dlc", content))


def test_a_cuda_artifact_opens_but_does_not_run_without_a_device(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: rewrite.Members, manifest: dict[str, Any]) -> None:
        target = Target.parse("cuda:sm_90")
        manifest["target"] = target.to_dict()
        manifest["required_features"] = list(target.features)

    monkeypatch.setattr("dlcomp.detect.cuda_arch", lambda: None)
    opened = dlcomp.open(rewrite.edited(saved, tmp_path / "m.dlc", change))
    with pytest.raises(ToolMissing, match="CUDA device") as caught:
        opened.run({"x": x_of(opened)})
    assert caught.value.exit_code == 4
