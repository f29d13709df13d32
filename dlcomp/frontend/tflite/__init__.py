"""Networks saved for TensorFlow Lite (LiteRT), as ONNX networks.

The format: FlatBuffers with the identifier ``TFL3``; its schema's classes come with the package ``tflite``.
"""

from __future__ import annotations

import onnx

from dlcomp.errors import ToolMissing

__all__ = ["is_tflite", "to_onnx"]


def is_tflite(data: bytes) -> bool:
    """Whether a file begins as a TFLite network does."""
    return data[4:8] == b"TFL3"


def to_onnx(data: bytes, name: str) -> onnx.ModelProto:
    """The network of a ``.tflite`` file; inputs and outputs keep the layout and type that they have there.

    Parameters
    ----------
    data : bytes
        All of the file.
    name : str
        For messages.

    Raises
    ------
    ModelError
        A damaged file; operators that are not known, all at once; with its number and name, an operator whose
        operands do not fit or whose options are not supported.
    ToolMissing
        The package ``tflite`` is not installed.
    """
    try:
        import tflite  # noqa: F401
    except ImportError as error:
        raise ToolMissing(
            "reading .tflite files needs the package tflite",
            where=name,
            hint="pip install 'dlcomp[tflite]'",
        ) from error
    from dlcomp.frontend.tflite.convert import convert
    from dlcomp.frontend.tflite.file import parse

    return convert(parse(data, name), name)
