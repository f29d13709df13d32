"""Bytes on disk to an ONNX protobuf message, with its external data inside; other formats are translated.

Everything that is wrong with the *file* is said here; what is wrong with the network is said by
``check.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from dlcomp.errors import ModelError, UsageError
from dlcomp.frontend.exported import is_exported
from dlcomp.frontend.exported import to_onnx as from_exported
from dlcomp.frontend.relay import is_relay
from dlcomp.frontend.stored import MESSAGE_BYTES, is_mapped, map_to
from dlcomp.frontend.tflite import is_tflite
from dlcomp.frontend.tflite import to_onnx as from_tflite

_LIMIT_BYTES = 2**31 - 1
# Of a network with too much for one message, tensors from this size on stay in their files.
_LARGE_BYTES = 1 << 16


def read(
    source: Any,
    values: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Any] | None = None,
) -> tuple[onnx.ModelProto, str]:
    """The network in ``source`` and a name for it (the file's stem, else the graph's name).

    ``values`` and ``shapes`` are those of Relay text's parameters; those of an ONNX network are none of this
    function's business.

    Raises
    ------
    UsageError
        ``source`` is no existing file.
    ModelError
        It is neither ONNX nor another format that is read, it is damaged, or its external data is missing or
        out of bounds.
    ToolMissing
        The format needs a package that is not installed.
    """
    if isinstance(source, onnx.ModelProto):
        network = onnx.ModelProto()
        network.CopyFrom(source)
        name, folder = network.graph.name or "model", None
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        network = _translated(data, "main", "", values, shapes) or parse(data, "<bytes>")
        name, folder = network.graph.name or "model", None
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        data = _read_file(path)
        network = _translated(data, path.stem, path.suffix, values, shapes) or parse(data, str(path))
        name, folder = path.stem, path.parent
    elif is_exported(source):
        network, name, folder = from_exported(source, "model"), "model", None
    else:
        raise UsageError(
            f"cannot load a model from {type(source).__name__}",
            hint="pass a path, the file's bytes, an onnx.ModelProto, or a torch.export.ExportedProgram",
        )
    if not network.HasField("graph"):
        raise ModelError("the ONNX message holds no graph", where=name, hint="the file is incomplete")
    _load_external_data(network, folder, name)
    return network, name


def _translated(
    data: bytes,
    name: str,
    suffix: str,
    values: Mapping[str, Any] | None,
    shapes: Mapping[str, Any] | None,
) -> onnx.ModelProto | None:
    """The network of a file in another format; None for ONNX's own."""
    if suffix == ".relay" or is_relay(data):
        return _relay(data, name, values, shapes)
    if suffix == ".tflite" or is_tflite(data):
        return from_tflite(data, name)
    if suffix == ".pt2":
        return from_exported(data, name)
    return None


def _relay(
    data: bytes, name: str, values: Mapping[str, Any] | None, shapes: Mapping[str, Any] | None
) -> onnx.ModelProto:
    from dlcomp.frontend.relay import to_onnx

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"not text in UTF-8: {error}", where=name) from error
    return to_onnx(text, name, values, shapes)


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """Parse ``data``; ``where`` names it in messages."""
    if not data:
        raise ModelError("the file is empty", where=where)
    alien = _recognise(data)
    if alien:
        raise ModelError(f"this is {alien}, not an ONNX model", where=where)
    network = onnx.ModelProto()
    try:
        network.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, or a UnicodeDecodeError of a name
        raise ModelError(
            f"not a readable ONNX file ({len(data)} bytes): the protobuf is truncated or corrupt",
            where=where,
            hint="fetch or export the model again and compare its size or checksum",
        ) from error
    return network


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in ``graph``: initializers and attributes, nested graphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensors(attribute.g)
            for nested in attribute.graphs:
                yield from tensors(nested)


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _LIMIT_BYTES:
            raise ModelError(
                f"the file has {size} bytes; one protobuf message cannot hold more than 2 GiB",
                where=str(path),
                hint="save the model with external data",
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}", hint=_neighbours(path)) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _neighbours(path: Path) -> str | None:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    found = sorted(p.name for p in path.parent.glob("*.onnx"))[:5]
    return f"the folder has {', '.join(found)}" if found else None


def _recognise(data: bytes) -> str | None:
    """What well-known thing ``data`` is instead of a protobuf, or None."""
    head = data[:512]
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer (run `git lfs pull`)"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive (a .dlc is opened with dlcomp.open; a PyTorch .pt must be exported)"
    if head.lstrip()[:1] == b"<":
        return "an HTML or XML page (a failed download?)"
    # The first byte of a ModelProto is a field tag: 0x08 (ir_version) from every known exporter.
    # Printable bytes, tabs and line ends only, no other controls: text.
    if all(byte in b"\t\n\r\f" or byte >= 0x20 for byte in head):
        try:
            text = head[:256].decode("utf-8", errors="strict" if len(head) <= 256 else "ignore")
        except UnicodeDecodeError:
            return None
        return f"a text file (it begins with {text[:40].splitlines()[0]!r})" if text.strip() else "blank text"
    return None


def _load_external_data(network: onnx.ModelProto, folder: Path | None, name: str) -> None:
    """Read the tensors that live in other files, or map them; ``network`` is ours to change."""
    found: list[tuple[onnx.TensorProto, Path, int, int]] = []
    for tensor in tensors(network.graph):
        if not is_mapped(tensor):
            continue
        where = f"{name}, tensor {tensor.name!r}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if folder is None:
            raise ModelError(
                f"its data is in the external file {location!r}, which bytes and protos do not carry",
                where=where,
                hint="load the model by its path, or load the data into the proto first",
            )
        found.append((tensor, *_external(folder, location, entries, where)))
    together = sum(length for *_, length in found) + network.ByteSize()
    weights = {tensor.name for tensor in network.graph.initializer}
    for tensor, path, offset, length in found:
        if together > MESSAGE_BYTES and length >= _LARGE_BYTES and tensor.name in weights:
            map_to(tensor, path, offset, length)
            continue
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _external(folder: Path, location: str, entries: dict[str, str], where: str) -> tuple[Path, int, int]:
    """The file, the offset and the length in bytes of a tensor's data."""
    root = folder.resolve()
    if not location or "\0" in location:
        raise ModelError(f"its external data names no usable file: {location!r}", where=where)
    path = (root / location).resolve()
    if Path(location).is_absolute() or not path.is_relative_to(root):
        raise ModelError(f"its external data {location!r} lies outside the model's folder", where=where)
    if not path.is_file():
        raise ModelError(
            f"its external data file {location!r} is missing",
            where=where,
            hint=f"put it beside the model, in {folder}",
        )
    size = path.stat().st_size
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size - offset)
    except ValueError as error:
        raise ModelError(f"its external data has a bad offset or length: {entries}", where=where) from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"its external data wants bytes {offset} to {offset + length} of {location!r}, which has {size}",
            where=where,
            hint="the data file is truncated or belongs to another model",
        )
    return path, offset, length
