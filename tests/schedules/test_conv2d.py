"""Direct convolution against onnxruntime, for the shapes that hurt."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, check, schedules


@dataclass(frozen=True)
class Case:
    """x (n, c, h, w) by weights (o, c/g, *k); ``p`` is top, left, bottom, right."""

    n: int = 1
    c: int = 8
    h: int = 9
    w: int = 9
    o: int = 16
    k: tuple[int, int] = (3, 3)
    s: tuple[int, int] = (1, 1)
    p: tuple[int, int, int, int] = (1, 1, 1, 1)
    d: tuple[int, int] = (1, 1)
    g: int = 1

    @property
    def fits(self) -> bool:
        sizes = (self.h + self.p[0] + self.p[2], self.w + self.p[1] + self.p[3])
        return all((k - 1) * d + 1 <= size for k, d, size in zip(self.k, self.d, sizes, strict=True))

    def add_to(self, net: Net) -> None:
        x = net.input(self.n, self.c, self.h, self.w)
        y = net.conv(x, self.c, self.o, self.k, strides=self.s, pads=self.p, dilations=self.d, group=self.g)
        net.output(y)


def _net(cases: list[Case]) -> Net:
    net = Net()
    for case in cases:
        case.add_to(net)
    return net


CASES = {
    "strides": [
        Case(s=(2, 2)),
        Case(s=(2, 1), h=11),
        Case(s=(1, 3), w=13),
        Case(s=(4, 4), k=(4, 4), p=(0, 0, 0, 0), h=16, w=16, c=3, o=24),
        Case(s=(3, 3), k=(1, 1), p=(0, 0, 0, 0), h=10, w=11),
        Case(s=(5, 5), k=(2, 2), p=(0, 0, 0, 0)),
    ],
    "asymmetric pads": [
        Case(p=(0, 1, 2, 3)),
        Case(p=(3, 0, 0, 0)),
        Case(p=(0, 0, 0, 4), s=(2, 2)),
        Case(p=(0, 0, 1, 1), s=(2, 2), h=10, w=10),
        Case(p=(1, 1, 1, 1), k=(1, 1)),
        Case(p=(2, 2, 2, 2), k=(2, 2)),
    ],
    "dilations": [
        Case(d=(2, 2), p=(2, 2, 2, 2)),
        Case(d=(3, 1), p=(3, 1, 3, 1)),
        Case(d=(4, 4), p=(4, 4, 4, 4), h=5, w=5),
        Case(d=(2, 2), s=(2, 2), p=(2, 2, 2, 2), h=8, w=7),
        Case(d=(6, 6), p=(6, 6, 6, 6), h=3, w=3),
    ],
    "groups": [
        Case(g=2),
        Case(c=6, o=9, g=3),
        Case(c=5, o=10, g=5),
        Case(c=8, o=24, g=8),
        Case(c=34, o=34, g=17),
        Case(c=16, o=4, g=4, k=(1, 1), p=(0, 0, 0, 0)),
        Case(c=3, o=51, g=3, n=3),
    ],
    "flat kernels": [
        Case(k=(1, 7), p=(0, 3, 0, 3)),
        Case(k=(7, 1), p=(3, 0, 3, 0)),
        Case(k=(1, 3), p=(0, 0, 0, 0), s=(2, 1)),
        Case(k=(5, 2), p=(2, 0, 2, 1)),
        Case(h=1, k=(1, 3), p=(0, 1, 0, 1)),
        Case(w=1, k=(3, 1), p=(1, 0, 1, 0)),
    ],
    "tiny maps": [
        Case(h=1, w=1),
        Case(h=1, w=1, k=(1, 1), p=(0, 0, 0, 0), c=17, o=33),
        Case(h=1, w=2, n=3),
        Case(h=2, w=1, k=(5, 5), p=(2, 2, 2, 2)),
        Case(h=3, w=3, p=(0, 0, 0, 0)),
        Case(h=2, w=2, k=(7, 7), p=(3, 3, 3, 3)),
        Case(h=1, w=1, k=(3, 3), p=(3, 3, 3, 3)),
        Case(h=2, w=3, k=(4, 5), p=(1, 1, 1, 1)),
    ],
    "channels": [
        Case(c=1, o=1),
        Case(c=3, o=32),
        Case(c=7, o=13),
        Case(c=32, o=1),
        Case(c=4, o=17),
        Case(c=5, o=31, n=3),
        Case(c=2, o=67),
        Case(c=64, o=48, h=14, w=14),
    ],
    "batch 3": [
        Case(n=3),
        Case(n=3, h=7, w=5, s=(2, 2)),
        Case(n=3, k=(1, 1), p=(0, 0, 0, 0), o=19),
        Case(n=3, k=(5, 5), p=(2, 2, 2, 2), c=3),
    ],
    "shared among cores": [
        Case(c=32, o=40, h=17, w=31),
        Case(n=3, c=16, o=70, h=23, w=9, s=(2, 1), g=2),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str) -> None:
    check(_net(CASES[name]))


@pytest.mark.parametrize("name", ["strides", "dilations", "channels", "tiny maps"])
def test_takes_every_convolution(name: str) -> None:
    """No silent fallback to the default schedule, and a 1x1 convolution of stride 1 is a GEMM."""
    (artifact,) = check(_net(CASES[name]), targets=("host",))
    taken = schedules(artifact, "conv2d") + schedules(artifact, "gemm")
    assert taken
    assert set(taken) <= {"conv2d.direct", "conv2d.winograd", "gemm.packed"}


_PADS = st.integers(0, 3)
_cases = st.builds(
    Case,
    n=st.sampled_from([1, 2, 3]),
    c=st.integers(1, 4),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    o=st.integers(1, 12),
    k=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    s=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    p=st.tuples(_PADS, _PADS, _PADS, _PADS),
    d=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    g=st.integers(1, 4),
)


def _grouped(case: Case) -> Case:
    fields = {**vars(case), "c": case.c * case.g, "o": case.o * case.g}
    return Case(**fields)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.lists(_cases.map(_grouped).filter(lambda case: case.fits), min_size=4, max_size=4))
def test_any_geometry(cases: list[Case]) -> None:
    check(_net(cases))


def test_window_that_sees_only_padding() -> None:
    """The convolution is its bias: the image is no operand at all."""
    check(
        _net(
            [
                Case(c=2, h=1, w=1, k=(1, 1), s=(2, 1), p=(1, 0, 0, 0)),
                Case(c=1, o=1, h=1, w=1, k=(1, 1), s=(2, 2), p=(1, 1, 0, 0)),
            ]
        )
    )
