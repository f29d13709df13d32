"""The zip: aligned, stored, all-or-nothing, and refused whenever it is anything else."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from dlcomp.errors import ArtifactError, UsageError
from dlcomp.runtime import container


def put(path: Path, *members: tuple[str, bytes]) -> Path:
    container.write(path, [(name, [data], len(data)) for name, data in members])
    return path


def offset(view: memoryview, path: Path) -> int:
    return path.read_bytes().find(bytes(view))


def test_members_come_back_and_start_on_64_byte_boundaries(tmp_path: Path) -> None:
    given = {"a": b"x" * 7 + b"first", "folder/b.bin": b"second" * 100, "empty": b""}
    path = put(tmp_path / "t.dlc", *given.items())
    archive = container.read(path)
    assert {name: bytes(data) for name, data in archive.members.items()} == given
    assert all(offset(archive[name], path) % 64 == 0 for name in ("a", "folder/b.bin"))


def test_members_over_2_gib_stay_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_ZIP64_FROM", 10)
    path = put(tmp_path / "t.dlc", ("large", b"the large one" * 9), ("next", b"the next one"))
    archive = container.read(path)
    assert bytes(archive["large"]) == b"the large one" * 9
    assert all(offset(data, path) % 64 == 0 for data in archive.members.values())


def test_any_zip_tool_reads_it(tmp_path: Path) -> None:
    path = put(tmp_path / "t.dlc", ("a", b"1"), ("b", b"22"))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a", "b"]


def test_equal_content_gives_equal_files(tmp_path: Path) -> None:
    first, second = (put(tmp_path / name, ("a", b"1")) for name in ("x", "y"))
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = put(tmp_path / "t.dlc", ("a", b"old"))

    def pieces():  # type: ignore[no-untyped-def]
        yield b"new"
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        container.write(path, [("a", pieces(), 3)])
    assert bytes(container.read(path)["a"]) == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_through_a_view_never_reaches_the_file(tmp_path: Path) -> None:
    path = put(tmp_path / "t.dlc", ("a", b"old"))
    container.read(path)["a"][:] = b"new"
    assert bytes(container.read(path)["a"]) == b"old"


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/../../b", "a\\b", "C:x", "", "a//b", ".hidden", "a/"]
)
def test_a_name_that_could_leave_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.dlc"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(ArtifactError):
        container.read(path)


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.dlc"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    with pytest.raises(ArtifactError, match="twice"):
        container.read(path)


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.dlc"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(1 << 20))
    with pytest.raises(ArtifactError, match="compressed"):
        container.read(path)


def test_a_size_that_the_file_does_not_hold_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "t.dlc", ("a", b"12345678"))
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<2I", 1 << 30, 1 << 30)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="claims"):
        container.read(path)


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "t.dlc", ("a", b"1" * 100), ("b", b"2" * 100))
    data = bytearray(path.read_bytes())
    entry = data.find(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<2I", 150, 150)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="overlap"):
        container.read(path)


@pytest.mark.parametrize("data", [b"", b"a text file", b"PK\x03\x04", bytes(5000)])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.dlc"
    path.write_bytes(data)
    with pytest.raises(ArtifactError):
        container.read(path)


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        container.read(tmp_path / "none.dlc")
    with pytest.raises(UsageError):
        container.read(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = put(tmp_path / "t.dlc", ("a", b"1" * 100), ("b", b"2" * 100)).read_bytes()
    path = tmp_path / "short.dlc"
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError):
            container.read(path)
