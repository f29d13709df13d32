"""A VTA configuration: sizes as powers of two, what follows from them, and whether they can be encoded.

The keys are those of the original ``vta_config.json`` (``LOG_*`` is a base-2 logarithm, ``*_WIDTH`` in bits,
``*_BUFF_SIZE`` in bytes). Every instruction is two 64-bit words whose field widths follow the depths of the
scratchpads, so not every configuration has an encoding; :meth:`VtaConfig.of` says which field overflows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlcomp.errors import UsageError

ISA_VERSION = "0.0.2"
FEATURES = ("acc_8bit", "alu_clp", "alu_mov", "alu_mul", "pad_min")
_WORD = 64
_REQUIRED = (
    "LOG_INP_WIDTH",
    "LOG_WGT_WIDTH",
    "LOG_ACC_WIDTH",
    "LOG_BATCH",
    "LOG_BLOCK",
    "LOG_UOP_BUFF_SIZE",
    "LOG_INP_BUFF_SIZE",
    "LOG_WGT_BUFF_SIZE",
    "LOG_ACC_BUFF_SIZE",
)
# Clock in MHz, width of the memory bus in bits, triple of the host processor.
_BOARDS = {
    "pynq": (100, 64, "armv7a-linux-gnueabihf"),
    "ultra96": (333, 128, "aarch64-linux-gnu"),
    "zcu104": (333, 128, "aarch64-linux-gnu"),
    "de10nano": (100, 64, "armv7a-linux-gnueabihf"),
    "sim": (100, 64, ""),
    "tsim": (100, 64, ""),
    "intelfocl": (100, 64, ""),
}
_OPTIONAL = ("TARGET", "HW_VER", "FEATURES", "CLOCK_MHZ", "BUS_BITS", "HOST_TRIPLE", "HAZARD_DISTANCE")
# What the original tool derived and some files still carry; accepted where it agrees.
_DERIVED = ("LOG_BLOCK_IN", "LOG_BLOCK_OUT", "LOG_OUT_WIDTH", "LOG_OUT_BUFF_SIZE")


@dataclass(frozen=True)
class VtaConfig:
    """A validated configuration; build it with :meth:`of`.

    Attributes
    ----------
    target : str
        Board or simulator that the description is for.
    batch, block : int
        GEMM intrinsic: ``(batch, block) x (block, block)^T`` accumulates into ``(batch, block)``.
    uop_bytes, inp_bytes, wgt_bytes, acc_bytes : int
        Sizes of the scratchpads in bytes.
    features : tuple of str
        Extensions of the instruction set (:data:`FEATURES`), sorted.
    clock_mhz, bus_bits : int
        Clock and width of the shared memory bus.
    host_triple : str
        Triple of the processor beside the accelerator; empty for the machine at hand.
    hazard_distance : int
        Accumulations that must lie between two into the same register-file element, 0 for no limit.
    """

    target: str
    log_batch: int
    log_block: int
    log_uop_bytes: int
    log_inp_bytes: int
    log_wgt_bytes: int
    log_acc_bytes: int
    features: tuple[str, ...] = ()
    clock_mhz: int = 100
    bus_bits: int = 64
    host_triple: str = ""
    hazard_distance: int = 0

    @staticmethod
    def of(keys: Mapping[str, Any], *, where: str | None = None) -> VtaConfig:
        """Read the original's keys; every violated rule is named in one UsageError.

        Parameters
        ----------
        keys : mapping
            ``LOG_*`` integers, optionally ``TARGET``, ``HW_VER``, ``FEATURES``, ``CLOCK_MHZ``, ``BUS_BITS``,
            ``HOST_TRIPLE``, ``HAZARD_DISTANCE``.
        where : str, optional
            The file, for messages.
        """
        _check_keys(keys, where)
        board = str(keys.get("TARGET", "sim"))
        clock, bus, triple = _BOARDS[board]
        config = VtaConfig(
            target=board,
            log_batch=keys["LOG_BATCH"],
            log_block=keys["LOG_BLOCK"],
            log_uop_bytes=keys["LOG_UOP_BUFF_SIZE"],
            log_inp_bytes=keys["LOG_INP_BUFF_SIZE"],
            log_wgt_bytes=keys["LOG_WGT_BUFF_SIZE"],
            log_acc_bytes=keys["LOG_ACC_BUFF_SIZE"],
            features=tuple(sorted(keys.get("FEATURES", ()))),
            clock_mhz=keys.get("CLOCK_MHZ", clock),
            bus_bits=keys.get("BUS_BITS", bus),
            host_triple=keys.get("HOST_TRIPLE", triple),
            hazard_distance=keys.get("HAZARD_DISTANCE", 0),
        )
        problems = _sizes(config) or _encodability(config)
        for key, value in config._derived_keys().items():
            if key in keys and keys[key] != value:
                problems.append(f"{key} is {keys[key]}, but follows from the others as {value}")
        if problems:
            raise UsageError(
                "this VTA configuration cannot be built: " + "; ".join(problems),
                hint="shrink the scratchpad that the message names, or the block",
                where=where,
            )
        return config

    @property
    def batch(self) -> int:
        """Rows of the GEMM intrinsic."""
        return int(1 << self.log_batch)

    @property
    def block(self) -> int:
        """Input and output lanes of the GEMM intrinsic."""
        return int(1 << self.log_block)

    def element_bytes(self, memory: str) -> int:
        """Bytes of one element of ``uop``, ``inp``, ``wgt``, ``acc``, ``out`` or ``acc8``."""
        lanes = self.batch * self.block
        sizes = {"uop": 4, "inp": lanes, "wgt": self.block**2, "acc": 4 * lanes, "out": lanes, "acc8": lanes}
        return sizes[memory]

    def log_depth(self, memory: str) -> int:
        """Base-2 logarithm of :meth:`depth`."""
        vector = self.log_batch + self.log_block
        return {
            "uop": self.log_uop_bytes - 2,
            "inp": self.log_inp_bytes - vector,
            "wgt": self.log_wgt_bytes - 2 * self.log_block,
            "acc": self.log_acc_bytes - vector - 2,
            "out": self.log_acc_bytes - vector - 2,
            "acc8": self.log_acc_bytes - vector - 2,
        }[memory]

    def depth(self, memory: str) -> int:
        """Elements that the scratchpad of ``memory`` holds (``out`` mirrors ``acc``)."""
        return int(1 << self.log_depth(memory))

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of one micro-op."""
        return self.batch * self.block**2

    @property
    def model_string(self) -> str:
        """The original's name of a configuration, ``1x16_i8w8a32_15_15_18_17``."""
        sizes = (self.log_uop_bytes, self.log_inp_bytes, self.log_wgt_bytes, self.log_acc_bytes)
        return f"{self.batch}x{self.block}_i8w8a32_" + "_".join(map(str, sizes))

    @property
    def hash(self) -> str:
        """16 hexadecimal digits over all that a binary program depends on (not clock, bus or board)."""
        text = f"{ISA_VERSION} {self.model_string} {' '.join(self.features)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The keys that :meth:`of` reads."""
        return {
            "TARGET": self.target,
            "HW_VER": ISA_VERSION,
            "LOG_INP_WIDTH": 3,
            "LOG_WGT_WIDTH": 3,
            "LOG_ACC_WIDTH": 5,
            "LOG_BATCH": self.log_batch,
            "LOG_BLOCK": self.log_block,
            "LOG_UOP_BUFF_SIZE": self.log_uop_bytes,
            "LOG_INP_BUFF_SIZE": self.log_inp_bytes,
            "LOG_WGT_BUFF_SIZE": self.log_wgt_bytes,
            "LOG_ACC_BUFF_SIZE": self.log_acc_bytes,
            "FEATURES": list(self.features),
            "CLOCK_MHZ": self.clock_mhz,
            "BUS_BITS": self.bus_bits,
            "HOST_TRIPLE": self.host_triple,
            "HAZARD_DISTANCE": self.hazard_distance,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON, keys in their order."""
        return json.dumps(self.to_dict(), indent=2)

    def _derived_keys(self) -> dict[str, int]:
        return {
            "LOG_BLOCK_IN": self.log_block,
            "LOG_BLOCK_OUT": self.log_block,
            "LOG_OUT_WIDTH": 3,
            "LOG_OUT_BUFF_SIZE": self.log_acc_bytes - 2,
        }


def _check_keys(keys: Mapping[str, Any], where: str | None) -> None:
    def refuse(message: str, hint: str | None = None) -> None:
        raise UsageError(message, hint=hint, where=where)

    known = {*_REQUIRED, *_OPTIONAL, *_DERIVED}
    if unknown := sorted(set(keys) - known):
        refuse(f"unknown VTA key {unknown[0]!r}", f"known: {', '.join(sorted(known))}")
    if missing := [key for key in _REQUIRED if key not in keys]:
        refuse(f"the VTA description lacks {', '.join(missing)}")
    for key, value in keys.items():
        number = key.startswith("LOG_") or key in ("CLOCK_MHZ", "BUS_BITS", "HAZARD_DISTANCE")
        if number and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 4096):
            refuse(f"{key} is an integer from 0 to 4096, not {value!r}")
    if keys.get("TARGET", "sim") not in _BOARDS:
        refuse(f"unknown TARGET {keys['TARGET']!r}", f"one of {', '.join(_BOARDS)}")
    if unknown := sorted(set(keys.get("FEATURES", ())) - set(FEATURES)):
        refuse(f"unknown VTA feature {unknown[0]!r}", f"known: {', '.join(FEATURES)}")
    # 0.0.1 numbered the fields differently; zcu104's file says 0.0.1 for what is built from the same source.
    if keys.get("HW_VER", ISA_VERSION) not in (ISA_VERSION, "0.0.1"):
        refuse(f"HW_VER {keys['HW_VER']!r} is not supported", f"this is instruction set {ISA_VERSION}")
    for key, wanted in (("LOG_INP_WIDTH", 3), ("LOG_WGT_WIDTH", 3), ("LOG_ACC_WIDTH", 5)):
        if keys[key] != wanted:
            refuse(f"{key} {keys[key]} is not supported: {1 << wanted}-bit numbers ({wanted}) are")


def _sizes(config: VtaConfig) -> list[str]:
    problems = []
    for memory in ("uop", "inp", "wgt", "acc"):
        if config.log_depth(memory) < 1:
            problems.append(f"LOG_{memory.upper()}_BUFF_SIZE is too small: it holds fewer than two elements")
        if config.element_bytes(memory) > 4096:
            size = config.element_bytes(memory)
            problems.append(f"a {memory} element of {size} bytes exceeds the 4096-byte page")
        if config.log_depth(memory) > 16:
            over = config.log_depth(memory) - 16
            problems.append(
                f"sram_base (16 bits) cannot address the {memory} scratchpad: {over} bits too many"
            )
    if config.bus_bits not in (32, 64, 128, 256, 512):
        problems.append(f"BUS_BITS is 32, 64, 128, 256 or 512, not {config.bus_bits}")
    if config.clock_mhz < 1:
        problems.append("CLOCK_MHZ is at least 1")
    return problems


def _encodability(config: VtaConfig) -> list[str]:
    uop, inp, wgt, acc = (config.log_depth(memory) for memory in ("uop", "inp", "wgt", "acc"))
    words = (
        ("GEMM and ALU word 0 (uop_bgn, uop_end)", 8 + uop + (uop + 1) + 28, _WORD, "LOG_UOP_BUFF_SIZE"),
        (
            "GEMM word 1 (dst, src and wgt factors)",
            2 * (acc + inp + wgt),
            _WORD,
            "LOG_ACC_, LOG_INP_ and LOG_WGT_BUFF_SIZE",
        ),
        ("ALU word 1 (dst and src factors)", 4 * acc + 20, _WORD, "LOG_ACC_BUFF_SIZE"),
        (
            "micro-op (dst_idx, src_idx, wgt_idx)",
            acc + max(acc, inp) + wgt,
            32,
            "LOG_ACC_, LOG_INP_ and LOG_WGT_BUFF_SIZE",
        ),
    )
    return [
        f"{what} needs {needed} of {limit} bits, {needed - limit} too many ({keys})"
        for what, needed, limit, keys in words
        if needed > limit
    ]
