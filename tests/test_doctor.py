"""The doctor: finds what is missing, says what to do, and survives whatever it examines."""

from __future__ import annotations

import shutil
from importlib import metadata

import pytest

from dlcomp import cli, doctor


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_this_installation_is_sound() -> None:
    checks = by_name(doctor.run_checks())
    assert not [check for check in checks.values() if check.status == doctor.FAIL]
    assert {"python", "tvm", "tvm-ffi", "llvm", "object loader", "host target", "nvcc", "xgboost"} <= set(
        checks
    )
    assert all(check.fix for check in checks.values() if check.status != doctor.OK)


def test_wrong_ffi_is_a_failure_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.1.15" if name == "apache-tvm-ffi" else real(name)
    )
    check = by_name(doctor.run_checks())["tvm-ffi"]
    assert check.status == doctor.FAIL
    assert "pip install --no-deps apache-tvm-ffi==" in check.fix


def test_ffi_pin_is_that_of_the_package() -> None:
    pins = [need for need in metadata.requires("dlcomp") or () if need.startswith("apache-tvm-ffi==")]
    assert pins == [f"apache-tvm-ffi=={doctor._TVM_FFI}"]


def test_missing_required_package_fails_and_optional_one_warns() -> None:
    assert doctor._package("no-such-thing", "", "x", required=True).status == doctor.FAIL
    assert doctor._package("no-such-thing", "", "x", required=False).status == doctor.WARN


def test_a_check_that_crashes_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> list[doctor.Check]:
        raise OSError("undefined symbol")

    monkeypatch.setattr(doctor, "_CHECKS", (("tvm", crash),))
    assert doctor.run_checks() == [
        doctor.Check("tvm", doctor.FAIL, "OSError: undefined symbol", "pip install --force-reinstall dlcomp")
    ]
    assert cli.main(["doctor"]) == 1


def test_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    checks = by_name(doctor.run_checks())
    assert checks["system compiler"].status == doctor.OK
    assert checks["nvcc"].status == doctor.WARN
