"""How a register tile multiplies and adds: floats one by one, integers in groups with exact sums.

A processor's integer instructions take a few neighbours along the reduction at once: a 32-bit word of the
one operand, repeated in every lane, by as many words of the other, each lane's products added to its 32-bit
sum. ``vpdpbusd`` takes four unsigned by four signed 8-bit integers and never saturates; ``vpmaddwd`` takes
two by two of 16 bits, which hold everything that 8 bits can, less a zero point. (``vpmaddubsw``, which adds
pairs of 8-bit products in 16 bits and saturates, is not used.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx

from dlcomp.schedules.cpu.emit import Expr, splat, vload
from dlcomp.target import Target

_VPDPBUSD = {size: f"llvm.x86.avx512.vpdpbusd.{32 * size}" for size in (16, 8, 4)}
_VPMADDWD = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}


@dataclass(frozen=True)
class Arithmetic:
    """The element types of a product of matrices, and the instruction for it.

    Attributes
    ----------
    data, weight, sums : str
        Element types: of the operand that is read one word a row, of the packed one, of the sums.
    group : int
        Neighbours along the reduction that one step takes.
    instructions : mapping of int to str
        By the number of sums: the LLVM intrinsic; none for a plain multiplication and addition.
    """

    data: str = "float32"
    weight: str = "float32"
    sums: str = "float32"
    group: int = 1
    instructions: Mapping[int, str] = field(default_factory=dict)

    @property
    def zero(self) -> Expr:
        return tirx.const(0, self.sums)

    def scalar(self, buffer: Any, indices: Sequence[Expr]) -> Expr:
        """What a row gives to a step; the last of ``indices`` counts steps."""
        if self.group == 1:
            return tirx.BufferLoad(buffer, list(indices))
        *outer, step = indices
        return _as("int32", vload(buffer, [*outer, step * self.group], self.group))

    def vector(self, buffer: Any, indices: Sequence[Expr], size: int) -> Expr:
        """What ``size`` columns give to a step; the last of ``indices`` counts columns."""
        *outer, column = indices
        return vload(buffer, [*outer, column * self.group], size * self.group)

    def scalar_type(self) -> str:
        return self.data if self.group == 1 else "int32"

    def vector_type(self, size: int) -> str:
        lanes = size * self.group
        return f"{self.weight}x{lanes}" if lanes > 1 else self.weight

    def multiply_add(self, total: Expr, scalar: Expr, vector: Expr, size: int) -> Expr:
        """``total + scalar * vector``, the products of a group summed."""
        if self.group == 1:
            if self.data != self.sums:
                wide = self.sums if size == 1 else f"{self.sums}x{size}"
                return total + splat(tirx.Cast(self.sums, scalar), size) * tirx.Cast(wide, vector)
            return total + splat(scalar, size) * vector
        return self.dot(total, _as(f"{self.data}x{size * self.group}", splat(scalar, size)), vector, size)

    def dot(self, total: Expr, left: Expr, right: Expr, size: int) -> Expr:
        """``total`` and the products of each group of ``left`` with that of ``right``, by the instruction."""
        kind, name = f"{self.sums}x{size}", self.instructions[size]
        if self.group == 4:
            return tirx.call_llvm_pure_intrin(kind, name, total, left, right)
        return total + tirx.call_llvm_pure_intrin(kind, name, left, right)

    def product(self, left: Expr, right: Expr) -> Expr:
        """The product of two elements as a definition has it, in the type of the sums."""
        if self.data == self.sums:
            return left * right
        return tirx.Cast(self.sums, left) * tirx.Cast(self.sums, right)


FLOAT32 = Arithmetic()
_BY_NAME = {
    "float32": FLOAT32,
    "u8s8x4": Arithmetic("uint8", "int8", "int32", 4, _VPDPBUSD),
    "s16x2": Arithmetic("int16", "int16", "int32", 2, _VPMADDWD),
    "s16": Arithmetic("int16", "int16", "int32"),
}
INTEGERS = tuple(name for name in _BY_NAME if name != "float32")


def arithmetic_of(name: str) -> Arithmetic:
    """The arithmetic that a workload names."""
    return _BY_NAME[name]


def integer_arithmetic(target: Target, weights: str) -> str:
    """The name of the fastest exact one for 8-bit data and ``weights``, int8 or int16.

    Processors may have registers of a width whose integer instructions came with a later extension.
    """
    needed = {512: "avx512bw", 256: "avx2"}.get(target.vector_bits, "")
    if target.architecture != "x86_64" or (needed and not target.has(needed)):
        return "s16"
    dot4 = target.has("avxvnni") or target.has("avx512vnni", "avx512vl")
    return "u8s8x4" if dot4 and weights == "int8" else "s16x2"


def narrowest(name: str) -> int:
    """What the columns of a register tile must be a multiple of: those of the narrowest instruction."""
    return min(arithmetic_of(name).instructions, default=1)


def _as(kind: str, value: Expr) -> Expr:
    return tirx.call_intrin(kind, "tirx.reinterpret", value)
