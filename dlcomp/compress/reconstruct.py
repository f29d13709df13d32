"""Layers of a changed network fitted to what they computed before, one after another.

Each layer reads what the layers before it make now and is to make what it made in the network as it was: so
that errors are repaired where they arise and do not add up (He et al., "Channel pruning", 2017, section 3.3).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dlcomp.compress.data import Calibration, Feed
from dlcomp.compress.layers import Layer, layers_of, weight_of
from dlcomp.compress.matrices import from_matrices, rows, to_matrices
from dlcomp.compress.network import Network
from dlcomp.compress.observe import Watched
from dlcomp.compress.refit import refit
from dlcomp.compress.second_order import POSITIONS, Moments, kernel_of

# Bytes of outputs that are held at a time; layers beyond have another pass over the data.
_BUDGET = 1 << 30
# What a layer made, chunk by chunk (G, N, O); None where something was not finite.
_Outputs = list[np.ndarray | None]


@dataclass(frozen=True)
class Fit:
    """A layer to be fitted.

    Attributes
    ----------
    before, after : Layer
        It in the network as it was and in the changed one.
    outputs : (O,) bool
        Which outputs of ``before`` are those of ``after``; all of them in a network that was not shrunk.
    sparse : bool
        Whether weights of zero stay zero.
    """

    before: Layer
    after: Layer
    outputs: np.ndarray
    sparse: bool = False


def fits_of(old: Network, new: Network, made: Collection[str], sparse: bool) -> list[Fit]:
    """The layers whose outputs are ``made``, in both of two networks of the same layers."""
    fits = []
    for before, after in zip(layers_of(old), layers_of(new), strict=True):
        if before.output in made:
            outputs = weight_of(old, before).shape[before.axis]
            fits.append(Fit(before, after, np.ones(outputs, bool), sparse))
    return fits


@dataclass(frozen=True)
class Target:
    """What the outputs of a layer of ``fit`` are to be, as least squares for each group of it.

    The error of weights w of a row is w H w^T - 2 w b^T and a constant; that of the mean goes into the bias.

    Attributes
    ----------
    start : (G, O, K) float64
        The weights that it has.
    hessian : (G, K, K) float64
        H, damped.
    wanted : (G, O, K) float64
        b.
    read, made : (G, K) and (G, O) float64
        The means of what it reads now, and of what it made without its bias.
    """

    fit: Fit
    start: np.ndarray
    hessian: np.ndarray
    wanted: np.ndarray
    read: np.ndarray
    made: np.ndarray

    def fitted(self) -> np.ndarray:
        """(G, O, K): the weights of the least error."""
        masks = self.start != 0 if self.fit.sparse else np.ones(self.start.shape, bool)
        parts = zip(self.start, self.hessian, self.wanted, masks, strict=True)
        return np.stack([refit(*part) for part in parts])


def reconstruct(old: Network, new: Network, fits: list[Fit], data: Calibration, damping: float) -> None:
    """Change the weights and biases in ``new`` of every layer of ``fits``, which are in the network's order.

    ``damping`` times the mean of the Hessian's diagonal keeps a layer near its weights where data say little.
    """
    for target in targets(old, new, fits, data, damping):
        set_fitted(old, new, target, target.fitted())


def targets(
    old: Network, new: Network, fits: list[Fit], data: Calibration, damping: float
) -> Iterator[Target]:
    """What each layer of ``fits`` is to do, on what those before it, changed by then, make in ``new``."""
    given = [name for fit in fits for name in _own(new, fit.after)]
    before = Watched(old, {fit.before.data for fit in fits})
    after = Watched(new, {fit.after.data for fit in fits}, given)
    waiting = list(fits)
    while waiting:
        wave = _made(old, waiting, before.over(data))
        for fit, made in zip(waiting, wave, strict=False):
            yield _target(new, fit, made, after.over(data), damping)
        waiting = waiting[len(wave) :]


def set_fitted(old: Network, new: Network, target: Target, made: np.ndarray) -> None:
    """Store the weights ``made`` (G, O, K), and the bias with which the outputs have the mean they had."""
    fit = target.fit
    matrices = from_matrices(fit.after, made, weight_of(new, fit.after).shape).astype(np.float32)
    new.set_weight(fit.after.node.input[fit.after.weight], matrices)
    if fit.after.node.op_type != "MatMul":
        shift = target.made - np.einsum("gok,gk->go", made, target.read)
        bias = shift.reshape(-1) + bias_of(old, fit.before)[fit.outputs]
        new.set_weight(fit.after.node.input[2], bias.astype(np.float32))


def _own(network: Network, layer: Layer) -> list[str]:
    """The weight and the bias of ``layer`` under names that no other layer reads; it gets a bias if need be.

    Its bias is fitted before anything reads what the layer makes.
    """
    names = [network.own_weight(layer.node, layer.weight)]
    if layer.node.op_type != "MatMul":
        set_bias(network, layer, bias_of(network, layer))
        names.append(str(layer.node.input[2]))
    return names


def _made(old: Network, fits: Sequence[Fit], values: Iterable[Feed]) -> list[_Outputs]:
    """What layers made before, without their biases: of as many of ``fits`` as memory holds, the first ones.

    Nothing that is fitted changes it, so that a pass over the data serves many layers.
    """
    held: list[_Outputs] = [[] for _ in fits]
    for number, feed in enumerate(values):
        for fit, outputs in zip(fits, held, strict=False):
            outputs.extend(_outputs(old, fit, feed, number))
        while sum(map(_bytes, held)) > _BUDGET and len(held) > 1:
            held.pop()
    return held


def _bytes(outputs: _Outputs) -> int:
    return sum(part.nbytes for part in outputs if part is not None)


def _outputs(old: Network, fit: Fit, feed: Feed, number: int) -> Iterator[np.ndarray | None]:
    """(G, N, O) for each chunk of rows; None where it reads something that is not finite."""
    matrices = to_matrices(fit.before, weight_of(old, fit.before))
    kept = fit.outputs.reshape(len(matrices), -1)
    # A depthwise convolution loses whole groups, all others lose as many outputs in each.
    groups = kept.any(axis=1)
    for read in rows(fit.before, kernel_of(old, fit.before), feed[fit.before.data], POSITIONS, number):
        if not np.isfinite(read).all():
            yield None
            continue
        x = read.reshape(len(read), -1, read.shape[-1])
        y = np.matmul(x, matrices.transpose(0, 2, 1))[groups]
        yield np.stack([part[:, mask] for part, mask in zip(y, kept[groups], strict=True)])


def _target(new: Network, fit: Fit, made: _Outputs, values: Iterable[Feed], damping: float) -> Target:
    start = to_matrices(fit.after, weight_of(new, fit.after)).astype(np.float64)
    moments, products, total = _products(new, fit, made, values)
    centred = fit.after.node.op_type != "MatMul"
    hessian = moments.damped(centred, damping)
    wanted, mean = products / moments.count, total / moments.count
    if centred:
        wanted = wanted - mean[:, :, None] * moments.mean[:, None, :]
    # The damping pulls towards the weights that the layer starts from.
    ridge = np.einsum("gkk->gk", hessian - moments.hessian(centred))
    wanted = wanted + start * ridge[:, None, :]
    return Target(fit, start, hessian, wanted, moments.mean, mean)


def _products(
    new: Network, fit: Fit, made: _Outputs, values: Iterable[Feed]
) -> tuple[Moments, np.ndarray, np.ndarray]:
    """The moments of what the layer reads now, sums of y x^T ``(G, O, K)`` and of y ``(G, O)``.

    y are the outputs that the layer had, ``made``. What holds values that are not finite is left out.
    """
    moments = Moments()
    groups = len(to_matrices(fit.after, weight_of(new, fit.after)))
    products, total = np.zeros((groups, 1, 1)), np.zeros((groups, 1))
    chunks = (
        read
        for number, feed in enumerate(values)
        for read in rows(fit.after, kernel_of(new, fit.after), feed[fit.after.data], POSITIONS, number)
    )
    for y, read in zip(made, chunks, strict=True):
        if y is None or not np.isfinite(read).all():
            continue
        moments.add(read)
        z = read.reshape(len(read), -1, read.shape[-1])
        products = products + np.matmul(y.transpose(0, 2, 1), z)
        total = total + y.sum(axis=1, dtype=np.float64)
    return moments, products, total


def bias_of(network: Network, layer: Layer) -> np.ndarray:
    """(O,) float64; zeros where there is none."""
    outputs = weight_of(network, layer).shape[layer.axis]
    if layer.bias is None:
        return np.zeros(outputs)
    stored = network.weights[layer.node.input[layer.bias]].astype(np.float64).reshape(-1)
    return np.broadcast_to(stored, (outputs,))


def set_bias(network: Network, layer: Layer, bias: np.ndarray) -> None:
    """Give a Conv or Gemm the bias (O,), also one that had none."""
    name = network.name(f"{layer.node.output[0]}_bias")
    network.set_weight(name, bias.astype(np.float32))
    del layer.node.input[2:]
    layer.node.input.append(name)
