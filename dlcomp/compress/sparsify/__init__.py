"""Sparsity after training: which weights go, how the others make up for it, and where zeros may stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, check_expressions, check_names, layers_of, matches, weight_of
from dlcomp.compress.matrices import from_matrices, has_matrices, to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.reconstruct import bias_of, fits_of, reconstruct, set_bias
from dlcomp.compress.refit import error_of
from dlcomp.compress.second_order import Moments, second_order
from dlcomp.compress.sparsify.allocate import alike, by_threshold, erk
from dlcomp.compress.sparsify.methods import METHODS, scores
from dlcomp.compress.sparsify.patterns import Pattern
from dlcomp.errors import ModelError, UsageError

__all__ = ["Sparsify", "candidates"]

_SCOPES = ("layer", "erk", "global")


@dataclass(frozen=True)
class Sparsify:
    """Weights set to zero.

    Attributes
    ----------
    method : str
        ``magnitude``, ``wanda``, ``obs`` (SparseGPT) or ``admm``; all but the first need data.
    target : float or None
        The share of weights, or of blocks, that go, 0 to 1; None is what an N:M pattern says, and half of any
        other.
    targets : mapping of str to float, or None
        The share for each layer by name, in place of ``target`` and ``scope``; others stay dense.
    scope : str
        ``layer``: the target in each; ``erk``: small layers lose less; ``global``: one threshold for all.
    pattern : str
        ``unstructured``, ``N:M`` (N of M neighbouring input channels stay), or a block ``OUTPUTSxINPUTS``.
    correct_bias : bool
        Of the methods with data: the mean error of each layer goes into its bias.
    rebuild : bool
        Fit the weights that are left again, layer after layer on what the sparse layers before them make
        (needs data): slower, and errors do not add up.
    damping : float
        Added to the diagonal of Hessians, of its mean.
    keep : tuple of str
        Regular expressions: layers whose name one is found in stay dense.

    Depthwise convolutions stay dense: they are few weights, each of which does much. So does a layer that the
    pattern does not fit; the effect names both.

    Raises
    ------
    UsageError
        An option that is not one of these, or that does not go with the pattern.
    """

    method: str = "obs"
    target: float | None = None
    scope: str = "layer"
    pattern: str = "unstructured"
    correct_bias: bool = True
    rebuild: bool = False
    damping: float = 0.01
    keep: tuple[str, ...] = ()
    targets: Mapping[str, float] | None = None
    name: str = "sparsify"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"there is no method {self.method!r}", hint=", ".join(METHODS))
        if self.scope not in _SCOPES:
            raise UsageError(f"there is no scope {self.scope!r}", hint=", ".join(_SCOPES))
        if self.target is not None and not 0 <= self.target <= 1:
            raise UsageError(f"the target is a share from 0 to 1, not {self.target}")
        for layer, share in (self.targets or {}).items():
            if not 0 <= share <= 1:
                raise UsageError(f"the target of {layer} is a share from 0 to 1, not {share}")
        if not 0 < self.damping <= 1:
            raise UsageError(f"the damping is above 0 and at most 1, not {self.damping}")
        fixed = Pattern.parse(self.pattern).fixed
        if fixed is not None and self.target is not None and abs(self.target - fixed) > 1e-6:
            raise UsageError(f"the pattern {self.pattern} makes a share of {fixed:g} zero, not {self.target}")
        if fixed is not None and self.scope != "layer":
            raise UsageError(
                f"the pattern {self.pattern} is the same in every layer, which scope={self.scope} is not",
                hint="scope=layer, or a pattern of blocks",
            )
        check_expressions(self.keep)

    @property
    def fixed(self) -> float | None:
        """The share that the pattern makes zero whatever the target; None of one that does not say."""
        return Pattern.parse(self.pattern).fixed

    @property
    def needs_data(self) -> bool:
        return self.method != "magnitude" or self.rebuild

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Set weights of ``network`` to zero; the account of how many, by layer, and at what error.

        An error is the share of a layer's outputs that is wrong if it reads what it did before (without data:
        of its weights), and before it is fitted again.
        """
        pattern = Pattern.parse(self.pattern)
        layers, dense = _chosen(network, pattern, self.keep)
        if self.targets is not None:
            check_names(self.targets, {layer.name for layer in layers}, "sparsify")
            dense |= {layer.name: "no target" for layer in layers if layer.name not in self.targets}
            layers = [layer for layer in layers if layer.name in self.targets]
        shares = self._shares(network, layers, pattern, data)
        before = network.copy()
        zeros = total = 0
        sparsity: dict[str, float] = {}
        error: dict[str, float] = {}
        # Waves of layers are observed in turn: in the network as it was, whatever their number.
        for layer, moments in self._moments(before, layers, data):
            change = self._layer(network, layer, moments, pattern, shares[layer.output])
            made = weight_of(network, layer)
            gone = int((made == 0).sum())
            zeros, total = zeros + gone, total + made.size
            sparsity[layer.name] = round(gone / made.size, 4)
            error[layer.name] = round(change, 6)
        if self.rebuild and data is not None:
            sparse = {layer.output for layer in layers}
            reconstruct(before, network, fits_of(before, network, sparse, True), data, self.damping)
        return {
            "layers": len(layers),
            "dense": dense,
            "zeros": zeros,
            "weights": total,
            "sparsity": sparsity,
            "error": error,
        }

    def _moments(
        self, network: Network, layers: Sequence[Layer], data: Calibration | None
    ) -> Iterator[tuple[Layer, Moments | None]]:
        if data is None or self.method == "magnitude":
            yield from ((layer, None) for layer in layers)
        else:
            yield from second_order(network, layers, data)

    def _hessians(self, layer: Layer, moments: Moments | None) -> Sequence[np.ndarray | None]:
        """(K, K) for each group; None where there are no data and every input counts the same."""
        if moments is None:
            return [None] * layer.groups
        return list(moments.damped(self._centred(layer), self.damping))

    def _centred(self, layer: Layer) -> bool:
        """Whether a bias takes the mean error: MatMul has none."""
        return self.correct_bias and layer.node.op_type != "MatMul"

    def _shares(
        self, network: Network, layers: Sequence[Layer], pattern: Pattern, data: Calibration | None
    ) -> dict[str, float]:
        """The sparsity of each layer, by name."""
        if self.targets is not None:
            return {layer.output: self.targets[layer.name] for layer in layers}
        target = 0.5 if self.target is None else self.target
        weights = {layer.output: weight_of(network, layer) for layer in layers}
        if self.scope == "layer":
            return alike({name: array.size for name, array in weights.items()}, target)
        if self.scope == "erk":
            return erk({name: array.shape for name, array in weights.items()}, target)
        costs: dict[str, np.ndarray] = {}
        for layer, moments in self._moments(network, layers, data):
            matrices = to_matrices(layer, weights[layer.output]).astype(np.float64)
            hessians = self._hessians(layer, moments)
            parts = [
                pattern.units(scores(self.method, matrix, hessian)).astype(np.float32).reshape(-1)
                for matrix, hessian in zip(matrices, hessians, strict=True)
            ]
            costs[layer.output] = np.concatenate(parts)
        return by_threshold(costs, pattern.rows * pattern.columns, target)

    def _layer(
        self, network: Network, layer: Layer, moments: Moments | None, pattern: Pattern, share: float
    ) -> float:
        """Make one layer sparse; the share of its outputs' energy that is wrong now."""
        name = network.own_weight(layer.node, layer.weight)
        weight = network.weights[name]
        before = to_matrices(layer, weight).astype(np.float64)
        hessians = self._hessians(layer, moments)
        method = METHODS[self.method]
        after = np.stack([method(m, h, pattern, share) for m, h in zip(before, hessians, strict=True)])
        network.set_weight(name, from_matrices(layer, after, weight.shape).astype(np.float32))
        if moments is not None and self._centred(layer):
            shift = np.einsum("gok,gk->go", before - after, moments.mean).reshape(-1)
            set_bias(network, layer, bias_of(network, layer) + shift)
        wrong = sum(error_of(a - b, h) for a, b, h in zip(after, before, hessians, strict=True))
        energy = sum(error_of(b, h) for b, h in zip(before, hessians, strict=True))
        return wrong / energy if energy else 0.0


def candidates(network: Network, pass_: Sparsify) -> list[Layer]:
    """The layers that ``pass_`` could make sparse."""
    return _chosen(network, Pattern.parse(pass_.pattern), pass_.keep)[0]


def _chosen(network: Network, pattern: Pattern, keep: Sequence[str]) -> tuple[list[Layer], dict[str, str]]:
    """The layers that become sparse, and why the others stay dense.

    Raises
    ------
    ModelError
        There is no layer to make sparse.
    UsageError
        The pattern fits none.
    """
    chosen, dense = [], {}
    misfits = []
    for layer in layers_of(network):
        weight = weight_of(network, layer)
        if not has_matrices(layer, weight):
            continue
        if matches(layer.node, keep):
            dense[layer.name] = "kept"
            continue
        _, outputs, inputs = to_matrices(layer, weight).shape
        channels = weight.shape[1] if layer.node.op_type == "Conv" else inputs
        if layer.groups > 1 and channels == 1:
            dense[layer.name] = "depthwise"
            continue
        reason = pattern.misfit(outputs, inputs, channels)
        if reason:
            dense[layer.name] = reason
            misfits.append(f"{layer.name} {list(weight.shape)}: {reason}")
            continue
        chosen.append(layer)
    if not chosen and misfits:
        raise UsageError(
            f"the pattern fits no layer; {misfits[0]}",
            hint="a smaller pattern, or unstructured",
            where="sparsify",
        )
    if not chosen:
        raise ModelError("it has no layer with a stored weight to make sparse", where="sparsify")
    return chosen, dense
