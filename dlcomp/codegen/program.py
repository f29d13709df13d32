"""What code generation hands to the runtime: objects, weights and the account of every kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dlcomp.model import Signature
from dlcomp.target import Target


@dataclass(frozen=True)
class KernelInfo:
    """One kernel: its symbol, what it computes, and what it costs.

    Attributes
    ----------
    name : str
        The symbol that the VM calls.
    op : str
        Operator with its fused epilogue, e.g. ``conv2d+add+relu``.
    flops, bytes : int
        Floating-point operations (two a MAC) and the least bytes moved (operands and results once).
    schedule : str
        The template that claimed it and its knobs, or ``default``.
    """

    name: str
    op: str
    flops: int
    bytes: int
    schedule: str


@dataclass(frozen=True)
class Program:
    """Compiled code of one model.

    Attributes
    ----------
    objects : mapping of str to bytes
        Relocatable object files in the target's format; together they hold the kernels and the
        serialized Relax VM program whose function ``main`` takes the inputs in the order of
        ``signature.inputs`` and then, if there are weights, one tuple of all weights.
    weights : tuple of numpy.ndarray
        The weights in the order of that tuple.
    kernels : tuple of KernelInfo
    sources : mapping of str to bytes
        What is kept for people or other tools: CUDA source, PTX, a cubin.
    """

    signature: Signature
    target: Target
    objects: Mapping[str, bytes]
    weights: tuple[np.ndarray, ...]
    kernels: tuple[KernelInfo, ...] = ()
    sources: Mapping[str, bytes] = field(default_factory=dict)
