"""Kernels for ARM run on an emulated processor: the NEON code computes what NumPy computes."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from kernels import convolved, prepared

from dlcomp.schedules import select
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, integer_arithmetic
from dlcomp.schedules.sparsity import left_in_groups
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload
from dlcomp.target import Target

CC, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"
MISSING = [tool for tool in (CC, QEMU) if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)} on the PATH")
# The second has products of four 8-bit numbers.
TARGETS = ("aarch64-linux-gnu:cortex-a72", "aarch64-linux-gnu:neoverse-n1")
# Of dtypes in DLPack.
_CODES = {"i": 0, "u": 1, "f": 2}


@functools.cache
def driver(folder: Path) -> Path:
    """The object file of the program that calls a kernel."""
    made = folder / "run_kernel.o"
    source = Path(__file__).with_name("run_kernel.c")
    include = [tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()]
    flags = [f"-I{path}" for path in include]
    subprocess.run([CC, "-O1", "-c", str(source), *flags, "-o", str(made)], check=True)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


def emulated(
    folder: Path, module: Any, target: Target, operands: Sequence[np.ndarray], unset: np.ndarray
) -> np.ndarray:
    """What the kernel makes of ``unset`` on the emulated processor."""
    tvm.tirx.build(module, target=target.to_tvm()).write_to_file(str(folder / "kernel.o"))
    command = [CC, "-static", str(driver(folder)), str(folder / "kernel.o"), "-lm", "-o", str(folder / "run")]
    subprocess.run(command, check=True)
    arguments = []
    for number, value in enumerate((*operands, unset)):
        path = folder / f"{number}.bin"
        np.ascontiguousarray(value).tofile(path)
        dims = "x".join(map(str, value.shape))
        arguments.append(f"{_CODES[value.dtype.kind]}:{8 * value.dtype.itemsize}:{dims}:{path}")
    subprocess.run([QEMU, "-cpu", "max", str(folder / "run"), *arguments], check=True, timeout=300)
    return np.fromfile(path, unset.dtype).reshape(unset.shape)


WORKLOADS: dict[str, tuple[Workload, list[tuple[int, ...]]]] = {
    "product": (Gemm(37, 45, 61), [(37, 61), (61, 45)]),
    "product of one row": (Gemm(1, 100, 77), [(1, 77), (77, 100)]),
    "product, parallel": (Gemm(128, 128, 256), [(128, 256), (256, 128)]),
    "batched product": (BatchMatmul(2, 19, 23, 31), [(2, 19, 31), (2, 31, 23)]),
    "convolution 3x3": (
        Conv2d(1, 9, 11, 5, 9, 11, 13, 3, 3, 1, 1, 1, 1, 1, 1, 1),
        [(1, 9, 11, 5), (13, 3, 3, 5)],
    ),
    "convolution, strided": (
        Conv2d(1, 17, 15, 8, 9, 8, 24, 3, 3, 2, 2, 1, 1, 1, 1, 1),
        [(1, 17, 15, 8), (24, 3, 3, 8)],
    ),
    "Winograd": (
        Conv2d(1, 28, 28, 64, 28, 28, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1),
        [(1, 28, 28, 64), (64, 3, 3, 64)],
    ),
    "first layer": (
        Conv2d(1, 32, 32, 3, 16, 16, 16, 3, 3, 2, 2, 1, 1, 1, 1, 1),
        [(1, 32, 32, 3), (16, 3, 3, 3)],
    ),
    "depthwise 5x5": (
        Window2d("depthwise", 1, 14, 13, 21, 14, 13, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2),
        [(1, 14, 13, 21), (21, 5, 5, 1)],
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_float32_kernels(folder: Path, name: str, target: str) -> None:
    workload, shapes = WORKLOADS[name]
    resolved = Target.parse(target)
    chosen, knobs = select(workload, resolved)
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    constant = not isinstance(workload, BatchMatmul)
    module, given = prepared(chosen.name, workload, knobs, operands, resolved, constant)
    if isinstance(workload, Conv2d | Window2d):
        wanted = convolved(*operands, workload)
    else:
        wanted = operands[0].astype(np.float64) @ operands[1]
    unset = np.full(wanted.shape, np.nan, np.float32)
    found = emulated(folder, module, resolved, given, unset)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(5, 20, 24), (37, 45, 260)])
def test_products_of_8_bit_extremes_are_exact(folder: Path, shape: tuple[int, int, int], target: str) -> None:
    resolved = Target.parse(target)
    name = integer_arithmetic(resolved, "int8")
    kinds = arithmetic_of(name)
    m, n, k = shape
    rng = np.random.default_rng(0)
    low, high = (0, 255) if kinds.data == "uint8" else (-128, 127)
    a = rng.choice([low, high, 1], (m, k)).astype(kinds.data)
    b = rng.choice([-128, 127, -1], (k, n)).astype(kinds.weight)
    workload = Gemm(m, n, k, name)
    chosen, knobs = select(workload, resolved)
    module, given = prepared(chosen.name, workload, knobs, [a, b], resolved)
    found = emulated(folder, module, resolved, given, np.full((m, n), -7, np.int32))
    np.testing.assert_array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("density", [0.0, 0.2])
def test_sparse_convolutions_of_8_bit_extremes_are_exact(folder: Path, density: float, target: str) -> None:
    resolved = Target.parse(target)
    name = integer_arithmetic(resolved, "int8")
    kinds = arithmetic_of(name)
    rng = np.random.default_rng(0)
    low = 0 if kinds.data == "uint8" else -128
    x = rng.choice([low, 255, 1], (1, 9, 11, 20)).astype(kinds.data)
    kept = np.repeat(rng.random((3, 3, 3, 20)) < density, 16, axis=0)[:40]
    w = (rng.choice([-128, 127, -1], (40, 3, 3, 20)) * kept).astype(kinds.weight)
    left = left_in_groups(w.reshape(40, -1).T, kinds.group)
    workload = Conv2d(1, 9, 11, 20, 4, 5, 40, 3, 3, 2, 2, 1, 1, 0, 0, 1, name, left)
    chosen, knobs = select(workload, resolved)
    assert chosen.name == "conv2d.block_sparse_integers"
    module, given = prepared(chosen.name, workload, knobs, [x, w], resolved)
    found = emulated(folder, module, resolved, given, np.full((1, 4, 5, 40), -7, np.int32))
    np.testing.assert_array_equal(found, convolved(x.astype(np.float64), w.astype(np.float64), workload))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channels", [5, 40])
def test_depthwise_sums_of_8_bit_extremes_are_exact(folder: Path, channels: int, target: str) -> None:
    resolved = Target.parse(target)
    name = integer_arithmetic(resolved, "int8")
    workload = Window2d("depthwise", 1, 9, 11, channels, 9, 11, 3, 5, 1, 1, 1, 1, 1, 2, 1, 2, name, 255)
    rng = np.random.default_rng(0)
    x = rng.choice([0, 255, 1], (1, 9, 11, channels)).astype(np.uint8)
    w = rng.choice([-128, 127, -1], (channels, 3, 5, 1)).astype(arithmetic_of(name).weight)
    chosen, knobs = select(workload, resolved)
    module, given = prepared(chosen.name, workload, knobs, [x, w], resolved)
    found = emulated(folder, module, resolved, given, np.full((1, 9, 11, channels), -7, np.int32))
    padded = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (2, 2), (0, 0)), constant_values=255)
    taps = [(ky, kx) for ky in range(3) for kx in range(5)]
    wanted = sum(padded[:, ky : ky + 9, kx : kx + 11] * w[:, ky, kx, 0].astype(np.int64) for ky, kx in taps)
    np.testing.assert_array_equal(found, wanted)
