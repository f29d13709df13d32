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
from dlcomp.schedules.workload import Window2d, from_text
from dlcomp.target import Target
from dlcomp.tune.reference import expected, operands


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
    given, constant = operands(wanted)
    feed = [given[0]]
    for operand in given[1:]:
        packed: Any = chosen.pack(wanted, knobs, operand) if constant else operand
        feed += packed if isinstance(packed, tuple) else [packed]
    tensors = [te.placeholder(value.shape, str(value.dtype)) for value in feed]
    function = te.create_prim_func([*tensors, chosen.compute(wanted, knobs, *tensors)])
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
        _write(reference, result=expected(wanted, given).astype(kind))
    names = ["a0", *(f"{'w' if constant else 'a'}{index}" for index in range(1, len(feed)))]
    _write(Path(f"{path}.npz"), **dict(zip(names, feed, strict=True)))
    for index, content in enumerate(objects.values()):
        Path(f"{path}.{index}.o").write_bytes(content)


def reference_path(path: str, workload: str) -> Path:
    """Where the result of ``workload`` lies, beside ``path``."""
    return Path(path).parent / f"reference-{zlib.crc32(workload.encode()):08x}.npz"


def _write(path: Path, **arrays: np.ndarray) -> None:
    """Whole or not at all: several builders may write the same reference."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)
