"""A slow scalar interpreter of VTA programs, written from the specification: the reference of the tests.

It shares no code with dlcomp.vta: it cuts fields out of the words by its own table and computes with Python
integers, one lane at a time, in program order (right for programs whose tokens order every dependence).
"""

from __future__ import annotations

from typing import Any


def take(word: int, widths: list[int]) -> list[int]:
    """Fields of ``widths`` bits from bit 0 up."""
    out = []
    for width in widths:
        out.append(word & ((1 << width) - 1))
        word >>= width
    return out


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class Interpreter:
    """``keys`` are the LOG_* keys of the configuration, ``dram`` is the memory image, changed in place."""

    def __init__(self, keys: dict[str, Any], dram: bytearray) -> None:
        self.batch, self.block = 1 << keys["LOG_BATCH"], 1 << keys["LOG_BLOCK"]
        vector = keys["LOG_BATCH"] + keys["LOG_BLOCK"]
        self.u = keys["LOG_UOP_BUFF_SIZE"] - 2
        self.i = keys["LOG_INP_BUFF_SIZE"] - vector
        self.w = keys["LOG_WGT_BUFF_SIZE"] - 2 * keys["LOG_BLOCK"]
        self.a = keys["LOG_ACC_BUFF_SIZE"] - vector - 2
        self.pad_bit = "pad_min" in keys.get("FEATURES", ())
        self.dram = dram
        lanes = self.batch * self.block
        self.uop = [0] * (1 << self.u)
        self.inp = [[0] * lanes for _ in range(1 << self.i)]
        self.wgt = [[0] * self.block**2 for _ in range(1 << self.w)]
        self.acc = [[0] * lanes for _ in range(1 << self.a)]
        self.out = [[0] * lanes for _ in range(1 << self.a)]

    def run(self, words: list[tuple[int, int]]) -> None:
        for low, high in words:
            opcode = low & 7
            if opcode in (0, 1):
                self.transfer(opcode, low >> 7, high)
            elif opcode in (2, 4):
                self.loops(opcode, low >> 7, high)

    def transfer(self, opcode: int, low: int, high: int) -> None:
        memory, sram, base, least = take(low, [3, 16, 32, 1])
        y_size, x_size, stride, top, bottom, left, right = take(high, [16, 16, 16, 4, 4, 4, 4])
        if x_size == 0:
            return
        lanes = self.batch * self.block
        if opcode == 1:
            for y in range(y_size):
                for x in range(x_size):
                    at = (base + y * stride + x) * lanes
                    values = self.out[sram + y * x_size + x]
                    self.dram[at : at + lanes] = bytes(value & 255 for value in values)
            return
        pad, size, width, count = {
            0: (self.uop, 4, 4, 1),
            1: (self.wgt, self.block**2, 1, self.block**2),
            2: (self.inp, lanes, 1, lanes),
            3: (self.acc, 4 * lanes, 4, lanes),
            5: (self.acc, lanes, 1, lanes),
        }[memory]
        for y in range(-top, y_size + bottom):
            for x in range(-left, x_size + right):
                values = [-(1 << (31 if memory == 3 else 7)) * (least and self.pad_bit)] * count
                if 0 <= y < y_size and 0 <= x < x_size:
                    at = (base + y * stride + x) * size
                    raw = self.dram[at : at + size]
                    values = [
                        int.from_bytes(raw[k : k + width], "little", signed=memory != 0)
                        for k in range(0, size, width)
                    ]
                pad[sram] = values[0] if memory == 0 else values
                sram += 1

    def loops(self, opcode: int, low: int, high: int) -> None:
        reset, begin, end, outer, inner = take(low, [1, self.u, self.u + 1, 14, 14])
        a, i, w = self.a, self.i, self.w
        if opcode == 2:
            d_o, d_i, s_o, s_i, w_o, w_i = take(high, [a, a, i, i, w, w])
        else:
            d_o, d_i, s_o, s_i, op, use_imm, imm = take(high, [a, a, a, a, 3, 1, 16])
        for o in range(outer):
            for n in range(inner):
                for uop in self.uop[begin:end]:
                    dst, src, wgt = take(uop, [a, max(a, i), w])
                    dst += o * d_o + n * d_i
                    src += o * s_o + n * s_i
                    if opcode == 2:
                        self.gemm(dst, src, wgt + o * w_o + n * w_i, reset)
                    else:
                        right = [signed(imm, 16)] * len(self.acc[0]) if use_imm else list(self.acc[src])
                        self.alu(dst, right, op)

    def gemm(self, dst: int, src: int, wgt: int, reset: int) -> None:
        block = self.block
        for b in range(self.batch):
            for o in range(block):
                at = b * block + o
                if reset:
                    self.acc[dst][at] = 0
                    continue
                total = self.acc[dst][at]
                for k in range(block):
                    total += self.inp[src][b * block + k] * self.wgt[wgt][o * block + k]
                self.acc[dst][at] = signed(total, 32)
        if not reset:
            self.out[dst] = [signed(value, 8) for value in self.acc[dst]]

    def alu(self, dst: int, right: list[int], op: int) -> None:
        def one(x: int, y: int) -> int:
            if op == 3:
                return x >> y if y >= 0 else x << -y
            return {0: min(x, y), 1: max(x, y), 2: x + y, 4: x * y, 5: min(max(x, -y), y), 6: y}[op]

        self.acc[dst] = [signed(one(x, y), 32) for x, y in zip(self.acc[dst], right, strict=True)]
        self.out[dst] = [signed(value, 8) for value in self.acc[dst]]
