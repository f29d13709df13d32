"""``vta:NAME`` as a target of dlcomp."""

from __future__ import annotations

import json

import pytest

from dlcomp import vta_targets
from dlcomp.errors import UsageError
from dlcomp.target import Target


@pytest.mark.parametrize("name", vta_targets.names())
def test_a_vta_target_is_parsed_and_survives(name: str) -> None:
    target = Target.parse(f"vta:{name}")
    assert (target.kind, target.arch) == ("vta", name)
    assert Target.parse(json.dumps(target.to_dict())) == target
    assert str(target).startswith(f"vta:{name}, host code for ")
    triple = vta_targets.load(name).host_triple
    assert target.triple == (triple or Target.host().triple)


def test_unknown_accelerators_are_refused() -> None:
    for spec in ("vta", "vta:", "vta:zynq"):
        with pytest.raises(UsageError, match="unknown VTA target"):
            Target.parse(spec)
    fields = {**Target.parse("vta:pynq").to_dict(), "arch": "zynq"}
    with pytest.raises(UsageError, match="unknown VTA target"):
        Target.parse(fields)


def test_a_network_is_refused_rather_than_compiled_for_the_host() -> None:
    from dlcomp.pipeline import compile_model

    with pytest.raises(UsageError, match="cannot be compiled for VTA yet"):
        compile_model(None, "vta:pynq")  # type: ignore[arg-type]
