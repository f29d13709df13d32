"""Accelerator descriptions: depths from the published table, and every rule of encodability."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlcomp import vta_targets
from dlcomp.errors import UsageError
from dlcomp.vta.config import VtaConfig

# Bytes of an element inp/wgt/acc/out, depths uop/inp/wgt/acc.
TABLE = {
    "pynq": ((16, 256, 64, 16), (8192, 2048, 1024, 2048)),
    "batch4x8": ((32, 64, 128, 32), (8192, 2048, 1024, 2048)),
    "block32": ((32, 1024, 128, 32), (8192, 1024, 256, 1024)),
}


def changed(**keys: object) -> dict[str, object]:
    return {**vta_targets.load("pynq").to_dict(), **keys}


@pytest.mark.parametrize("name", TABLE)
def test_sizes_follow_the_published_table(name: str) -> None:
    config = vta_targets.load(name)
    elements = tuple(config.element_bytes(memory) for memory in ("inp", "wgt", "acc", "out"))
    depths = tuple(config.depth(memory) for memory in ("uop", "inp", "wgt", "acc"))
    assert (elements, depths) == TABLE[name]


@pytest.mark.parametrize("name", vta_targets.names())
def test_every_description_loads_and_survives(name: str) -> None:
    config = vta_targets.load(name)
    assert VtaConfig.of(json.loads(config.to_json())) == config


def test_the_model_string_is_the_original_s() -> None:
    assert vta_targets.load("pynq").model_string == "1x16_i8w8a32_15_15_18_17"


def test_the_hash_is_of_what_a_program_depends_on() -> None:
    pynq = vta_targets.load("pynq")
    assert pynq.hash == vta_targets.load("ultra96").hash
    for keys in (
        {"LOG_WGT_BUFF_SIZE": 17},
        {"FEATURES": ["alu_mul"]},
        {"LOG_BATCH": 1, "LOG_INP_BUFF_SIZE": 16},
    ):
        assert VtaConfig.of(changed(**keys)).hash != pynq.hash


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"LOG_UOP_BUFF_SIZE": 16}, r"word 0 \(uop_bgn, uop_end\) needs 65 of 64 bits, 1 too many"),
        ({"LOG_WGT_BUFF_SIZE": 19}, r"GEMM word 1 .* needs 66 of 64 bits, 2 too many"),
        ({"LOG_WGT_BUFF_SIZE": 19}, r"micro-op .* needs 33 of 32 bits, 1 too many"),
        (
            {"LOG_ACC_BUFF_SIZE": 18, "LOG_WGT_BUFF_SIZE": 15},
            r"ALU word 1 .* needs 68 of 64 bits, 4 too many",
        ),
        ({"LOG_INP_BUFF_SIZE": 21}, r"sram_base \(16 bits\) .* inp scratchpad: 1 bits too many"),
        ({"LOG_BLOCK": 7}, "a wgt element of 16384 bytes exceeds the 4096-byte page"),
        ({"LOG_ACC_BUFF_SIZE": 6}, "LOG_ACC_BUFF_SIZE is too small"),
        ({"LOG_INP_WIDTH": 2}, "LOG_INP_WIDTH 2 is not supported"),
        ({"LOG_OUT_BUFF_SIZE": 12}, "LOG_OUT_BUFF_SIZE is 12, but follows from the others as 15"),
        ({"LOG_BATCH": -1}, "LOG_BATCH is an integer"),
        ({"LOG_BATCH": True}, "LOG_BATCH is an integer"),
        ({"TARGET": "zynq"}, "unknown TARGET"),
        ({"HW_VER": "9"}, "HW_VER"),
        ({"FEATURES": ["alu_div"]}, "alu_div"),
        ({"BUS_BITS": 48}, "BUS_BITS"),
        ({"LOG_BLOK": 4}, "LOG_BLOK"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VtaConfig.of(changed(**keys))


def test_descriptions_can_be_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed(LOG_WGT_BUFF_SIZE=17)))
    assert vta_targets.load(f"@{path}").depth("wgt") == 512
    for text in ("{", "[1]", '{"LOG_BATCH": 0}'):
        bad = tmp_path / f"{len(text)}.json"
        bad.write_text(text)
        with pytest.raises(UsageError):
            vta_targets.load(f"@{bad}")
    with pytest.raises(UsageError, match="unknown VTA target"):
        vta_targets.load("nothing")
