"""PyTorch's exported programs (``torch.export``) as ONNX networks, written by PyTorch's own exporter."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import onnx

from dlcomp.errors import ModelError, ToolMissing

__all__ = ["is_exported", "to_onnx"]

# What torch.onnx.export reads its own operators with.
_NEEDED = ("torch", "onnxscript")


def is_exported(source: Any) -> bool:
    """Whether ``source`` is a ``torch.export.ExportedProgram``; PyTorch is not imported for the question."""
    torch = sys.modules.get("torch")
    program = getattr(getattr(torch, "export", None), "ExportedProgram", None)
    return program is not None and isinstance(source, program)


def to_onnx(source: Any, name: str) -> onnx.ModelProto:
    """The network of an exported program.

    Parameters
    ----------
    source : torch.export.ExportedProgram or bytes
        Bytes are those of a ``.pt2`` file; load only files that you trust, as PyTorch says of them.
    name : str
        For messages.

    Returns
    -------
    onnx.ModelProto
        Inputs have the names of the arguments of ``forward``; dynamic dimensions stay open.

    Raises
    ------
    ModelError
        A file that PyTorch does not read, or a program that its exporter does not write as ONNX.
    ToolMissing
        PyTorch or onnxscript is not installed.
    """
    torch = _torch(name)
    program = _loaded(torch, source, name) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            # Of what the exporter does not need.
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
        network = exported.model_proto
    except Exception as error:
        raise ModelError(
            f"PyTorch does not write it as ONNX: {_first(error)}",
            where=name,
            hint="torch.onnx.export(program, dynamo=True, report=True) says more",
        ) from error
    assert isinstance(network, onnx.ModelProto)
    return network


def _torch(name: str) -> Any:
    for package in _NEEDED:
        try:
            __import__(package)
        except ImportError as error:
            raise ToolMissing(
                f"reading PyTorch's exported programs needs the package {package}",
                where=name,
                hint="pip install 'dlcomp[torch]'",
            ) from error
    import torch.export
    import torch.onnx

    return torch


def _loaded(torch: Any, data: bytes, name: str) -> Any:
    try:
        return torch.export.load(io.BytesIO(data))
    except Exception as error:
        raise ModelError(
            f"PyTorch does not read it as an exported program: {_first(error)}",
            where=name,
            hint="write it with torch.export.save(program, 'model.pt2')",
        ) from error


def _first(error: Exception) -> str:
    """What an error says, without its report of many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
