"""``vta:NAME`` as a target of dlcomp."""

from __future__ import annotations

import json

import pytest

from dlcomp import vta_targets
from dlcomp.errors import ModelError, UsageError
from dlcomp.target import Target


@pytest.mark.parametrize("name", vta_targets.names())
def test_a_vta_target_is_parsed_and_survives(name: str) -> None:
    target = Target.parse(f"vta:{name}")
    assert (target.kind, target.arch) == ("vta", name)
    assert Target.parse(json.dumps(target.to_dict())) == target
    assert str(target).startswith(f"vta:{name}, beside ")
    triple = vta_targets.load(name).host_triple
    assert target.triple == (triple or Target.host().triple)


def test_unknown_accelerators_are_refused() -> None:
    for spec in ("vta", "vta:", "vta:zynq"):
        with pytest.raises(UsageError, match="unknown VTA target"):
            Target.parse(spec)
    fields = {**Target.parse("vta:pynq").to_dict(), "arch": "zynq"}
    with pytest.raises(UsageError, match="unknown VTA target"):
        Target.parse(fields)


def test_a_network_of_real_numbers_is_refused_rather_than_compiled_for_the_host() -> None:
    import onnx
    from onnx import TensorProto, helper

    import dlcomp

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ModelError, match="can run on VTA"):
        dlcomp.load(model).compile("vta:pynq")
