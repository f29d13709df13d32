"""Reads a target: ``host``, a triple with cpu and features, ``cuda:sm_XY``, a preset, a mapping or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from dlcomp import detect
from dlcomp import target_data as data
from dlcomp.errors import UsageError
from dlcomp.target import Target, cpu_target, warn_generic
from dlcomp.vta_targets import load as load_accelerator

# Cores that parallel loops are balanced over when nobody says how many there are.
_CORES = 4
_SIZES = ("cores", "vector_bits", "vector_registers", "l1_bytes", "l2_bytes", "l3_bytes")
_TRIPLE = re.compile(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+){0,3}")


def parse(spec: Any) -> Target:
    """See :meth:`dlcomp.target.Target.parse`."""
    if isinstance(spec, Target):
        return spec
    if not isinstance(spec, str):
        return _from_mapping(spec)
    text = spec.strip()
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as err:
            raise UsageError(f"cannot read the target file {text[1:]!r}: {err}") from err
    if text.startswith("{"):
        try:
            return _from_mapping(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as err:
            raise UsageError(f"the target is not valid JSON: {err}") from err
    return _from_text(text)


def _from_text(text: str) -> Target:
    if text == "host":
        return Target.host()
    if text in data.presets():
        return _from_mapping(data.presets()[text])
    head, _, tail = text.partition(":")
    if head == "cuda":
        return _cuda(tail, detect.triple())
    if head == "vta":
        return _vta(tail)
    if "+" in head:
        head, _, features = text.partition("+")
        tail = f"+{features}"
    arch = data.architecture(head.split("-")[0])
    if arch is None or not _TRIPLE.fullmatch(head):
        raise _unknown_target(text)
    cpu, added, removed = _split_cpu(arch, tail)
    cpu = cpu or data.default_cpu(arch)
    _check_names(arch, cpu, (*added, *removed))
    target = cpu_target(_full_triple(arch, head), cpu, _CORES, added, removed)
    if not added and cpu in (data.default_cpu(arch), "x86-64"):
        warn_generic(target, f"{text!r} names no processor")
    return target


def _from_mapping(spec: Any) -> Target:
    if not isinstance(spec, Mapping):
        raise UsageError(f"a target is a string or a mapping, not {type(spec).__name__}")
    names = {field.name for field in fields(Target)}
    for name in spec:
        if name not in names | {"target"}:
            raise data.unknown("field of a target", str(name), names | {"target"})
    _check_types(spec)
    if names <= set(spec):
        return _exact(spec)
    if spec.get("kind", "cpu") not in ("cpu", "cuda"):
        raise data.unknown("kind of target", spec["kind"], ("cpu", "cuda"))
    base = parse(spec["target"]) if "target" in spec else None
    if spec.get("kind") == "cuda" or "arch" in spec or (base and base.kind == "cuda"):
        return _cuda(spec.get("arch", base.arch if base else ""), spec.get("triple", detect.triple()))
    if base is None:
        if "triple" not in spec:
            hint = 'such as {"triple": "x86_64-linux-gnu", "cpu": "znver3"}'
            raise UsageError("a target needs a triple", hint=hint)
        features = [f if f[:1] in ("+", "-") else f"+{f}" for f in spec.get("features", ())]
        base = _from_text(f"{spec['triple']}:{spec.get('cpu', '')}{''.join(features)}")
    return replace(base, **{name: spec[name] for name in _SIZES if name in spec})


def _check_types(spec: Mapping[str, Any]) -> None:
    for name in ("kind", "triple", "cpu", "arch", "target"):
        if not isinstance(spec.get(name, ""), str):
            raise UsageError(f"a target's {name} is a string, not {spec[name]!r}")
    for name in _SIZES:
        value = spec.get(name, 1)
        low = 0 if name.endswith("_bytes") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise UsageError(f"a target's {name} is an integer of at least {low}, not {value!r}")
    listed = spec.get("features", ())
    if not isinstance(listed, (list, tuple)) or not all(isinstance(name, str) for name in listed):
        raise UsageError(f"a target's features are a list of strings, not {listed!r}")


def _exact(spec: Mapping[str, Any]) -> Target:
    """Every field is given, as by ``Target.to_dict``: taken as it is, once all names are known."""
    target = Target(**{**spec, "features": tuple(sorted(set(spec["features"])))})
    if target.kind not in ("cpu", "cuda", "vta"):
        raise data.unknown("kind of target", target.kind, ("cpu", "cuda", "vta"))
    arch = data.architecture(target.architecture)
    if arch is None or not _TRIPLE.fullmatch(target.triple):
        raise _unknown_target(target.triple)
    if target.kind == "cuda":
        _check_gpu(target.arch)
    if target.kind == "vta":
        load_accelerator(target.arch)
    _check_names(arch, target.cpu, target.features)
    return target


def _cuda(arch: str, triple: str) -> Target:
    if not arch:
        found = detect.cuda_arch()
        if found is None:
            known = ", ".join(f"cuda:{name}" for name in data.gpus())
            raise UsageError("no CUDA device here: name the architecture", hint=f"one of {known}")
        arch = found
    _check_gpu(arch)
    host_arch = data.architecture(triple.split("-")[0])
    if host_arch is None or not _TRIPLE.fullmatch(triple):
        raise _unknown_target(triple)
    # The host code only launches kernels, so it is kept runnable on every machine of the architecture.
    host = cpu_target(_full_triple(host_arch, triple), data.default_cpu(host_arch), 1)
    return replace(host, kind="cuda", arch=arch, l2_bytes=data.gpus()[arch]["l2_kib"] * 1024)


def _vta(name: str) -> Target:
    """The accelerator described in ``vta_targets/``, beside the board's processor."""
    config = load_accelerator(name)
    if not config.host_triple:
        return replace(Target.host(), kind="vta", arch=name)
    triple = config.host_triple
    arch = data.architecture(triple.split("-")[0]) or ""
    return replace(cpu_target(triple, data.default_cpu(arch), _CORES), kind="vta", arch=name)


def _check_gpu(arch: str) -> None:
    if arch not in data.gpus():
        raise data.unknown("GPU architecture", arch, data.gpus(), f"all: {', '.join(data.gpus())}")


def _check_names(arch: str, cpu: str, features: Iterable[str]) -> None:
    if not data.known_cpu(arch, cpu):
        raise data.unknown(f"{arch} cpu", cpu, {*data.entry(arch)["cpus"], *data.llvm_cpus(arch)})
    for name in features:
        if not data.known_feature(arch, name):
            raise data.unknown(f"{arch} feature", name, data.entry(arch)["feature_needs"])


def _split_cpu(arch: str, text: str) -> tuple[str, list[str], list[str]]:
    """``znver3+a-b+c`` -> ``znver3``, ``[a, c]``, ``[b]``; names of cpus and of features may hold a ``-``."""
    first, *plus = text.split("+")
    features = data.entry(arch)["feature_needs"]
    cpus = data.entry(arch)["cpus"]
    cut = _cut(first, lambda name: not name or name in cpus, features)
    if cut == [first] and first not in cpus and "-" in first:
        cut = _cut(first, data.llvm_cpus(arch).__contains__, features)
    cpu, *removed = cut
    added: list[str] = []
    for piece in plus:
        name, *less = _cut(piece, features.__contains__, features)
        added.append(name)
        removed += less
    return cpu, added, removed


def _cut(piece: str, known: Callable[[str], bool], features: Mapping[str, Any]) -> list[str]:
    """The longest ``known`` head and the features that ``-`` takes away; ``[piece]`` if there is none."""
    parts = piece.split("-")
    for end in range(len(parts), 0, -1):
        head = "-".join(parts[:end])
        if known(head):
            rest = "-".join(parts[end:])
            return [head, *_cut(rest, features.__contains__, features)] if end < len(parts) else [head]
    return [piece]


def _full_triple(arch: str, head: str) -> str:
    """``amd64-linux-gnu`` and ``x86_64`` -> ``x86_64-linux-gnu``; Apple's and ARM's spellings are kept."""
    _, _, rest = head.partition("-")
    if not rest:
        return "armv7a-linux-gnueabihf" if arch == "arm" else f"{arch}-linux-gnu"
    return head if arch == "arm" or "apple" in rest else f"{arch}-{rest}"


def _unknown_target(text: str) -> UsageError:
    for arch in data.table()["architectures"]:
        if text.partition("+")[0] in data.entry(arch)["cpus"]:
            hint = f"a cpu stands after its triple: {arch}-linux-gnu:{text}"
            return UsageError(f"unknown target {text!r}", hint=hint)
    known = {"host", "cuda", "x86_64-linux-gnu", "aarch64-linux-gnu", "riscv64-linux-gnu", *data.presets()}
    return data.unknown("target", text, known, "`dlcomp targets` lists all")
