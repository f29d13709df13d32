"""What is known of processors: ``targets.json``, and LLVM's own lists for what is not in it.

The table answers without importing TVM; LLVM (through TVM) is asked only about a name that the table lacks.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from dlcomp.errors import UsageError


@functools.lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """The whole of ``targets.json``."""
    text = resources.files("dlcomp").joinpath("targets.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def presets() -> dict[str, dict[str, Any]]:
    """Alias -> the target that it stands for."""
    found: dict[str, dict[str, Any]] = table()["presets"]
    return found


def gpus() -> dict[str, dict[str, Any]]:
    """GPU architecture -> its limits."""
    found: dict[str, dict[str, Any]] = table()["gpus"]
    return found


def near(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The ``count`` names of ``known`` that are closest to ``name``, closest first."""
    names = sorted(set(known))
    return difflib.get_close_matches(name, names, n=count, cutoff=0.0)


def unknown(kind: str, name: str, known: Iterable[str], more: str = "") -> UsageError:
    """The error for a name that is not in ``known``, with the nearest that are."""
    hint = f"nearest: {', '.join(near(name, known))}"
    return UsageError(f"unknown {kind} {name!r}", hint=f"{hint}; {more}" if more else hint)


def architecture(name: str) -> str | None:
    """The architecture that a triple's first part (``amd64``, ``arm64``, ``armv7l``) stands for."""
    for arch, entry in table()["architectures"].items():
        if name == arch or name in entry["aliases"]:
            return str(arch)
    return None


def entry(arch: str) -> dict[str, Any]:
    """What the table holds for an architecture: default cpu, vectors, features, cpus."""
    found: dict[str, Any] = table()["architectures"][arch]
    return found


def default_cpu(arch: str) -> str:
    """The cpu that runs on every machine of ``arch``."""
    return str(entry(arch)["default_cpu"])


def closure(arch: str, features: Iterable[str]) -> frozenset[str]:
    """``features`` and everything that they need."""
    needs = entry(arch)["feature_needs"]
    found: set[str] = set()
    todo = list(features)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(needs.get(name, ()))
    return frozenset(found)


def without(arch: str, features: Iterable[str], removed: Iterable[str]) -> frozenset[str]:
    """``features`` less ``removed`` and less everything that needs one of those."""
    gone = set(removed)
    return frozenset(f for f in features if not closure(arch, [f]) & gone)


def cpu_features(arch: str, cpu: str) -> frozenset[str]:
    """The features that code for ``cpu`` may use (those of the table; tuning flags are not among them)."""
    cpus = entry(arch)["cpus"]
    if cpu not in cpus:
        return llvm_cpu_features(arch, cpu) & frozenset(entry(arch)["feature_needs"])
    own = frozenset(cpus[cpu]["features"])
    return own | cpu_features(arch, cpus[cpu]["like"]) if "like" in cpus[cpu] else own


def caches(arch: str, cpu: str) -> tuple[int, int, int]:
    """L1 data and L2 per core and L3 shared, in bytes; those of the default cpu where unknown."""
    cpus = entry(arch)["cpus"]
    l1, l2, l3 = cpus.get(cpu, cpus[default_cpu(arch)])["caches_kib"]
    return l1 * 1024, l2 * 1024, l3 * 1024


def vectors(arch: str, features: Iterable[str]) -> tuple[int, int]:
    """Width in bits and number of the SIMD registers."""
    have = set(features)
    row = next(v for v in entry(arch)["vectors"] if not v["feature"] or v["feature"] in have)
    return int(row["bits"]), int(row["registers"])


def known_cpu(arch: str, cpu: str) -> bool:
    """Whether ``cpu`` is in the table or in LLVM's list."""
    return cpu in entry(arch)["cpus"] or cpu in llvm_cpus(arch)


def known_feature(arch: str, feature: str) -> bool:
    """Whether ``feature`` is in the table or known to LLVM."""
    if feature in entry(arch)["feature_needs"]:
        return True
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", feature):
        return False
    with _quiet_stderr():
        return feature in llvm_cpu_features(arch, default_cpu(arch), ("+" + feature,))


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """LLVM itself writes to stderr about a feature that it does not know; the caller says it better."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _llvm_target(arch: str, cpu: str, mattr: tuple[str, ...] = ()) -> Any:
    import tvm

    triple = "armv7a-linux-gnueabihf" if arch == "arm" else f"{arch}-linux-gnu"
    spec = {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
    return tvm.target.Target({**spec, "mattr": list(mattr)} if mattr else spec)


@functools.cache
def llvm_cpus(arch: str) -> frozenset[str]:
    """Every cpu of ``arch`` that TVM's LLVM knows."""
    from tvm.target import codegen

    return frozenset(map(str, codegen.llvm_get_cpu_archlist(_llvm_target(arch, default_cpu(arch)))))


@functools.cache
def llvm_cpu_features(arch: str, cpu: str, mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """Every feature that TVM's LLVM turns on for ``cpu`` with ``mattr``."""
    from tvm.target import codegen

    return frozenset(map(str, codegen.llvm_get_cpu_features(_llvm_target(arch, cpu, mattr))))
