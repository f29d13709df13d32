"""The code for a block of channels of a depthwise convolution of integers: copied, woven, multiplied."""

from __future__ import annotations

from tvm import tirx

from dlcomp.schedules.anchor import Anchor
from dlcomp.schedules.cpu.arithmetic import Arithmetic, arithmetic_of
from dlcomp.schedules.cpu.emit import Expr, Stmt, alloc, const, loop, scratch, seq, splat, vload, vstore
from dlcomp.schedules.cpu.interleave import exchanged, word_lanes, woven
from dlcomp.schedules.cpu.tile import Accumulators, call_rows, lanes_of, split_evenly, write_rows
from dlcomp.schedules.workload import Window2d
from dlcomp.target import Target

# Fewer channels than this are multiplied one by one.
NARROWEST = 4


def item_bytes(kinds: Arithmetic) -> int:
    """Bytes of a copied element."""
    return 1 if kinds.group == 4 else 2


def lanes_of_sums(kinds: Arithmetic, width: int, most: int) -> int:
    """Channels of a vector of sums, for blocks of ``width``."""
    if width < NARROWEST or kinds.group == 1:
        return min(most, width)
    return word_lanes(width, item_bytes(kinds))


def span_of(wl: Window2d) -> int:
    """Rows of the image from the first to the last that an output needs."""
    return (wl.kh - 1) * wl.dh + 1


def columns_of(wl: Window2d, outputs: int | None = None) -> int:
    """Columns of the padded image that a line needs, or so many neighbouring outputs of it."""
    return ((outputs or wl.ow) - 1) * wl.sw + (wl.kw - 1) * wl.dw + 1


class Block:
    """The code for ``width`` channels from ``channel`` of image ``n``.

    ``ring`` holds the last rows of the image that were copied, row ``p`` of the padded image in its row
    ``p % span``; ``words`` what is woven of them for a run of outputs.
    """

    def __init__(
        self,
        anchor: Anchor,
        wl: Window2d,
        rows: int,
        width: int,
        target: Target,
        n: Expr,
        channel: Expr,
    ) -> None:
        self.anchor, self.wl, self.rows, self.width = anchor, wl, rows, width
        self.n, self.channel = n, channel
        self.kinds = arithmetic_of(wl.arithmetic)
        self.kind = "uint8" if self.kinds.group == 4 else "int16"
        self.weaves = self.kinds.group > 1 and width >= NARROWEST
        self.lanes = lanes_of_sums(self.kinds, width, lanes_of(target))
        self.parts = width // self.lanes
        self.groups = -(-wl.kh // self.kinds.group)
        self.ring = scratch("ring", (span_of(wl), columns_of(wl), width), self.kind)
        # Half of the first cache for the words of a run of outputs.
        a_column = self.groups * width * 4
        most = max(rows, target.l1_bytes // 2 // (a_column * wl.sw)) if self.weaves else wl.ow
        self.runs = split_evenly(wl.ow, min(most, wl.ow))
        columns = columns_of(wl, self.runs[0][1])
        shape = (self.groups, self.parts, columns, self.lanes * self.kinds.group)
        self.words = scratch("words", shape, self.kind)

    def begin(self, first: Expr) -> list[Stmt]:
        """Memory, its padding, and the rows above those that line ``first`` is the first to need."""
        statements = [alloc(self.ring)]
        if self.weaves:
            statements.append(alloc(self.words))
        begin, count = self._inside()
        sides = [(0, begin), (begin + count, columns_of(self.wl) - begin - count)]
        for start, size in sides:
            if size:
                statements.append(
                    loop("row", span_of(self.wl), lambda r, a=start, z=size: self._fill(r, a, z))
                )
        above = span_of(self.wl) - self._new()
        if above:
            statements.append(loop("row", above, lambda r: self._copy(first * self.wl.sh + r)))
        return statements

    def line(self, oy: Expr) -> Stmt:
        """One line of output pixels, the rows copied that no line before it needs."""
        top, new = oy * self.wl.sh + span_of(self.wl) - self._new(), self._new()
        copies = loop("row", new, lambda r: self._copy(top + r))
        return seq([copies, call_rows(self.runs, lambda s, z: False, lambda s, z, _: self._run(oy, s, z))])

    def _new(self) -> int:
        return min(span_of(self.wl), self.wl.sh)

    def _inside(self) -> tuple[int, int]:
        """The first of the ring's columns that is one of the image, and how many are."""
        columns = columns_of(self.wl)
        first = min(self.wl.left, columns)
        return first, max(0, min(columns - first, self.wl.w))

    def _fill(self, slot: Expr, first: int, count: int) -> Stmt:
        padding = splat(tirx.const(self.wl.filling, self.kind), self.width)

        def one(column: Expr) -> Stmt:
            return vstore(self.ring, padding, [slot, column + first, const(0)], self.width)

        return loop("column", count, one)

    def _copy(self, p: Expr) -> Stmt:
        """Row ``p`` of the padded image into the ring."""
        wl, (begin, count) = self.wl, self._inside()
        slot = tirx.Var("slot", "int64")

        def move(column: Expr) -> Stmt:
            pixel = vload(self.anchor.inputs[0], [self.n, p - wl.top, column, self.channel], self.width)
            if self.kind != "uint8":
                pixel = tirx.Cast(_vector(self.kind, self.width), pixel)
            if self.weaves:
                pixel = exchanged(pixel, self.width, item_bytes(self.kinds))
            return vstore(self.ring, pixel, [slot, column + begin, const(0)], self.width)

        if not count:
            return tirx.Evaluate(const(0))
        inside = tirx.all(p >= wl.top, p < wl.top + wl.h)
        copied = tirx.IfThenElse(inside, loop("column", count, move), self._fill(slot, begin, count))
        return seq([tirx.Bind(slot, p % span_of(wl)), copied])

    def _run(self, oy: Expr, start: Expr, size: int) -> Stmt:
        """``size`` outputs of a line."""

        def part(number: Expr) -> Stmt:
            return call_rows(
                split_evenly(size, self.rows),
                lambda s, z: False,
                lambda s, z, _: self._tile(oy, number, start, s, z),
            )

        parts = loop("part", self.parts, part)
        return seq([*self._weave(oy, start, size), parts]) if self.weaves else parts

    def _slot(self, oy: Expr, ky: Expr | int) -> Expr:
        return (oy * self.wl.sh + ky * self.wl.dh) % span_of(self.wl)

    def _weave(self, oy: Expr, start: Expr, size: int) -> list[Stmt]:
        """The words of every column that ``size`` outputs from ``start`` read."""
        statements: list[Stmt] = []
        for group in range(self.groups):
            slots = [tirx.Var("slot", "int64") for _ in range(self.kinds.group)]
            rows = range(group * self.kinds.group, min(self.wl.kh, (group + 1) * self.kinds.group))
            read = slots[: len(rows)]
            statements += [tirx.Bind(slots[i], self._slot(oy, ky)) for i, ky in enumerate(rows)]

            def column(c: Expr, group: int = group, slots: list[Expr] = read) -> Stmt:
                place = start * self.wl.sw + c
                held = [vload(self.ring, [slot, place, const(0)], self.width) for slot in slots]
                nothing = splat(tirx.const(0, self.kind), self.width)
                held += [nothing] * (self.kinds.group - len(held))
                found = woven(held, self.width, item_bytes(self.kinds))
                lanes = self.lanes * self.kinds.group
                return seq(
                    [
                        vstore(self.words, words, [const(group), const(part), c, const(0)], lanes)
                        for part, words in enumerate(found)
                    ]
                )

            statements.append(loop("column", columns_of(self.wl, size), column))
        return statements

    def _tile(self, oy: Expr, part: Expr, run: Expr, start: Expr, size: int) -> Stmt:
        """``size`` outputs from ``start`` of a run, one vector of channels."""
        wl, lanes = self.wl, self.lanes
        acc = Accumulators(size, lanes, self.kinds.sums)
        channel = self.channel + part * lanes
        readers: dict[int, list[tuple[int, int]]] = {}
        for row in range(size):
            for kx in range(wl.kw):
                readers.setdefault(row * wl.sw + kx * wl.dw, []).append((row, kx))

        def taps(group: Expr) -> Stmt:
            weights = [tirx.Var("w", self._weight_type()) for _ in range(wl.kw)]
            statements: list[Stmt] = [
                tirx.Bind(w, self._weight(group, kx, channel)) for kx, w in enumerate(weights)
            ]
            for column, found in sorted(readers.items()):
                pixel = tirx.Var("x", self._pixel_type())
                place = start * wl.sw + column
                statements.append(tirx.Bind(pixel, self._pixel(oy, group, part, run, place)))
                for row, kx in found:
                    total = self._add(acc.load(row, 0, lanes), pixel, weights[kx])
                    statements.append(acc.store(row, total, 0, lanes))
            return seq(statements)

        body = loop("group", self.groups if self.weaves else wl.kh, taps)
        stores = write_rows(self.anchor, acc, lanes, lanes, lambda r: [self.n, oy, run + start + r], channel)
        return seq([acc.alloc(), acc.clear(lanes, self.kinds.zero), body, stores])

    def _weight_type(self) -> str:
        return _vector(self.kinds.weight, self.lanes * self.kinds.group) if self.weaves else self._sums_type()

    def _pixel_type(self) -> str:
        return _vector(self.kind, self.lanes * self.kinds.group) if self.weaves else self._sums_type()

    def _sums_type(self) -> str:
        return _vector(self.kinds.sums, self.lanes)

    def _weight(self, group: Expr, kx: int, channel: Expr) -> Expr:
        """One weight a channel, or words of some; ``group`` counts rows of the window, or groups of them."""
        packed, size = self.anchor.inputs[1], self.kinds.group
        if self.weaves:
            return vload(packed, [group, const(kx), channel * size], self.lanes * size)
        place = [group // size, const(kx), channel * size + group % size]
        return tirx.Cast(self._sums_type(), vload(packed, place, self.lanes))

    def _pixel(self, oy: Expr, group: Expr, part: Expr, run: Expr, column: Expr) -> Expr:
        if self.weaves:
            return vload(self.words, [group, part, column, const(0)], self.lanes * self.kinds.group)
        place = [self._slot(oy, group), run * self.wl.sw + column, part * self.lanes]
        return tirx.Cast(self._sums_type(), vload(self.ring, place, self.lanes))

    def _add(self, total: Expr, pixel: Expr, weight: Expr) -> Expr:
        if self.weaves:
            return self.kinds.dot(total, pixel, weight, self.lanes)
        return total + pixel * weight


def _vector(kind: str, lanes: int) -> str:
    return kind if lanes == 1 else f"{kind}x{lanes}"
