"""The processor that code is made for, and how TVM spells it (no other file knows that)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dlcomp import detect
from dlcomp import target_data as data
from dlcomp.errors import UsageError

_LOG = logging.getLogger("dlcomp.target")

# What TVM takes as attributes of a CUDA target; the rest of the table's entry is for dlcomp's schedules.
_CUDA_LIMITS = (
    "max_threads_per_block",
    "max_shared_memory_per_block",
    "registers_per_block",
    "thread_warp_size",
)


@dataclass(frozen=True)
class Target:
    """A processor.

    Attributes
    ----------
    kind : str
        ``cpu``, ``cuda`` or ``vta``.
    triple : str
        LLVM triple of the machine that runs the (host) code.
    cpu : str
        LLVM cpu name; ``generic`` when unknown.
    features : tuple of str
        LLVM feature names that the code may use, sorted, without ``+``.
    cores : int
        Physical cores that parallel loops are balanced over.
    vector_bits, vector_registers : int
        Width of a SIMD register in bits and how many there are.
    l1_bytes, l2_bytes, l3_bytes : int
        Data caches: per core, per core, shared.
    arch : str
        GPU architecture (``sm_90``) for ``cuda``, name of the accelerator for ``vta``; else empty.
    """

    kind: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    cores: int
    vector_bits: int
    vector_registers: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    arch: str = ""

    @staticmethod
    def parse(spec: str | Mapping[str, Any] | Target) -> Target:
        """Read a target.

        Parameters
        ----------
        spec : str, mapping or Target
            ``host``; ``TRIPLE[:CPU][+FEATURE...][-FEATURE...]``; ``cuda[:sm_XY]``; ``vta:NAME``; a preset
            such as ``raspberry-pi-4``; a mapping with ``triple``, ``cpu``, ``features``, ``cores`` (or, from
            :meth:`to_dict`, every field), the same as JSON, or ``@file.json``.
        """
        from dlcomp.target_parse import parse

        return parse(spec)

    @staticmethod
    def host() -> Target:
        """The machine that this process runs on."""
        return _host()

    @property
    def architecture(self) -> str:
        """``x86_64``, ``aarch64``, ``riscv64`` or ``arm``."""
        first = self.triple.split("-")[0]
        return data.architecture(first) or first

    def has(self, *features: str) -> bool:
        """Whether code may use all of ``features``."""
        return set(features) <= set(self.features)

    def lanes(self, dtype_bits: int = 32) -> int:
        """How many numbers of ``dtype_bits`` one SIMD register holds."""
        return max(1, self.vector_bits // dtype_bits)

    def to_dict(self) -> dict[str, Any]:
        """Every field, for JSON; :meth:`parse` gives the same target back."""
        return {**asdict(self), "features": list(self.features)}

    def to_tvm(self) -> Any:
        """The ``tvm.target.Target``, for ``cuda`` with its host."""
        import tvm

        if self.kind != "cuda":
            return tvm.target.Target(self._llvm())
        limits = {key: data.gpus()[self.arch][key] for key in _CUDA_LIMITS}
        return tvm.target.Target({"kind": "cuda", "arch": self.arch, **limits}, host=self._llvm())

    def _llvm(self) -> dict[str, Any]:
        arch = self.architecture
        hidden = data.cpu_features(arch, self.cpu) - set(self.features)
        mattr = [f"+{name}" for name in self.features] + [f"-{name}" for name in sorted(hidden)]
        spec: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if mattr:
            spec["mattr"] = mattr
        if "abi" in data.entry(arch):
            spec["mabi"] = data.entry(arch)["abi"]
        return {**spec, "num-cores": self.cores}

    def __str__(self) -> str:
        if self.kind == "cuda":
            return f"cuda:{self.arch} ({data.gpus()[self.arch]['about']}), host code for {self.triple}"
        if self.kind == "vta":
            return f"vta:{self.arch}, beside {self.triple}"
        base = data.cpu_features(self.architecture, self.cpu)
        changed = "".join(f"+{f}" for f in sorted(set(self.features) - base))
        changed += "".join(f"-{f}" for f in sorted(base - set(self.features)))
        caches = (("L1d", self.l1_bytes), ("L2", self.l2_bytes), ("L3", self.l3_bytes))
        sizes = "".join(f", {name} {size // 1024} KiB" for name, size in caches if size)
        cores = f"{self.cores} core{'s' * (self.cores != 1)}"
        simd = f"{self.vector_registers} SIMD registers of {self.vector_bits} bits"
        return f"{self.triple}:{self.cpu}{changed}, {cores}, {simd}{sizes}"


def cpu_target(
    triple: str, cpu: str, cores: int, added: Iterable[str] = (), removed: Iterable[str] = ()
) -> Target:
    """The target of a known cpu, from the table, with features added (and what they need) and removed."""
    arch = data.architecture(triple.split("-")[0]) or ""
    features = data.closure(arch, data.cpu_features(arch, cpu) | set(added))
    features = data.without(arch, features, removed)
    bits, registers = data.vectors(arch, features)
    l1, l2, l3 = data.caches(arch, cpu)
    return Target("cpu", triple, cpu, tuple(sorted(features)), cores, bits, registers, l1, l2, l3)


def required_features(target: Target) -> tuple[str, ...]:
    """What a machine must have to run code made for ``target``, by LLVM's names."""
    return target.features


def host_features() -> frozenset[str]:
    """The features of this machine, by the same names; empty where it cannot be told."""
    arch = data.architecture(detect.triple().split("-")[0])
    return detect.features(arch, detect.cpuinfo()) if arch else frozenset()


def missing_features(target: Target) -> tuple[str, ...]:
    """What code made for ``target`` may use and this machine lacks; empty where it cannot be told."""
    have = host_features()
    return tuple(name for name in required_features(target) if name not in have) if have else ()


def warn_generic(target: Target, why: str) -> None:
    """Say loudly that code for no particular processor is slow."""
    _LOG.warning(
        "%s: code for a generic %s uses %d-bit vectors and is several times slower than it need be; "
        "name the processor, as in %s:CPU (`dlcomp targets` lists them), or use `host`",
        why,
        target.architecture,
        target.vector_bits,
        target.triple,
    )


@functools.lru_cache(maxsize=1)
def _host() -> Target:
    triple = detect.triple()
    arch = data.architecture(triple.split("-")[0])
    if arch is None:
        known = ", ".join(data.table()["architectures"])
        raise UsageError(f"this machine ({triple}) is of no known architecture", hint=f"known: {known}")
    have = host_features()
    target = cpu_target(triple, detect.cpu(arch, detect.cpuinfo(), have), detect.cores())
    if have:
        bits, registers = data.vectors(arch, have)
        target = replace(target, features=tuple(sorted(have)), vector_bits=bits, vector_registers=registers)
    else:
        warn_generic(target, "this machine's processor could not be told")
    found = detect.caches()
    return replace(target, l1_bytes=found[0], l2_bytes=found[1], l3_bytes=found[2]) if found else target
