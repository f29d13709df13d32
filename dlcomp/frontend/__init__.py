"""From a file to a :class:`dlcomp.model.Model`: read, check, bind shapes, simplify, import."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import torch

    from dlcomp.model import Model

__all__ = ["load"]


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | torch.export.ExportedProgram,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    *,
    values: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> Model:
    """Read a network and import it into Relax.

    Parameters
    ----------
    source : path, bytes, onnx.ModelProto or torch.export.ExportedProgram
        The network: ONNX, a ``.tflite`` file (with the extra ``tflite``), a program that PyTorch exported or
        its ``.pt2`` file (with the extra ``torch``), or the text of a Relay module. A proto is not changed.
        External data is read from the file's folder, so a network that has some must be given as a path.
    shapes : mapping of str to sequence of int or str, optional
        The shapes of inputs, by name. A dimension that the file leaves symbolic and nobody gives a size stays
        open, as does one given as a name: the artifact then runs any size, and slower than one for this size.
    values : mapping of str to array, or path, optional
        Inputs to fix: they become constants and are no inputs any more, as the weights of Relay text. What
        decides about shapes (the sizes of a Resize, the k of a TopK) makes a faster program if it is fixed.
        A path is that of an .npz, or of a file of parameters that TVM wrote.

    Returns
    -------
    Model
        ``module`` has one function ``main`` with the inputs in ONNX's order and the weights as
        constants; it returns one tensor, or a tuple of them in ONNX's order; ``source`` is the
        network as it was read, with the shapes bound.

    Raises
    ------
    UsageError
        No such file, an unknown input name, a wrong, contradicting or missing shape.
    ModelError
        Not a network, a broken one, or one with something that is not supported.
    ToolMissing
        The format needs a package that is not installed; the hint names the extra.
    """
    from dlcomp.frontend.check import check_network, infer
    from dlcomp.frontend.narrow import bytes_of_nibbles
    from dlcomp.frontend.node_checks import check_nodes
    from dlcomp.frontend.qdq import on_integers
    from dlcomp.frontend.read import read
    from dlcomp.frontend.relax_import import import_network
    from dlcomp.frontend.relay import PRODUCER
    from dlcomp.frontend.shapes import bind
    from dlcomp.frontend.simplify import simplify
    from dlcomp.frontend.text import has_text
    from dlcomp.frontend.values import fix, values_of

    known = values_of(values)
    network, name = read(source, known, shapes)
    if has_text(network):
        return _with_text(network, name, shapes, known, source)
    check_network(network, name)
    # The values of Relay text's parameters are constants already.
    rest = {} if network.producer_name == PRODUCER else known
    bound = infer(bind(fix(network, rest), shapes or {}), name)
    check_nodes(bound, name)
    plain = bytes_of_nibbles(simplify(bound))
    model = import_network(on_integers(plain), source=bound, name=name)
    return replace(model, path=os.fspath(source)) if isinstance(source, str | os.PathLike) else model


def _with_text(
    network: onnx.ModelProto,
    name: str,
    shapes: Mapping[str, Sequence[int | str]] | None,
    values: Mapping[str, Any],
    source: Any,
) -> Model:
    """The model of a network with strings: its numbers compiled, the rest beside it."""
    import onnx

    from dlcomp.errors import ModelError
    from dlcomp.frontend.text import split

    try:
        onnx.checker.check_model(network)
    except onnx.checker.ValidationError as error:
        raise ModelError(str(error).splitlines()[0], where=name) from error
    core, stages = split(network, name)
    inner = {value.name for value in core.graph.input}
    model = load(
        core,
        {key: shape for key, shape in (shapes or {}).items() if key in inner},
        values={key: value for key, value in values.items() if key in inner},
    )
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    return replace(model, name=name, source=network, text=stages, path=path)
