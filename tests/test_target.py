"""Targets: what can be written, what it resolves to, what is refused, and that LLVM agrees with the table."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcomp import detect
from dlcomp import target_data as data
from dlcomp.errors import UsageError
from dlcomp.target import Target, host_features, missing_features, required_features

ARCHITECTURES = sorted(data.table()["architectures"])
CPUS = [(arch, cpu) for arch in ARCHITECTURES for cpu in data.entry(arch)["cpus"]]


@pytest.mark.parametrize(
    ("spec", "cpu", "bits", "registers"),
    [
        ("x86_64-linux-gnu:znver3", "znver3", 256, 16),
        ("x86_64-linux-gnu:znver4", "znver4", 512, 32),
        ("x86_64-linux-gnu:znver4-avx512f", "znver4", 256, 16),
        ("x86_64-linux-gnu:skylake-avx512", "skylake-avx512", 512, 32),
        ("x86_64-linux-gnu:skylake-avx2", "skylake", 256, 16),
        ("amd64-linux-gnu:x86-64-v2", "x86-64-v2", 128, 16),
        ("aarch64-linux-gnu:cortex-a72+dotprod", "cortex-a72", 128, 32),
        ("arm64-apple-macos:apple-a14", "apple-a14", 128, 32),
        ("riscv64-linux-gnu:generic-rv64+v", "generic-rv64", 128, 32),
        ("armv7a-linux-gnueabihf:cortex-a7", "cortex-a7", 128, 16),
        ("raspberry-pi-4", "cortex-a72", 128, 32),
    ],
)
def test_resolves_cpu_and_vectors(spec: str, cpu: str, bits: int, registers: int) -> None:
    target = Target.parse(spec)
    assert (target.kind, target.cpu) == ("cpu", cpu)
    assert (target.vector_bits, target.vector_registers) == (bits, registers)


def test_added_feature_brings_what_it_needs() -> None:
    target = Target.parse("x86_64-linux-gnu:x86-64+avx512vnni")
    assert target.has("avx512vnni", "avx512f", "avx2", "fma", "sse4.2")


def test_removed_feature_takes_along_what_needs_it() -> None:
    target = Target.parse("x86_64-linux-gnu:znver4-avx512f")
    assert not any(name.startswith("avx512") for name in target.features)
    assert "-avx512vnni" in list(target.to_tvm().attrs["mattr"])


def test_triple_without_cpu_warns_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("dlcomp")
    propagate, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level(logging.WARNING):
            assert Target.parse("x86_64-linux-gnu").cpu == "generic"
    finally:
        logger.propagate = propagate
    assert "x86_64-linux-gnu:CPU" in caplog.text


def test_named_cpu_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    Target.parse("x86_64-linux-gnu:znver3")
    assert not caplog.records


@pytest.mark.parametrize(
    "spec", ["cuda:sm_90", "h100", {"kind": "cuda", "arch": "sm_90"}, {"target": "h100"}]
)
def test_cuda(spec: str) -> None:
    target = Target.parse(spec)
    assert (target.kind, target.arch) == ("cuda", "sm_90")
    assert int(target.to_tvm().attrs["max_shared_memory_per_block"]) == 48 * 1024
    assert set(required_features(target)) == data.cpu_features(target.architecture, target.cpu)


def test_cuda_preset_keeps_its_own_host() -> None:
    assert Target.parse("jetson-orin").triple == "aarch64-linux-gnu"


def test_cuda_without_device_names_the_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "cuda_arch", lambda: None)
    with pytest.raises(UsageError) as err:
        Target.parse("cuda")
    assert "cuda:sm_90" in str(err.value)


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("raspbery-pi-4", "raspberry-pi-4"),
        ("hots", "host"),
        ("znver3", "x86_64-linux-gnu:znver3"),
        ("x86_64-linux-gnu:znvr3", "znver3"),
        ("x86_64-linux-gnu:znver3+avx512fnni", "avx512vnni"),
        ("aarch64-linux-gnu:cortex-a72+dotproduct", "dotprod"),
        ("cuda:sm_91", "sm_90"),
        ("x86_64-linux-gnu:znver3-avx99", "avx"),
        ("", "dlcomp targets"),
        ({"triple": "x86_64-linux-gnu", "cppu": "znver3"}, "cpu"),
        ({"cpu": "znver3"}, "triple"),
        ({"triple": "x86_64-linux-gnu", "cores": 0}, "at least 1"),
        ({"triple": "x86_64-linux-gnu", "features": "avx2"}, "list"),
        ("{", "JSON"),
        ("@no/such/file.json", "no/such/file.json"),
    ],
)
def test_refused_with_the_nearest_names(spec: object, nearest: str) -> None:
    with pytest.raises(UsageError) as err:
        Target.parse(spec)  # type: ignore[arg-type]
    assert nearest in str(err.value)


def test_cpu_known_only_to_llvm_is_taken() -> None:
    target = Target.parse("x86_64-linux-gnu:meteorlake")
    assert target.has("avx2", "avxvnni")


def test_mapping_json_and_file_are_the_same(tmp_path: Path) -> None:
    spec = {"triple": "aarch64-linux-gnu", "cpu": "cortex-a72", "features": ["dotprod", "-aes"], "cores": 3}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(spec))
    target = Target.parse(spec)
    assert target.cores == 3
    assert target.has("dotprod")
    assert not target.has("aes")
    assert target == Target.parse(json.dumps(spec)) == Target.parse(f"@{path}")


@st.composite
def specs(draw: st.DrawFn) -> str:
    arch, cpu = draw(st.sampled_from(CPUS))
    features = st.sampled_from(sorted(data.entry(arch)["feature_needs"]))
    changes = draw(st.lists(st.tuples(st.sampled_from("+-"), features), max_size=4))
    return f"{arch}-linux-gnu:{cpu}" + "".join(sign + name for sign, name in changes)


@given(specs())
def test_round_trips(spec: str) -> None:
    target = Target.parse(spec)
    assert Target.parse(target.to_dict()) == target
    assert Target.parse(json.dumps(target.to_dict())) == target
    assert Target.parse(str(target).split(",")[0]).features == target.features
    assert hash(target) == hash(Target.parse(target))
    assert set(target.features) == data.closure(target.architecture, target.features)


@given(st.text(max_size=30))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(Target.parse(text), Target)


def test_host_is_this_machine_and_can_run_its_own_code() -> None:
    host = Target.host()
    assert host == Target.parse("host")
    assert 1 <= host.cores <= (os.cpu_count() or 1)
    assert missing_features(host) == ()
    assert set(required_features(host)) <= host_features() or not host_features()


def test_host_is_found_without_tvm() -> None:
    code = "import sys; from dlcomp import Target; Target.host(); sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CPUINFO = "vendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nflags\t\t: {}\n\nprocessor: 1\n"
V3 = "pni ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm avx avx2 fma f16c bmi1 bmi2 abm movbe"
V4 = V3 + " avx512f avx512cd avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "cpu"),
    [
        ("AuthenticAMD", 25, 1, V3 + " pclmulqdq aes sse4a sha_ni vaes vpclmulqdq", "znver3"),
        ("AuthenticAMD", 23, 49, V3 + " pclmulqdq aes sse4a sha_ni", "znver2"),
        ("AuthenticAMD", 25, 17, V3 + " pclmulqdq aes sse4a sha_ni vaes vpclmulqdq", "znver3"),
        ("AuthenticAMD", 25, 17, V3, "x86-64-v3"),
        ("GenuineIntel", 6, 0x55, V4 + " aes pclmulqdq", "skylake-avx512"),
        ("GenuineIntel", 6, 0x55, V4 + " aes pclmulqdq avx512_vnni", "cascadelake"),
        ("GenuineIntel", 6, 0x3C, V3 + " pclmulqdq", "haswell"),
        ("GenuineIntel", 99, 1, V4, "x86-64-v4"),
        ("SomeoneElse", 1, 1, "pni", "x86-64"),
    ],
)
def test_detected_cpu_asks_for_nothing_that_is_hidden(
    vendor: str, family: int, model: int, flags: str, cpu: str
) -> None:
    info = detect.parse_cpuinfo(CPUINFO.format(vendor, family, model, flags))
    have = detect.features("x86_64", info)
    found = detect.cpu("x86_64", info, have)
    assert found == cpu
    assert data.cpu_features("x86_64", found) <= have


def test_detects_arm_and_riscv() -> None:
    pi = {"Features": "fp asimd evtstrm crc32 cpuid", "CPU implementer": "0x41", "CPU part": "0xd08"}
    have = detect.features("aarch64", pi)
    assert have == {"fp-armv8", "neon", "crc"}
    assert detect.cpu("aarch64", pi, have) == "cortex-a72"
    board = {"isa": "rv64imafdcv_zba_zbb"}
    assert detect.features("riscv64", board) >= {"m", "a", "f", "d", "c", "v", "zvl128b", "zba", "zbb"}


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "250000 100000"}, "0::/", 2),
        ({"cpu.max": "50000 100000"}, "0::/", 1),
        ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 3),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", None),
        ({}, "", None),
    ],
)
def test_cgroup_quota_limits_the_cores(
    tmp_path: Path, files: dict[str, str], membership: str, cores: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "self").write_text(membership)
    assert detect._quota(tmp_path, tmp_path / "self") == cores


@pytest.mark.parametrize(("arch", "cpu"), CPUS)
def test_table_says_of_a_cpu_what_llvm_says(arch: str, cpu: str) -> None:
    assert cpu in data.llvm_cpus(arch)
    known = frozenset(data.entry(arch)["feature_needs"])
    own = data.cpu_features(arch, cpu)
    # Linux on RISC-V means rv64gc; LLVM's generic is the bare integer core.
    extra = {"m", "a", "f", "d", "c"} if cpu == "generic-rv64" else set()
    assert own == data.llvm_cpu_features(arch, cpu) & known | extra


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_feature_is_known_to_llvm(arch: str) -> None:
    for name in data.entry(arch)["feature_needs"]:
        assert name in data.llvm_cpu_features(arch, data.default_cpu(arch), ("+" + name,)), name


@pytest.mark.parametrize("name", sorted(data.presets()))
def test_every_preset_is_a_target_for_tvm(name: str) -> None:
    target = Target.parse(name)
    spelled = target.to_tvm()
    assert str(spelled.kind.name) == ("cuda" if target.kind == "cuda" else "llvm")
    assert target.triple in str(spelled)
    assert "\n" not in str(target)
