"""A candidate as a file: its object code, the operands as it reads them, and what it must compute.

The runner that measures needs nothing else, so it starts without the compiler in a third of a second,
and a candidate that crashes it costs no more than that.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dlcomp.schedules import schedule, templates
from dlcomp.schedules.workload import BatchMatmul, Conv2d, Gemm, Window2d, Workload, from_text
from dlcomp.target import Target
from dlcomp.tune.reference import expected, operands
from dlcomp.tune.samples import is_open, samples


class Invalid(Exception):
    """The template refused its own setting."""


def build(workload: str, template: str, knobs: dict[str, int], target: Target, path: str) -> None:
    """Write ``path``.o and ``path``.npz, and beside them the reference of the workload.

    Raises
    ------
    Invalid
        There is no such template, it does not take the workload, or left it to the default schedule.
    """
    import tvm
    from tvm import te

    from dlcomp.codegen.link import objects_of

    wanted = from_text(workload)
    chosen = next((t for t in templates() if t.name == template), None)
    if chosen is None or not chosen.accepts(wanted, target):
        raise Invalid(f"{template} does not take this workload")
    cases = [operands(sample) for sample in samples(wanted)]
    given, constant = cases[0]
    data, weights = [others for others, _ in cases], list[Any]()
    if constant:
        # All samples read the weights of the first.
        data = [others[:1] for others in data]
        for operand in given[1:]:
            packed: Any = chosen.pack(wanted, knobs, operand)
            weights += packed if isinstance(packed, tuple) else [packed]
    tensors = [*_placeholders(wanted, data[0]), *(te.placeholder(w.shape, str(w.dtype)) for w in weights)]
    result = chosen.compute(wanted, knobs, *tensors, **_result_shape(wanted, tensors))
    function = te.create_prim_func([*tensors, result])
    scheduled = schedule(function, target)
    if not scheduled.label.startswith(template):
        raise Invalid(f"the template's schedule was not used, but {scheduled.label}")
    module = scheduled.schedule.mod
    named = tvm.IRModule({"kernel": module["main"].with_attr("global_symbol", "kernel")})
    with tvm.transform.PassContext(opt_level=3):
        objects = objects_of(tvm.compile(named, target=target.to_tvm()), target)
    reference = reference_path(path, workload)
    if not reference.exists():
        kind = np.dtype(np.int32 if np.issubdtype(given[0].dtype, np.integer) else np.float32)
        if isinstance(wanted, Window2d) and wanted.kind == "max":
            kind = given[0].dtype
        results = [
            expected(sample, [*row, *given[len(row) :]]).astype(kind)
            for sample, row in zip(samples(wanted), data, strict=True)
        ]
        _write(reference, **{f"result{case}": result for case, result in enumerate(results)})
    arrays = {f"a{index}.{case}": value for case, row in enumerate(data) for index, value in enumerate(row)}
    _write(Path(f"{path}.npz"), **arrays, **{f"w{index}": value for index, value in enumerate(weights)})
    for index, content in enumerate(objects.values()):
        Path(f"{path}.{index}.o").write_bytes(content)


def _placeholders(workload: Workload, values: list[np.ndarray]) -> list[Any]:
    """Tensors for data operands; every open size is a variable of its own."""
    from tvm import te, tirx

    if not is_open(workload):
        return [te.placeholder(value.shape, str(value.dtype)) for value in values]

    def shape(*sizes: Any) -> list[Any]:
        return [size or tirx.Var("size", "int64") for size in sizes]

    wl: Any = workload
    if isinstance(wl, Gemm):
        shapes = [shape(0, wl.k)]
    elif isinstance(wl, BatchMatmul):
        batch, k = shape(wl.batch, wl.k)
        shapes = [[batch, *shape(wl.m), k], [batch, k, *shape(wl.n)]]
    else:
        shapes = [shape(0, 0, 0, wl.ci * wl.groups if isinstance(wl, Conv2d) else wl.c)]
    return [te.placeholder(dims, str(value.dtype)) for dims, value in zip(shapes, values, strict=True)]


def _result_shape(workload: Workload, tensors: list[Any]) -> dict[str, Any]:
    """What an open template is told besides its operands: the shape of the result."""
    if not is_open(workload) or isinstance(workload, Gemm):
        return {}
    data, wl = tensors[0].shape, workload
    if isinstance(wl, BatchMatmul):
        return {"shape": (*data[:-1], tensors[1].shape[-1])}
    assert isinstance(wl, Conv2d | Window2d)
    height = (data[1] - (wl.kh - 1) * wl.dh - 1) // wl.sh + 1
    width = (data[2] - (wl.kw - 1) * wl.dw - 1) // wl.sw + 1
    return {"shape": (data[0], height, width, wl.co * wl.groups if isinstance(wl, Conv2d) else wl.c)}


def reference_path(path: str, workload: str) -> Path:
    """Where the result of ``workload`` lies, beside ``path``."""
    return Path(path).parent / f"reference-{zlib.crc32(workload.encode()):08x}.npz"


def _write(path: Path, **arrays: np.ndarray) -> None:
    """Whole or not at all: several builders may write the same reference."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)
