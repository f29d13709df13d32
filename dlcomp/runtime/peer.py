"""onnxruntime as the peer of a benchmark and the reference of a check; never needed to compile or run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcomp.errors import ToolMissing, UsageError
from dlcomp.frontend.stored import message_of
from dlcomp.model import Model

if TYPE_CHECKING:
    from dlcomp.runtime.artifact import Artifact


def runtime() -> Any:
    """The onnxruntime module."""
    try:
        import onnxruntime
    except ImportError as err:
        raise ToolMissing(
            "onnxruntime is not installed, and this compares with it", hint="pip install onnxruntime"
        ) from err
    return onnxruntime


def session(model: bytes | str, threads: int, *, optimize: bool = True) -> Any:
    """An onnxruntime session on the CPU.

    Parameters
    ----------
    model : bytes or str
        ONNX, or the path of its file, beside which external data lies.
    threads : int
        Its threads do not spin while idle: they would take the cores of whatever is timed next.
    optimize : bool
        Without it, ``ORT_DISABLE_ALL``: every node is computed as written.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as err:
        raise UsageError(f"onnxruntime refuses the model: {str(err).strip().splitlines()[0]}") from err


def run(peer: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One run of an onnxruntime session, by the names of its outputs."""
    names = [output.name for output in peer.get_outputs()]
    feed = by_name(peer, inputs)
    try:
        return dict(zip(names, peer.run(names, feed), strict=True))
    except Exception as err:
        raise UsageError(
            f"onnxruntime cannot run on these inputs: {str(err).strip().splitlines()[0]}"
        ) from err


def runner(peer: Any, inputs: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """A function that runs once on ``inputs``: what a benchmark times."""
    feed = by_name(peer, inputs)
    run(peer, inputs)
    return lambda: peer.run(None, feed)


def by_name(peer: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``inputs`` that an onnxruntime session has, or an error that names what it lacks."""
    return wanted([item.name for item in peer.get_inputs()], inputs)


def wanted(names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of ``inputs`` those in ``names``, or an error that names what is missing."""
    missing = [name for name in names if name not in inputs]
    if missing:
        raise UsageError(
            f"the model has inputs {', '.join(names)}; none is given for {', '.join(missing)}",
            hint="is it the model that the artifact was compiled from?",
        )
    return {name: np.ascontiguousarray(inputs[name]) for name in names}


def network(artifact: Artifact, model: Any = None) -> bytes | str:
    """The ONNX model behind ``artifact``, as :func:`session` takes it.

    Parameters
    ----------
    artifact : Artifact
    model : Model, path, bytes or onnx.ModelProto, optional
        Without it, the file that the artifact was compiled from, if it is still there unchanged.
    """
    if model is None:
        return _recorded(artifact)
    if isinstance(model, Model):
        if model.source is None:
            raise UsageError(
                "this model keeps no ONNX source to compare with", hint="load it from an .onnx file"
            )
        return message_of(model.source, model.name)
    if isinstance(model, (bytes, bytearray)):
        return bytes(model)
    if isinstance(model, (str, os.PathLike)):
        if not Path(model).is_file():
            raise UsageError("there is no such file", where=str(model))
        return os.fspath(model)
    return bytes(model.SerializeToString())


def _recorded(artifact: Artifact) -> str:
    source = artifact.manifest.source
    hint = "name the ONNX file: --model model.onnx"
    if not source:
        raise UsageError("the artifact does not say which file it was compiled from", hint=hint)
    path = Path(source["path"])
    try:
        data = path.read_bytes()
    except OSError as err:
        raise UsageError(f"the model it was compiled from is gone: {path}", hint=hint) from err
    if hashlib.sha256(data).hexdigest() != source["sha256"]:
        raise UsageError(f"{path} has changed since the artifact was compiled from it", hint=hint)
    return str(path)
