"""Direct convolution, NHWC, weights packed to (groups, co/width, kh, kw, ci, width).

No im2col and no padded copy: the rows of the kernel that lie outside the image are cut off by the
loop bounds, and the columns are resolved while the code is written, because a tile at the left or
right border is written out apart from those inside. A 1x1 convolution of stride 1 is a GEMM and is
lowered as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import te, tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import arithmetic_of, narrowest
from dlcomp.schedules.cpu.emit import Expr, Stmt, const, dynamic_loop, loop, seq
from dlcomp.schedules.cpu.tile import (
    Accumulators,
    by_block,
    bytes_a_cycle,
    call_rows,
    lanes_of,
    multiply_accumulate,
    split_evenly,
    tile_cycles,
    tile_shapes,
    write_rows,
)
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.template import Knobs, Template, annotations
from dlcomp.schedules.workload import Conv2d, Workload
from dlcomp.target import Target

# Below this many input channels the whole reduction over them is written out: a loop of three
# iterations costs as much as its body.
_UNROLLED_CHANNELS = 4


class DirectConv2d(Template):
    """Knobs: ``rows`` (output pixels of a tile), ``width`` (output channels of a tile), ``weights_outer``.

    Integers are packed to (groups, co/width, kh, kw, ci/group, width * group), as those of a product are.
    """

    name: ClassVar[str] = "conv2d.direct"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return isinstance(workload, Conv2d) and workload.ow > 0 and target.kind == "cpu"

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        assert isinstance(workload, Conv2d)
        return [
            {"rows": rows, "width": width, "weights_outer": outer}
            for rows, width in tile_shapes(target, workload.ow, workload.co, narrowest(workload.arithmetic))
            for outer in (0, 1)
        ]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        assert isinstance(workload, Conv2d)
        wl, width = workload, knobs["width"]
        blocks = wl.groups * -(-wl.co // width)
        # A step takes 32 bits of every row and of every column, whatever the arithmetic.
        words = wl.ci // arithmetic_of(wl.arithmetic).group
        steps = wl.kh * wl.kw * words
        panel = steps * width * 4
        weights, image = blocks * panel, wl.n * wl.h * wl.w * words * wl.groups * 4
        lines = wl.kh * wl.w * words * wl.groups * 4
        stream = width * 4 / bytes_a_cycle(panel, target)
        a_line = sum(
            max(tile_cycles(size, width, target), stream) * steps + 3 * size * (width / 8) + 20
            for _, size in split_evenly(wl.ow, knobs["rows"])
        )
        # Which operand is passed over again and again, and from where it comes then.
        if knobs["weights_outer"]:
            again = image * blocks / bytes_a_cycle(image, target)
        else:
            again = weights * wl.n * wl.oh / bytes_a_cycle(weights + lines, target)
        return wl.n * wl.oh * blocks * a_line + again

    def pack(self, workload: Workload, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
        """(groups*co, kh, kw, ci) to the packed form, zeros after the last channel."""
        assert isinstance(workload, Conv2d)
        wl, width, group = workload, knobs["width"], arithmetic_of(workload.arithmetic).group
        blocks, words = -(-wl.co // width), wl.ci // group
        grouped = weight.reshape(wl.groups, wl.co, wl.kh, wl.kw, wl.ci)
        padded = np.zeros((wl.groups, blocks * width, wl.kh, wl.kw, wl.ci), weight.dtype)
        padded[:, : wl.co] = grouped
        split = padded.reshape(wl.groups, blocks, width, wl.kh, wl.kw, words, group)
        packed = np.ascontiguousarray(split.transpose(0, 1, 3, 4, 5, 2, 6))
        return packed.reshape(wl.groups, blocks, wl.kh, wl.kw, words, width * group)

    def compute(self, workload: Workload, knobs: Knobs, *operands: Any) -> Any:
        assert isinstance(workload, Conv2d)
        wl, width, arithmetic = workload, knobs["width"], arithmetic_of(workload.arithmetic)
        data, packed = operands
        group = arithmetic.group
        ky, kx, ci = (te.reduce_axis((0, e), n) for e, n in ((wl.kh, "ky"), (wl.kw, "kx"), (wl.ci, "ci")))

        def at(n: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
            iy, ix = y * wl.sh + ky * wl.dh - wl.top, x * wl.sw + kx * wl.dw - wl.left
            g, o = (c // wl.co, c % wl.co) if wl.groups > 1 else (0, c)
            inside = te.all(iy >= 0, iy < wl.h, ix >= 0, ix < wl.w)
            pixel = tirx.if_then_else(inside, data[n, iy, ix, g * wl.ci + ci], tirx.const(0, data.dtype))
            weight = packed[g, o // width, ky, kx, ci // group, o % width * group + ci % group]
            return te.sum(arithmetic.product(pixel, weight), axis=[ky, kx, ci])

        shape = (wl.n, wl.oh, wl.ow, wl.co * wl.groups)
        return te.compute(shape, at, name="conv2d", attrs=annotations(self, workload, knobs))

    def schedule(self, anchor: Anchor, workload: Workload, knobs: Knobs, target: Target) -> Any:
        assert isinstance(workload, Conv2d)
        wl, width = workload, knobs["width"]
        blocks = -(-wl.co // width)
        lines = wl.n * wl.oh

        def task(index: Expr) -> Stmt:
            if knobs["weights_outer"]:
                return _line(anchor, wl, knobs, lanes_of(target), index // lines, index % lines)
            return _line(
                anchor,
                wl,
                knobs,
                lanes_of(target),
                index % (wl.groups * blocks),
                index // (wl.groups * blocks),
            )

        tasks = wl.groups * blocks * lines
        kind = parallel_kind(wl.flops, target)
        return anchor.schedule_of(loop("task", tasks, task, kind))


def _line(anchor: Anchor, wl: Conv2d, knobs: Knobs, lanes: int, block: Expr, line: Expr) -> Stmt:
    """One row of output pixels, one block of output channels."""
    width, arithmetic = knobs["width"], arithmetic_of(wl.arithmetic)
    words = wl.ci // arithmetic.group
    blocks = -(-wl.co // width)
    data, packed = anchor.inputs
    n, oy = line // wl.oh, line % wl.oh
    group, column = block // blocks, block % blocks

    def inside(start: int, size: int) -> bool:
        return start * wl.sw >= wl.left and (start + size - 1) * wl.sw + (wl.kw - 1) * wl.dw - wl.left < wl.w

    def tile(start: Expr, size: int, fixed: int | None) -> Stmt:
        acc = Accumulators(size, width, arithmetic.sums)

        def taps(ky: Expr) -> Stmt:
            if fixed is None and wl.dw == 1 and wl.groups == 1:
                return _whole_row(ky)
            statements = []
            for kx in range(wl.kw):
                rows = [
                    r
                    for r in range(size)
                    if fixed is None or 0 <= (fixed + r) * wl.sw + kx * wl.dw - wl.left < wl.w
                ]
                if rows:
                    statements.append(_channels(ky, kx, rows))
            return seq(statements) if statements else tirx.Evaluate(const(0))

        def _whole_row(ky: Expr) -> Stmt:
            """One loop over the taps and channels of a kernel row, which lie one after the other.

            Written out they would read most pixels twice, and LLVM would keep those in registers that
            the tile needs.
            """

            return loop("j", wl.kw * words, lambda j: _step(ky, j // words, j % words, range(size)))

        def _channels(ky: Expr, kx: int, rows: list[int]) -> Stmt:
            def step(ci: Expr) -> Stmt:
                return _step(ky, const(kx), ci, rows)

            if words <= _UNROLLED_CHANNELS:
                return seq([step(const(c)) for c in range(words)])
            return loop("ci", words, step)

        def _step(ky: Expr, kx: Expr, ci: Expr, rows: Iterable[int]) -> Stmt:
            def weight(offset: int, size: int) -> Expr:
                return arithmetic.vector(packed, [group, column, ky, kx, ci, const(offset)], size)

            def pixel(r: int) -> Expr:
                iy = oy * wl.sh + ky * wl.dh - wl.top
                ix = (start + r) * wl.sw + kx * wl.dw - wl.left
                return arithmetic.scalar(data, [n, iy, ix, group * words + ci])

            return multiply_accumulate(acc, rows, lanes, weight, pixel, arithmetic)

        def store(channels: int) -> Stmt:
            first = group * wl.co + column * width
            return write_rows(anchor, acc, channels, lanes, lambda r: [n, oy, start + r], first)

        stores = by_block(column, wl.co, width, store)
        zero = acc.clear(lanes, arithmetic.zero)
        return seq([acc.alloc(), zero, _kernel_rows(wl, oy, taps), stores])

    return call_rows(split_evenly(wl.ow, knobs["rows"]), lambda s, z: not inside(s, z), tile)


def _kernel_rows(wl: Conv2d, oy: Expr, body: Any) -> Stmt:
    """The kernel rows that lie inside the image for output row ``oy``."""
    bottom = (wl.oh - 1) * wl.sh + (wl.kh - 1) * wl.dh - wl.top
    if wl.top <= 0 and bottom < wl.h:
        return loop("ky", wl.kh, body)
    above = wl.top - oy * wl.sh
    first = tirx.max(const(0), (above + (wl.dh - 1)) // wl.dh)
    last = tirx.min(const(wl.kh), (wl.h + above + (wl.dh - 1)) // wl.dh)
    return dynamic_loop("ky", first, tirx.max(const(0), last - first), body)
