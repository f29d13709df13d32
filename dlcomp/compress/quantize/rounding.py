"""Which integer each weight becomes: the nearest, or the one with which the layer's outputs err least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer
from dlcomp.compress.matrices import from_matrices, to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.quantize.adaround import adaptive
from dlcomp.compress.quantize.grid import Grid
from dlcomp.compress.rounding import Nearest, in_order
from dlcomp.compress.second_order import second_order
from dlcomp.errors import UsageError

ROUNDINGS = ("nearest", "gptq", "adaround")


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded.

    Attributes
    ----------
    method : str
        ``nearest``; ``gptq``: one input after the other, the errors made up for by those to come;
        ``adaround``: up or down, by a search from there.
    act_order : bool
        GPTQ takes the inputs of the largest mean square first, instead of the order they stand in.
    damping : float
        Added to the diagonal of Hessians, of its mean.
    steps : int
        Of AdaRound's search.
    """

    method: str = "nearest"
    act_order: bool = True
    damping: float = 0.01
    steps: int = 500

    def __post_init__(self) -> None:
        if self.method not in ROUNDINGS:
            raise UsageError(f"there is no rounding {self.method!r}", hint=", ".join(ROUNDINGS))
        if not 0 < self.damping <= 1:
            raise UsageError(f"the damping is above 0 and at most 1, not {self.damping}")
        if self.steps < 1:
            raise UsageError(f"the search takes at least 1 step, not {self.steps}")

    def integers(
        self, layer: Layer, weight: np.ndarray, hessian: np.ndarray | None, grid: Grid, most: int
    ) -> np.ndarray:
        """``weight`` on ``grid``, from ``-most`` to ``most``.

        ``hessian`` is (G, K, K), positive definite; without one, of layers that are no product of matrices,
        it is the nearest. Zeros stay zeros: of a sparse weight none may be filled by what others err.
        """
        if self.method == "nearest" or hessian is None:
            return grid.integers(weight, -most, most)
        wanted = to_matrices(layer, weight).astype(np.float64)
        scale = np.broadcast_to(grid.aligned(grid.scale, weight.shape), weight.shape)
        steps = to_matrices(layer, scale).astype(np.float64)

        def nearest_of(given: np.ndarray, step: np.ndarray) -> Nearest:
            def nearest(column: np.ndarray, place: int) -> np.ndarray:
                integers = np.clip(np.rint(column / step[:, place]), -most, most)
                return np.where(given[:, place] == 0, 0.0, integers * step[:, place])

            return nearest

        parts = zip(wanted, hessian, steps, strict=True)
        made = np.stack([in_order(w, h, nearest_of(w, s), self.act_order) for w, h, s in parts])
        made = np.rint(made / steps)
        if self.method == "adaround":
            made = adaptive(wanted / steps, hessian, made, -most, most, self.steps)
        return np.asarray(from_matrices(layer, made, weight.shape).astype(grid.zero.dtype))


def hessians(
    network: Network, layers: Sequence[Layer], data: Calibration, centred: bool, damping: float
) -> Iterator[tuple[Layer, np.ndarray]]:
    """What each layer reads in the network as it is; ``centred`` where a bias takes the mean error."""
    for layer, moments in second_order(network, layers, data):
        yield layer, moments.damped(centred and layer.node.op_type != "MatMul", damping)
