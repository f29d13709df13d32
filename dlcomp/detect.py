"""What machine this is: cpu, features, usable cores, caches, GPU; from the system, without TVM."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import sys
from pathlib import Path

from dlcomp import target_data as data

# The kernel's names where they differ from LLVM's (others differ by "_" at most).
_FLAGS = {
    "x86_64": {
        "pni": "sse3",
        "abm": "lzcnt",
        "bmi1": "bmi",
        "sha_ni": "sha",
        "pclmulqdq": "pclmul",
        "lahf_lm": "sahf",
        "sse4_1": "sse4.1",
        "sse4_2": "sse4.2",
        "amx_tile": "amx-tile",
        "amx_int8": "amx-int8",
        "amx_bf16": "amx-bf16",
        "amx_fp16": "amx-fp16",
    },
    "aarch64": {
        "asimd": "neon",
        "fp": "fp-armv8",
        "asimddp": "dotprod",
        "asimdhp": "fullfp16",
        "asimdfhm": "fp16fml",
        "asimdrdm": "rdm",
        "atomics": "lse",
        "crc32": "crc",
        "jscvt": "jsconv",
        "fcma": "complxnum",
        "lrcpc": "rcpc",
    },
    "arm": {"vfpv3": "vfp3", "vfpv4": "vfp4", "asimddp": "dotprod", "idiva": "hwdiv-arm"},
}

# (vendor, family, models or None for all) -> cpu, newest first; taken only if its features are all there.
_X86 = (
    ("AuthenticAMD", 26, None, "znver5"),
    ("AuthenticAMD", 25, (*range(0x10, 0x20), *range(0x60, 0x80), *range(0xA0, 0xB0)), "znver4"),
    ("AuthenticAMD", 25, None, "znver3"),
    ("AuthenticAMD", 23, (*range(0x30, 0x100),), "znver2"),
    ("AuthenticAMD", 23, None, "znver1"),
    ("GenuineIntel", 6, (0xAD, 0xAE), "graniterapids"),
    ("GenuineIntel", 6, (0xCF,), "emeraldrapids"),
    ("GenuineIntel", 6, (0x8F,), "sapphirerapids"),
    ("GenuineIntel", 6, (0xAF,), "sierraforest"),
    ("GenuineIntel", 6, (0xB7, 0xBA, 0xBF), "raptorlake"),
    ("GenuineIntel", 6, (0x97, 0x9A, 0xBE), "alderlake"),
    ("GenuineIntel", 6, (0xA7,), "rocketlake"),
    ("GenuineIntel", 6, (0x8C, 0x8D), "tigerlake"),
    ("GenuineIntel", 6, (0x6A, 0x6C), "icelake-server"),
    ("GenuineIntel", 6, (0x7D, 0x7E), "icelake-client"),
    ("GenuineIntel", 6, (0x55,), "cascadelake"),
    ("GenuineIntel", 6, (0x55,), "skylake-avx512"),
    ("GenuineIntel", 6, (0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6), "skylake"),
    ("GenuineIntel", 6, (0x3D, 0x47, 0x4F, 0x56), "broadwell"),
    ("GenuineIntel", 6, (0x3C, 0x3F, 0x45, 0x46), "haswell"),
    ("GenuineIntel", 6, (0x3A, 0x3E), "ivybridge"),
    ("GenuineIntel", 6, (0x2A, 0x2D), "sandybridge"),
)

# (implementer, part) -> cpu, as in the MIDR_EL1 register.
_ARM = {
    (0x41, 0xD03): "cortex-a53",
    (0x41, 0xD05): "cortex-a55",
    (0x41, 0xD07): "cortex-a57",
    (0x41, 0xD08): "cortex-a72",
    (0x41, 0xD09): "cortex-a73",
    (0x41, 0xD0B): "cortex-a76",
    (0x41, 0xD0C): "neoverse-n1",
    (0x41, 0xD40): "neoverse-v1",
    (0x41, 0xD41): "cortex-a78",
    (0x41, 0xD42): "cortex-a78ae",
    (0x41, 0xD44): "cortex-x1",
    (0x41, 0xD46): "cortex-a510",
    (0x41, 0xD47): "cortex-a710",
    (0x41, 0xD49): "neoverse-n2",
    (0x41, 0xD4F): "neoverse-v2",
    (0x46, 0x001): "a64fx",
}

_LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64")


def triple() -> str:
    """The LLVM triple of this machine."""
    machine = platform.machine().lower()
    arch = data.architecture(machine) or machine
    if sys.platform == "darwin":
        return f"{'arm64' if arch == 'aarch64' else arch}-apple-macos"
    if sys.platform == "win32":
        return f"{arch}-pc-windows-msvc"
    return "armv7a-linux-gnueabihf" if arch == "arm" else f"{arch}-linux-gnu"


@functools.lru_cache(maxsize=1)
def cpuinfo() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``, field by field; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    return parse_cpuinfo(text)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """The fields of the first block of a ``cpuinfo`` text."""
    pairs = (line.partition(":") for line in text.strip().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def features(arch: str, info: dict[str, str]) -> frozenset[str]:
    """The features, by LLVM's names, that ``info`` says the processor has."""
    known = data.entry(arch)["feature_needs"]
    if arch == "riscv64":
        return frozenset(_riscv(info.get("isa", ""))) & frozenset(known)
    names = _FLAGS[arch]
    flags = (info.get("flags") or info.get("Features") or "").split()
    found = {names.get(flag, flag.replace("_", "")) for flag in flags}
    return frozenset(found) & frozenset(known)


def _riscv(isa: str) -> set[str]:
    head, *extensions = isa.lower().split("_")
    letters = set(head.removeprefix("rv64"))
    if "g" in letters:
        letters |= {"m", "a", "f", "d"}
    return letters | set(extensions) | ({"zvl128b"} if "v" in letters else set())


def cpu(arch: str, info: dict[str, str], have: frozenset[str]) -> str:
    """The newest LLVM cpu that is this processor and asks for nothing that it (or its hypervisor) hides."""
    if arch == "x86_64":
        family, model = int(info.get("cpu family", "0")), int(info.get("model", "0"))
        named = [
            name
            for vendor, fam, models, name in _X86
            if info.get("vendor_id") == vendor and fam == family and (models is None or model in models)
        ]
        older = ["znver4", "znver3"] if info.get("vendor_id") == "AuthenticAMD" and family >= 25 else []
        for name in (*named, *older, *_LEVELS):
            if data.cpu_features(arch, name) <= have:
                return name
    if arch in ("aarch64", "arm") and "CPU part" in info:
        key = (int(info.get("CPU implementer", "0"), 16), int(info["CPU part"], 16))
        name = _ARM.get(key, "")
        if name in data.entry(arch)["cpus"]:
            return name
    return data.default_cpu(arch)


def cores() -> int:
    """Physical cores that this process may use: no SMT siblings, within affinity and cgroup quota."""
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
    physical = {_siblings(number) for number in allowed}
    return max(1, min(len(physical), _quota() or len(physical)))


def _siblings(number: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(number)


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Whole processors that the tightest cgroup above this process grants; None without a limit."""
    found: list[int] = []
    try:
        # "0::/a/b" is cgroup 2, "4:cpu,cpuacct:/a/b" the first version's processor controller.
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
        paths = [line[2].strip("/") for line in lines if line[1] == "" or "cpu" in line[1].split(",")]
    except (OSError, IndexError):
        paths = []
    for path in {"", *paths}:
        for folder in (Path(path), *Path(path).parents):
            found += _granted(root / folder / "cpu.max") + _granted(
                root / "cpu" / folder / "cpu.cfs_quota_us"
            )
    return min(found) if found else None


def _granted(file: Path) -> list[int]:
    try:
        words = file.read_text().split()
        if file.name == "cpu.cfs_quota_us":
            words += file.with_name("cpu.cfs_period_us").read_text().split()
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):  # no such file, or "max"
        return []
    return [max(1, quota // period)] if quota > 0 and period > 0 else []


def caches() -> tuple[int, int, int] | None:
    """L1 data and L2 of the first core and L3, in bytes, or None where the system does not say."""
    sizes = {1: 0, 2: 0, 3: 0}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind = int((index / "level").read_text()), (index / "type").read_text().strip()
            number = re.fullmatch(r"(\d+)([KM]?)", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level in sizes and number:
            sizes[level] = int(number[1]) * {"": 1, "K": 1024, "M": 1024**2}[number[2]]
    return (sizes[1], sizes[2], sizes[3]) if sizes[1] else None


@functools.lru_cache(maxsize=1)
def cuda_arch() -> str | None:
    """``sm_XY`` of the first CUDA device, or None; asks the driver itself."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        # 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        if not failed:
            return f"sm_{major.value}{minor.value}"
    return None
