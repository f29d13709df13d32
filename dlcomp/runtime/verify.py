"""Does an artifact compute what its network says? onnxruntime, node by node as written, is the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dlcomp.errors import UsageError
from dlcomp.frontend.stored import message_of
from dlcomp.model import Model
from dlcomp.runtime import peer
from dlcomp.runtime.inputs import complete, ordered
from dlcomp.runtime.metric import Difference, difference

if TYPE_CHECKING:
    from dlcomp.runtime.artifact import Artifact
    from dlcomp.runtime.layers import LayerReport


@dataclass(frozen=True)
class VerifyResult:
    """What :func:`verify` found.

    Attributes
    ----------
    outputs : mapping of str to Difference
        By output.
    rtol : float
        The error, relative to the output's range, up to which an output passes; integers must be equal.
    layers : LayerReport or None
        With ``per_layer``: where the first divergence comes from.
    """

    name: str
    target: str
    reference: str
    rtol: float
    outputs: Mapping[str, Difference]
    layers: LayerReport | None = None

    @property
    def ok(self) -> bool:
        """Whether every output passes."""
        return all(found.within(self.rtol) for found in self.outputs.values())

    @property
    def max_error(self) -> float:
        """The largest error of an output."""
        return max((found.error for found in self.outputs.values()), default=0.0)

    @property
    def worst(self) -> list[tuple[str, Difference]]:
        """The outputs, worst first."""
        return sorted(self.outputs.items(), key=lambda item: -item[1].error)

    def to_json(self) -> dict[str, Any]:
        """In the types of JSON."""
        return {**asdict(self), "ok": self.ok, "max_error": self.max_error}

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {'passed' if self.ok else 'FAILED'} against {self.reference}, rtol {self.rtol:g}"
        ]
        lines += [f"  {name}: {found}" for name, found in self.worst]
        return "\n".join(lines + ([f"  {self.layers}"] if self.layers else []))


def verify(
    model: Model,
    artifact: Artifact,
    inputs: Mapping[str, Any] | None = None,
    *,
    rtol: float = 1e-4,
    per_layer: bool = False,
    seed: int = 0,
    optimize_reference: bool = False,
) -> VerifyResult:
    """Compare ``artifact`` with onnxruntime on ``model``'s ONNX source.

    Parameters
    ----------
    model : Model
        As loaded from ONNX.
    artifact : Artifact
    inputs : mapping, optional
        Random ones, by ``seed``, where there is none.
    rtol : float
        Largest error that passes, over the range of the output. NaN and infinities must be
        in the same places.
    per_layer : bool
        Also find the first node that diverges.
    optimize_reference : bool
        Let onnxruntime fuse and approximate. Off, because its fused int8 kernels saturate on CPUs without
        VNNI and are then no reference.

    Returns
    -------
    VerifyResult
        A mismatch is in ``ok``; nothing is raised for it.
    """
    if rtol < 0:
        raise UsageError(f"rtol must not be negative, as {rtol} is")
    if model.source is None:
        raise UsageError("this model keeps no ONNX source to compare with", hint="load it from an .onnx file")
    feed = complete(artifact.signature, inputs, seed)
    if artifact.manifest.border is None:
        ordered(feed, artifact.signature)
    session = peer.session(
        message_of(model.source, model.name), artifact.threads, optimize=optimize_reference
    )
    expected = peer.run(session, feed)
    missing = [spec.name for spec in artifact.signature.outputs if spec.name not in expected]
    if missing:
        raise UsageError(
            f"the model has no output {', '.join(missing)}, only {', '.join(expected)}",
            hint="is it the model that the artifact was compiled from?",
        )
    found = artifact.run(feed)
    outputs = {name: difference(array, expected[name]) for name, array in found.items()}
    layers = None
    if per_layer:
        from dlcomp.runtime.layers import first_divergence

        layers = first_divergence(model, artifact.target, feed, rtol)
    reference = f"onnxruntime {peer.runtime().__version__}"
    return VerifyResult(model.name, str(artifact.target), reference, rtol, outputs, layers)
