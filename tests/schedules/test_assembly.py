"""What LLVM makes of the inner loops: as many multiply-adds as the tile has, all in registers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from kernels import prepared

from dlcomp.schedules import select
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.cpu.tile import lanes_of, pieces, split_evenly
from dlcomp.schedules.sparsity import example, left_in_groups
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload
from dlcomp.target import Target

TARGETS = {
    "x86_64-linux-gnu:haswell": ("ymm", r"vfn?madd\d+ps"),
    "x86_64-linux-gnu:znver4": ("zmm", r"vfn?madd\d+ps"),
    "aarch64-linux-gnu:cortex-a72": ("v", r"fmla"),
}

# What multiplies and adds integers there.
INTEGER_TARGETS = {
    "x86_64-linux-gnu:haswell": "vpmaddwd",
    "x86_64-linux-gnu:znver4": "vpdpbusd",
    "aarch64-linux-gnu:cortex-a72": "smlal2?",
}


@dataclass(frozen=True)
class Loop:
    """The instructions from a label to the last jump back to it."""

    lines: tuple[str, ...]

    def count(self, pattern: str) -> int:
        return sum(bool(re.match(rf"{pattern}\b", line)) for line in self.lines)

    @property
    def on_stack(self) -> list[str]:
        """Vector moves to or from the stack: what a spilled register costs.

        ``%rbp`` beside an index, or one that the loop itself counts up, is a pointer like any other, as
        functions without a frame pointer use it.
        """
        moves = any(re.search(r",\s*%rbp$", line) for line in self.lines)
        stack = r"\(%rsp|\[sp|\[x29" if moves else r"\(%rsp|\(%rbp\)|\[sp|\[x29"
        return [line for line in self.lines if re.search(stack, line) and re.search(r"[xyz]mm|\bq\d", line)]


def loops(assembly: str) -> list[Loop]:
    """The innermost loops of a listing."""
    # Labels of debug information stand anywhere.
    lines = [line.strip() for line in assembly.splitlines() if not line.startswith(".Ltmp")]
    starts: dict[str, int] = {}
    found = []
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            starts[label[1]] = number
            continue
        jump = re.match(r"(?:j\w+|b\.?\w*|cbn?z\s+\w+,|tbn?z\s.*,)\s*(\.L\w+)", line)
        if jump and jump[1] in starts:
            body = lines[starts[jump[1]] + 1 : number]
            if not any(re.match(r"\.L\w+:", inner) for inner in body):
                found.append(Loop(tuple(inner for inner in body if inner and not inner.startswith("."))))
    return found


def build(
    workload: Workload, operands: list[np.ndarray], target: Target, constant: bool = True
) -> tuple[str, dict]:
    found = select(workload, target, without=("conv2d.winograd",))
    assert found is not None
    template, knobs = found
    function, _ = prepared(template.name, workload, knobs, operands, target, constant)
    return tvm.tirx.build(function, target=target.to_tvm()).inspect_source("asm"), dict(knobs)


def array(*shape: int) -> np.ndarray:
    return np.zeros(shape, "float32")


@pytest.mark.parametrize("name", TARGETS)
def test_gemm_keeps_its_tile_in_registers(name: str) -> None:
    register, multiply = TARGETS[name]
    target = Target.parse(name)
    assembly, knobs = build(Gemm(240, 96, 64), [array(240, 64), array(64, 96)], target)
    best = max(loops(assembly), key=lambda loop: loop.count(multiply))
    parts = len(pieces(knobs["width"], lanes_of(target)))
    # LLVM may write several steps of the reduction one after the other.
    assert best.count(multiply) % (knobs["rows"] * parts) == 0
    assert best.count(multiply) >= knobs["rows"] * parts
    assert any(register in line for line in best.lines)
    assert not best.on_stack
    assert "gather" not in assembly


@pytest.mark.parametrize("name", TARGETS)
def test_tiles_take_nothing_from_the_pool_and_ask_for_the_next_weights(name: str) -> None:
    target = Target.parse(name)
    operands = [array(512, 64), array(64, 512)]
    assembly, _ = build(Gemm(512, 512, 64), operands, target)
    assert "AllocWorkspace" not in assembly
    best = max(loops(assembly), key=lambda loop: loop.count(TARGETS[name][1]))
    assert best.count("prefetch|prfm")
    workload = Window2d("depthwise", 1, 28, 28, 64, 28, 28, 3, 3, 1, 1, 1, 1, 1, 1)
    assembly, _ = build(workload, [array(1, 28, 28, 64), array(64, 3, 3, 1)], target)
    assert "AllocWorkspace" not in assembly


@pytest.mark.parametrize("name", TARGETS)
def test_products_of_two_operands_too(name: str) -> None:
    target = Target.parse(name)
    assembly, knobs = build(BatchMatmul(1, 48, 96, 64), [array(1, 48, 64), array(1, 64, 96)], target, False)
    best = max(loops(assembly), key=lambda loop: loop.count(TARGETS[name][1]))
    parts = len(pieces(min(knobs["width"], 96), lanes_of(target)))
    assert best.count(TARGETS[name][1]) % (knobs["rows"] * parts) == 0
    assert not best.on_stack


@pytest.mark.parametrize("name", TARGETS)
def test_convolution_reads_no_padding_and_spills_nothing(name: str) -> None:
    target = Target.parse(name)
    workload = Conv2d(1, 28, 28, 64, 28, 28, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1)
    assembly, knobs = build(workload, [array(1, 28, 28, 64), array(64, 3, 3, 64)], target)
    inner = [loop for loop in loops(assembly) if loop.count(TARGETS[name][1])]
    parts = len(pieces(knobs["width"], lanes_of(target)))
    heights = {size for _, size in split_evenly(28, knobs["rows"])}
    # Tiles at the border leave out the taps that lie outside.
    expected = {rows * parts for size in heights for rows in (size, size - 1)}
    assert inner
    for loop in inner:
        assert any(loop.count(TARGETS[name][1]) % count == 0 for count in expected)
        assert not loop.on_stack
    assert "gather" not in assembly


@pytest.mark.parametrize("name", TARGETS)
def test_depthwise_multiplies_whole_vectors(name: str) -> None:
    register, multiply = TARGETS[name]
    target = Target.parse(name)
    workload = Window2d("depthwise", 1, 28, 28, 64, 28, 28, 3, 3, 1, 1, 1, 1, 1, 1)
    assembly, _ = build(workload, [array(1, 28, 28, 64), array(64, 3, 3, 1)], target)
    used = [line.strip() for line in assembly.splitlines() if re.match(rf"\s*{multiply}\b", line)]
    assert used
    assert all(register in line for line in used)
    assert "gather" not in assembly


@pytest.mark.parametrize(("name", "multiply"), INTEGER_TARGETS.items())
def test_sparse_convolutions_of_integers_gather_nothing(name: str, multiply: str) -> None:
    """As many of the widest instruction a step as a dense tile has, and no call for memory."""
    target = Target.parse(name)
    arithmetic = integer_arithmetic(target, "int8")
    kinds = arithmetic_of(arithmetic)
    kept = np.repeat(np.random.default_rng(0).random((2, 3, 3, 64 // kinds.group)) < 0.2, 16, axis=0)
    weight = np.repeat(kept, kinds.group, axis=3).astype(kinds.weight)
    left = left_in_groups(weight.reshape(32, -1).T, kinds.group)
    workload = Conv2d(1, 16, 16, 64, 14, 14, 32, 3, 3, 1, 1, 1, 1, 0, 0, 1, arithmetic, left)
    found = select(workload, target)
    assert found is not None
    assert found[0].name == "conv2d.block_sparse_integers"
    image = np.ones((1, 16, 16, 64), kinds.data)
    assembly, knobs = build(workload, [image, weight], target)
    best = max(loops(assembly), key=lambda loop: loop.count(multiply))
    tile = knobs["rows"] * len(pieces(knobs["width"], lanes_of(target)))
    assert best.count(multiply) >= tile
    assert best.count(multiply) % tile == 0
    assert not best.on_stack
    assert "gather" not in assembly
    assert "AllocWorkspace" not in assembly


SPARSE = [
    # Tiles of rows by vectors of outputs, then of vectors of rows by single weights.
    (Gemm(64, 96, 64, stored="1:1232 8:154 16:77"), "gemm.block_sparse"),
    (Gemm(1, 96, 64, stored="1:1232 8:154 16:77"), "gemm.block_sparse"),
    (Gemm(64, 96, 64, stored="1:1228"), "gemm.unstructured"),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("workload", "taken"), SPARSE)
def test_sparse_products_gather_nothing(name: str, workload: Gemm, taken: str) -> None:
    """As many multiply-adds a step as a dense tile has, on whole vectors, and no call for its memory."""
    register, multiply = TARGETS[name]
    target = Target.parse(name)
    weight = example(workload.k, workload.n, workload.stored, np.random.default_rng(0))
    found = select(workload, target)
    assert found is not None
    assert found[0].name == taken
    assembly, knobs = build(workload, [array(workload.m, workload.k), weight], target)
    best = max(loops(assembly), key=lambda loop: loop.count(multiply))
    blocked = "width" in knobs
    parts = len(pieces(knobs["width" if blocked else "rows"], lanes_of(target)))
    rows = knobs["rows"] if blocked else 1
    assert best.count(multiply) >= rows * parts
    assert best.count(multiply) % (rows * parts) == 0
    assert any(register in line for line in best.lines)
    assert not best.on_stack
    assert "gather" not in assembly
    if blocked:
        assert "AllocWorkspace" not in assembly
