"""What a template is asked to compute: one operator instance, hashable, and written into the IR.

A workload travels on the block of its operator as an annotation, through fusion, to the template
that claims it; the tuner's database is keyed by the same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ANNOTATION = "dlcomp.workload"
KNOBS = "dlcomp.knobs"


@dataclass(frozen=True)
class Conv2d:
    """Convolution of (n, h, w, groups*ci) by (groups*co, kh, kw, ci) into (n, oh, ow, groups*co).

    ``top`` and ``left`` are the zeros before the image; those after it follow from ``oh`` and ``ow``. For
    images of open size ``n``, ``h``, ``w``, ``oh`` and ``ow`` are 0, and the image comes padded.
    ``arithmetic`` names the types of the elements (:mod:`dlcomp.schedules.cpu.arithmetic`), ``stored`` what
    is left of weights with many zeros (:mod:`dlcomp.schedules.sparsity`).
    """

    n: int
    h: int
    w: int
    ci: int
    oh: int
    ow: int
    co: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    top: int
    left: int
    groups: int
    arithmetic: str = "float32"
    stored: str = ""

    @property
    def flops(self) -> int:
        return 2 * self.n * self.oh * self.ow * self.co * self.groups * self.kh * self.kw * self.ci


@dataclass(frozen=True)
class Gemm:
    """(m, k) by a constant (k, n), packed at compile time, into (m, n); ``m`` is 0 if it is open.

    ``arithmetic`` and ``stored`` are those of :class:`Conv2d`.
    """

    m: int
    n: int
    k: int
    arithmetic: str = "float32"
    stored: str = ""

    @property
    def flops(self) -> int:
        return 2 * self.m * self.n * self.k


@dataclass(frozen=True)
class BatchMatmul:
    """``batch`` products of (m, k) by (k, n), both operands computed at run time; what is open is 0."""

    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


@dataclass(frozen=True)
class Window2d:
    """A reduction over a window of every channel alone: depthwise convolution, max and average pooling.

    ``kind`` is ``depthwise``, ``max`` or ``avg``; ``avg`` divides by the elements inside the image,
    ``avg_full`` by the elements of the padded image that the window covers: ``right`` and ``bottom``
    bound it. ``arithmetic`` is that of :class:`Conv2d`, for unsigned data of 8 bits, or the type of what the
    largest is taken of; ``filling`` is what integers are padded with by a depthwise convolution.
    """

    kind: str
    n: int
    h: int
    w: int
    c: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    top: int
    left: int
    bottom: int = 0
    right: int = 0
    arithmetic: str = "float32"
    filling: int = 0

    @property
    def flops(self) -> int:
        per_element = 2 if self.kind == "depthwise" else 1
        return per_element * self.n * self.oh * self.ow * self.c * self.kh * self.kw


@dataclass(frozen=True)
class Recurrence:
    """All steps of an LSTM, GRU or RNN over projected inputs, in one or two directions.

    ``backward`` is for one direction from the last step to the first; ``reset_after`` is ONNX's
    ``linear_before_reset`` of a GRU; ``steps`` and ``batch`` are 0 if they are open. ``activations`` are
    ONNX's names, in ONNX's order, with commas between. ``rank`` is that of the recurrent weight where it is
    a product of two, (gates * hidden, rank) by (rank, hidden); 0 where it is whole.
    """

    kind: str
    steps: int
    batch: int
    hidden: int
    directions: int
    backward: bool
    reset_after: bool
    activations: str
    rank: int = 0

    @property
    def gates(self) -> int:
        return {"LSTM": 4, "GRU": 3, "RNN": 1}[self.kind]

    @property
    def flops(self) -> int:
        return 2 * self.steps * self.batch * self.directions * self.weights

    @property
    def weights(self) -> int:
        """Of the state, in one direction."""
        if self.rank:
            return self.rank * (self.gates + 1) * self.hidden
        return self.gates * self.hidden**2


@dataclass(frozen=True)
class VtaConv:
    """A convolution of (n, groups*ci, h, w) int8 on a VTA accelerator, or a dense layer as one.

    ``accelerator`` is all of the description that cycles depend on. ``registers`` counts the numbers by
    channel that follow the sums, ``residual`` says that another tensor is added, and ``wide`` that the sums
    themselves are the result.
    """

    accelerator: str
    n: int
    ci: int
    h: int
    w: int
    co: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    top: int
    left: int
    bottom: int
    right: int
    groups: int
    registers: int
    residual: bool
    wide: bool
    transposed: bool = False

    @property
    def flops(self) -> int:
        pixels = self.h * self.w if self.transposed else self.oh * self.ow
        return 2 * self.n * pixels * self.co * self.groups * self.kh * self.kw * self.ci


Workload = Conv2d | Gemm | BatchMatmul | Window2d | Recurrence | VtaConv
_KINDS: Mapping[str, type[Any]] = {
    t.__name__: t for t in (Conv2d, Gemm, BatchMatmul, Window2d, Recurrence, VtaConv)
}


def to_text(workload: Workload) -> str:
    """The workload as one line of JSON; float32 and weights without zeros, which most are, are not said."""
    fields = asdict(workload)
    for name, usual in (("arithmetic", "float32"), ("stored", ""), ("filling", 0), ("rank", 0)):
        if fields.get(name) == usual:
            del fields[name]
    return json.dumps({"op": type(workload).__name__, **fields})


def from_text(text: str) -> Workload:
    """The inverse of :func:`to_text`."""
    fields = json.loads(text)
    workload: Workload = _KINDS[fields.pop("op")](**fields)
    return workload
