"""The value that flows through dlcomp: a Relax module, its signature, and what was done to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcomp.errors import UsageError

if TYPE_CHECKING:
    import onnx
    from tvm import IRModule

    from dlcomp.compress import Pass
    from dlcomp.compress.search import Budget
    from dlcomp.runtime.artifact import Artifact
    from dlcomp.target import Target


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (an int, or the name of a symbolic dimension) and NumPy dtype name of one tensor."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def is_open(self) -> bool:
        """Whether a dimension is symbolic."""
        return any(isinstance(dim, str) for dim in self.shape)

    def shape_option(self) -> str:
        """The option that would bind the open dimensions, for a hint."""
        names = dict.fromkeys(dim for dim in self.shape if isinstance(dim, str))
        sizes = ",".join(map(str, self.shape))
        return f"--shape {self.name}:{sizes} with a number for {', '.join(names)}"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class TextStages:
    """The parts of a network that work on strings, which compiled code does not know.

    Attributes
    ----------
    signature : Signature
        Of the whole network; strings have the dtype ``str``.
    before, after : bytes or None
        ONNX networks that the host runs before and after the compiled part.
    """

    signature: Signature
    before: bytes | None = None
    after: bytes | None = None


@dataclass(frozen=True)
class Step:
    """One thing that was done to a model: the pass, its options, and what it measured."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    effect: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A network. Immutable: every pass returns a new one.

    Attributes
    ----------
    module : tvm.IRModule
        Relax, with one function ``main`` whose parameters are the inputs in the order of
        ``signature.inputs``; weights are constants in it; layouts are ONNX's (NCHW, OIHW).
    signature : Signature
        Static after ``load`` with bound shapes.
    name : str
        The file's stem, for messages.
    history : tuple of Step
        What was done, oldest first.
    source : onnx.ModelProto or None
        The network as it was read (shapes bound), which ``verify`` runs as the reference.
    path : str or None
        The file that it was read from.
    text : TextStages or None
        What stands around ``module`` in a network with strings.
    """

    module: IRModule
    signature: Signature
    name: str = "model"
    history: tuple[Step, ...] = ()
    source: onnx.ModelProto | None = None
    path: str | None = None
    text: TextStages | None = None

    def __str__(self) -> str:
        from dlcomp.report.describe import describe

        return describe(self)

    def with_module(self, module: IRModule, step: Step) -> Model:
        """The same model after ``step``."""
        return replace(self, module=module, history=(*self.history, step))

    def compress(
        self,
        *passes: Pass,
        calibration: Any = None,
        budget: Budget | None = None,
        labels: Any = None,
        evaluate: Any = None,
        cache: Any = None,
    ) -> Model:
        """A smaller model: the network after ``passes``; see :func:`dlcomp.compress.compress`."""
        from dlcomp.compress import compress

        return compress(self, passes, calibration, budget, labels, evaluate, cache)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network as ONNX, which any runtime reads.

        Raises
        ------
        UsageError
            It has no ONNX form, or the file cannot be written.
        """
        if self.source is None:
            raise UsageError("this model has no ONNX form to save", where=os.fspath(path))
        if any(tensor.external_data for tensor in self.source.graph.initializer):
            raise UsageError(
                "its weights are more than one message can hold",
                where=os.fspath(path),
                hint="use its files",
            )
        try:
            Path(path).write_bytes(self.source.SerializeToString())
        except OSError as error:
            raise UsageError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error

    def compile(self, target: str | Mapping[str, Any] | Target = "host", **options: Any) -> Artifact:
        """Compile for ``target``; see :func:`dlcomp.pipeline.compile_model`."""
        from dlcomp.pipeline import compile_model

        return compile_model(self, target, **options)
