"""CUDA code without a card: every kernel on threads and within limits, source kept, cubin where nvcc is."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import tvm
from tvm import IRModule, relax, tirx
from tvm.s_tir import dlight
from tvm.script import tirx as T

from dlcomp.codegen import cuda
from dlcomp.codegen.link import objects_of
from dlcomp.errors import InternalError
from dlcomp.runtime import cuda_binary
from dlcomp.target import Target

SM90 = Target.parse("cuda:sm_90")


def network() -> IRModule:
    """A bit of everything: convolution, depthwise, pooling, a product, softmax, layer norm, odd sizes."""
    builder = relax.BlockBuilder()

    def tensor(*shape: int) -> relax.TensorType:
        return relax.TensorType(shape, "float32")

    x, w = relax.Var("x", tensor(1, 3, 17, 19)), relax.Var("w", tensor(8, 3, 3, 3))
    d, m = relax.Var("d", tensor(8, 1, 3, 3)), relax.Var("m", tensor(8, 13))
    with builder.function("main", [x, w, d, m]):
        with builder.dataflow():
            conv = builder.emit(relax.op.nn.relu(relax.op.nn.conv2d(x, w, strides=2, padding=1)))
            deep = builder.emit(relax.op.nn.conv2d(conv, d, padding=1, groups=8))
            mean = builder.emit(relax.op.reshape(relax.op.mean(deep, axis=[2, 3]), (1, 8)))
            product = builder.emit(relax.op.matmul(mean, m))
            result = builder.emit_output(relax.op.nn.softmax(relax.op.multiply(product, product)))
        builder.emit_func_output(result)
    return builder.get()


def kernels(module: IRModule) -> dict[str, tirx.PrimFunc]:
    return {v.name_hint: f for v, f in module.functions_items() if isinstance(f, tirx.PrimFunc)}


@pytest.fixture(scope="module")
def built() -> tuple[object, dict[str, bytes]]:
    return cuda.build_cuda(cuda.schedule_cuda(network(), SM90), SM90)


def test_every_kernel_runs_on_threads_within_the_limits() -> None:
    target = SM90.to_tvm()
    found = kernels(cuda.schedule_cuda(network(), SM90))
    assert len(found) >= 4
    for name, function in found.items():
        assert function.attrs[cuda.SCHEDULE_ATTR].startswith("dlight."), name
        assert cuda.fault_of(function, target) is None, name


def test_a_kernel_off_the_threads_is_found() -> None:
    @T.prim_func(s_tir=True)
    def unbound(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("copy"):
                vi = T.axis.spatial(8, i)
                b[vi] = a[vi] * T.float32(2)

    fault = cuda.fault_of(unbound.with_attr("global_symbol", "main"), SM90.to_tvm())
    assert fault is not None
    assert "thread" in fault


def test_a_rule_that_fails_hands_over_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def apply(self, *_: object) -> None:
            raise ValueError("not this shape")

    monkeypatch.setattr(cuda, "_rules", lambda: (Broken(), dlight.gpu.Fallback()))
    found = kernels(cuda.schedule_cuda(network(), SM90))
    assert {str(function.attrs[cuda.SCHEDULE_ATTR]) for function in found.values()} == {"dlight.Fallback"}


def test_no_rule_left_is_an_error_that_names_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_rules", lambda: ())
    with pytest.raises(InternalError, match="no CUDA schedule for "):
        cuda.schedule_cuda(network(), SM90)


def test_source_is_kept_and_packed_into_the_objects(built: tuple[object, dict[str, bytes]]) -> None:
    executable, sources = built
    assert sources["kernels.cu"].count(b"__global__") >= 4
    objects = objects_of(executable)
    assert b"__global__" in objects["vm.o"]
    assert all(data[:4] == b"\x7fELF" for data in objects.values())


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed, so no cubin can be made")
def test_cubin_holds_the_kernels(built: tuple[object, dict[str, bytes]]) -> None:
    cubin = built[1]["kernels.cubin"]
    assert cubin[:4] == b"\x7fELF"
    assert b"_kernel" in cubin


def test_without_nvcc_there_is_source_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert cuda.compile_cubin('extern "C" __global__ void f() {}', "sm_90") is None


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_source_that_nvcc_refuses_gives_no_cubin() -> None:
    assert cuda.compile_cubin("this is no CUDA", "sm_90") is None


@pytest.mark.parametrize("card", ["sm_90", "sm_100"])
def test_loading_answers_tvm_with_the_stored_cubin_if_the_card_can_run_it(
    card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_binary.detect, "cuda_arch", lambda: card)
    monkeypatch.setattr("tvm.support.nvcc.compile_cuda", lambda *_, **__: b"compiled here")
    name = "tvm_callback_cuda_compile"
    before = tvm.get_global_func(name)
    try:
        source = f"source for {card}"
        cuda_binary.provide({"kernels.cu": source.encode(), "kernels.cubin": b"machine code"}, "sm_90")
        found = bytes(tvm.get_global_func(name)(source))
        assert found == (b"machine code" if card == "sm_90" else b"compiled here")
    finally:
        tvm.register_global_func(name, before, override=True)


SUITE = ("efficientnet_lite0", "yolox_det", "ppocr_det", "ppocr_rec", "ppocr_cls", "resnet50_thin", "minilm")


@pytest.mark.slow
@pytest.mark.parametrize("model_id", SUITE)
def test_suite_model_compiles_without_a_card(model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import dlcomp

    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    models = importlib.import_module("models")
    model = dlcomp.load(models.fetch(model_id), shapes=models.SUITE[model_id].shapes)
    artifact = model.compile("cuda:sm_90")
    assert b"__global__" in artifact.sources["kernels.cu"]
    assert shutil.which("nvcc") is None or "kernels.cubin" in artifact.sources
