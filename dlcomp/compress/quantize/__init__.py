"""Quantization after training: integers with scales, chosen on real inputs, written as standard QDQ nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import version_converter

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, exactly, layers_of, matches, weight_of
from dlcomp.compress.matrices import from_matrices, has_matrices, to_matrices
from dlcomp.compress.memory import Memory
from dlcomp.compress.network import Network
from dlcomp.compress.observe import Histogram, observe
from dlcomp.compress.quantize import power_of_two
from dlcomp.compress.quantize.bias import mean_error, without_overflow
from dlcomp.compress.quantize.check import ACTIVATIONS, DYNAMIC, FLOAT, check
from dlcomp.compress.quantize.dynamic import is_product, write_dynamic, write_recurrent
from dlcomp.compress.quantize.grid import Grid, grid_of_groups, grid_of_range, grid_of_weight
from dlcomp.compress.quantize.plan import Plan, plan
from dlcomp.compress.quantize.ranges import range_of
from dlcomp.compress.quantize.rounding import Rounding, hessians
from dlcomp.compress.quantize.sensitive import spared
from dlcomp.compress.quantize.tables import write_tables
from dlcomp.compress.quantize.write import write_activations, write_bias, write_weight
from dlcomp.compress.reconstruct import fits_of, set_bias, set_fitted, targets
from dlcomp.errors import ModelError

__all__ = ["Quantize"]


@dataclass(frozen=True)
class Quantize:
    """Weights and activations as integers.

    Attributes
    ----------
    activations : str
        ``uint8``, ``int8``, ``uint16`` or ``int16``. Without data, unless the rounding needs some (and no
        bias is corrected then): ``float32`` for weights alone; ``dynamic`` for products of matrices on
        integers by the ranges of each run, all other layers left in float. With these two also weights of
        LSTM, GRU and RNN become integers, and tables that rows are looked up in (8 bits, a scale for a row).
    bits : int
        Of the weights, 2 to 8, stored in 8; of weights alone up to 4 in 4.
    per_channel : bool
        A scale for each output channel of a weight.
    symmetric : bool
        Activations without a zero point (in the middle of unsigned types).
    method : str
        How ranges are chosen: minmax, average, percentile, entropy or mse.
    weight_search : bool
        Scales of weights by least squared error, and not by the largest magnitude.
    correct_bias : bool
        Take the mean error of every layer out of its bias.
    rounding : str
        Of weights: ``nearest``, ``gptq`` or ``adaround``, which see what layers read; for fewer than 8 bits,
        with ``weight_search``.
    sequential : bool
        Each layer is fitted to what it made before and reads what the quantized layers before it make, so
        that errors do not add up: a run of the network on all data for each layer.
    act_order : bool
        GPTQ rounds inputs of the largest mean square first.
    damping : float
        Added to the diagonal of Hessians, of its mean.
    steps : int
        Of AdaRound's search.
    keep : tuple of str
        Regular expressions: layers whose name one is found in stay in float.
    integer_macs : float
        At least this share of the multiply-accumulates of all layers that would be quantized is; below 1, the
        layers that the network loses most by for their MACs, each quantized alone, stay in float.
    wide : tuple of str
        Regular expressions: what layers read whose name one is found in has 16 bits.
    scales : str
        ``any``, or ``power_of_two`` for processors that rescale by shifts, such as VTA: activations then are
        int8 without a zero point, whatever else is asked for.

    Raises
    ------
    UsageError
        An option that is not one of these.
    """

    activations: str = "uint8"
    bits: int = 8
    per_channel: bool = True
    symmetric: bool = False
    method: str = "mse"
    weight_search: bool = False
    correct_bias: bool = True
    keep: tuple[str, ...] = ()
    scales: str = "any"
    rounding: str = "nearest"
    sequential: bool = False
    act_order: bool = True
    damping: float = 0.01
    steps: int = 500
    integer_macs: float = 1.0
    wide: tuple[str, ...] = ()
    group: int = 0
    name: str = "quantize"

    def __post_init__(self) -> None:
        if self.scales == "power_of_two":
            for option, value in (("activations", "int8"), ("symmetric", True)):
                object.__setattr__(self, option, value)
        check(self)
        self._rounding()

    def _rounding(self) -> Rounding:
        return Rounding(self.rounding, self.act_order, self.damping, self.steps)

    @property
    def _alone(self) -> bool:
        """Whether no range of activations is to be known."""
        return self.activations in (FLOAT, DYNAMIC)

    @property
    def _packed(self) -> bool:
        """Whether weights are stored in 4 bits: integer arithmetic has 8."""
        return self.activations == FLOAT and self.bits <= 4

    @property
    def needs_data(self) -> bool:
        return not self._alone or self.rounding != "nearest" or self.sequential

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Put quantize and dequantize nodes into ``network``; the account of what became integers."""
        late = "16" in self.activations or self.wide or self.group or self._packed
        _raise_opset(network, 21 if late else 13)
        before = sum(array.nbytes for array in network.weights.values())
        # Before the plan, whose nodes are no longer the network's after tables have been written.
        others = self._others(network)
        chosen = self._plan(network)
        if not chosen.layers and not others:
            kind = "product of matrices, recurrent layer or table" if self.activations == DYNAMIC else "layer"
            raise ModelError(f"it has no {kind} with a stored weight to quantize", where="quantize")
        channels: dict[str, int] = {}
        for layer in chosen.layers if self.correct_bias and data is not None else ():
            channels.setdefault(layer.data, layer.channels)
        names = list(channels) if self._alone else chosen.values
        seen = observe(network, names, data, channels) if data is not None and names else {}
        grids = {} if self._alone else self._grids(chosen, seen)
        for layer in chosen.layers:
            network.own_weight(layer.node, layer.weight)
        kept: tuple[str, ...] = ()
        if self.integer_macs < 1 and data is not None:
            kept = self._spared(network, chosen, grids, data)
            chosen = self._plan(network, exactly(kept))
            grids = {name: grids[name] for name in chosen.values}
        if self.sequential and data is not None:
            self._in_turn(network, chosen, grids, data)
        else:
            weights = self._weights(network, chosen.layers, grids, data)
            for layer in chosen.layers:
                known = channels.get(layer.data) == layer.channels
                mean = seen[layer.data].mean if known else None
                self._layer(network, layer, grids.get(layer.data), mean, *weights[layer.output])
            write_activations(network, chosen, grids)
        network.drop_unread()
        after = sum(_bytes(array) for array in network.weights.values())
        account = {"layers": len(chosen.layers) + others, "values": len(grids), "bytes": [before, after]}
        return account if self.integer_macs == 1 else {**account, "kept": list(kept)}

    def _spared(
        self, network: Network, chosen: Plan, grids: Mapping[str, Grid], data: Calibration
    ) -> tuple[str, ...]:
        """The names of the layers that stay in float."""
        # The weights of the others are rounded a second time.
        data.memory = data.memory or Memory()
        rounded = self._weights(network, chosen.layers, grids, data)
        weights = {name: grid.reals(integers) for name, (grid, integers) in rounded.items()}
        return spared(network, chosen.layers, grids, weights, data, self.integer_macs)

    def _plan(self, network: Network, more: tuple[str, ...] = ()) -> Plan:
        chosen = plan(network, (*self.keep, *more))
        if self.activations != DYNAMIC:
            return chosen
        return replace(chosen, layers=[layer for layer in chosen.layers if is_product(network, layer)])

    def _others(self, network: Network) -> int:
        """Recurrent layers and tables: how many became integers."""
        if not self._alone:
            return 0
        layers = write_recurrent(network, self.keep, self.bits, self.weight_search, self._packed)
        return layers + write_tables(network, self.keep, self.weight_search)

    def _grids(self, chosen: Plan, seen: Mapping[str, Histogram]) -> dict[str, Grid]:
        """Values that share a scale get the range of all of them."""
        wide = {layer.data for layer in chosen.layers if matches(layer.node, self.wide)}
        grids: dict[str, Grid] = {}
        for share in chosen.shares:
            kind = self.activations if wide.isdisjoint(share) else _wider(self.activations)
            levels = ACTIVATIONS[kind]
            ranges = [range_of(seen[name], self.method, levels, self.symmetric) for name in share]
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            if self.scales == "power_of_two":
                grid = power_of_two.grid_of_activation([seen[name] for name in share], max(-low, high))
            else:
                grid = grid_of_range(low, high, kind, self.symmetric)
            grids |= dict.fromkeys(share, grid)
        return dict(sorted(grids.items()))

    def _weights(
        self, network: Network, layers: Sequence[Layer], grids: Mapping[str, Grid], data: Calibration | None
    ) -> dict[str, tuple[Grid, np.ndarray]]:
        """The integers of each layer's weight, by what it makes."""
        found: dict[str, tuple[Grid, np.ndarray]] = {}
        if self.rounding != "nearest" and data is not None:
            products = [layer for layer in layers if has_matrices(layer, weight_of(network, layer))]
            for layer, hessian in hessians(network, products, data, self.correct_bias, self.damping):
                weight = weight_of(network, layer)
                found[layer.output] = self._settled(network, layer, weight, hessian, grids.get(layer.data))
        for layer in layers:
            if layer.output not in found:
                weight = weight_of(network, layer)
                found[layer.output] = self._settled(network, layer, weight, None, grids.get(layer.data))
        return found

    def _settled(
        self,
        network: Network,
        layer: Layer,
        weight: np.ndarray,
        hessian: np.ndarray | None,
        data: Grid | None,
    ) -> tuple[Grid, np.ndarray]:
        """The grid and the integers of ``weight``."""
        grid = self._weight_grid(network, layer, weight, data)
        return grid, self._rounding().integers(layer, weight, hessian, grid, 2 ** (self.bits - 1) - 1)

    def _in_turn(self, network: Network, chosen: Plan, grids: Mapping[str, Grid], data: Calibration) -> None:
        """Each layer fitted to what it made before, on what the layers before it, quantized by then, make."""
        outputs = {layer.output for layer in chosen.layers}
        old = network.copy()
        read = write_activations(network, chosen, grids)
        scaled = {**grids, **{read[name]: grid for name, grid in grids.items()}}
        layers = [layer for layer in layers_of(network) if layer.output in outputs]
        found: dict[str, tuple[Grid, np.ndarray]] = {}
        products = {layer.output for layer in layers if has_matrices(layer, weight_of(network, layer))}
        for target in targets(old, network, fits_of(old, network, products, False), data, self.damping):
            layer = target.fit.after
            matrices = from_matrices(layer, target.fitted(), weight_of(network, layer).shape)
            weight = matrices.astype(np.float32)
            made = self._settled(network, layer, weight, target.hessian, scaled.get(layer.data))
            found[layer.output] = made
            set_fitted(old, network, target, to_matrices(layer, made[0].reals(made[1])))
        # Once more, as they may have been given biases.
        for layer in [layer for layer in layers_of(network) if layer.output in outputs]:
            grid = scaled.get(layer.data)
            made = found.get(layer.output) or self._settled(
                network, layer, weight_of(network, layer), None, grid
            )
            self._layer(network, layer, grid, None, *made)

    def _layer(
        self,
        network: Network,
        layer: Layer,
        data: Grid | None,
        mean: np.ndarray | None,
        grid: Grid,
        integers: np.ndarray,
    ) -> None:
        weight = weight_of(network, layer)
        error = None if mean is None else mean_error(layer, grid.reals(integers) - weight, mean)
        bias = None
        if layer.bias is not None:
            stored = network.weights[layer.node.input[layer.bias]].astype(np.float64)
            bias = np.broadcast_to(stored.reshape(-1), weight.shape[layer.axis : layer.axis + 1])
        if error is not None and (bias is not None or layer.node.op_type in ("Conv", "Gemm")):
            bias = (np.zeros(len(error)) if bias is None else bias) - error
        if self.activations != DYNAMIC:
            write_weight(network, layer, grid, integers, self._packed)
        if bias is not None and data is not None:
            write_bias(network, _with_bias(network, layer, bias), bias, data, grid, integers)
        elif bias is not None and error is not None:
            set_bias(network, layer, bias)
        if self.activations == DYNAMIC:
            write_dynamic(network, layer, grid, integers)

    def _weight_grid(self, network: Network, layer: Layer, weight: np.ndarray, data: Grid | None) -> Grid:
        axis = layer.axis if self.per_channel else None
        if self.scales == "power_of_two":
            found = power_of_two.grid_of_weight(weight, self.bits, axis)
            grid = without_overflow(network, layer, data, found)
            return Grid(power_of_two.rounded_up(grid.scale), grid.zero, axis)
        if self.group and weight.ndim == 2 and weight.shape[1 - layer.axis] > self.group:
            return grid_of_groups(weight, self.bits, 1 - layer.axis, self.group, self.weight_search)
        grid = grid_of_weight(weight, self.bits, axis, self.weight_search)
        return without_overflow(network, layer, data, grid)


def _bytes(array: np.ndarray) -> int:
    """What it takes in a file: two integers of 4 bits share a byte."""
    return -(-array.size // 2) if "int4" in str(array.dtype) else array.nbytes


def _wider(activations: str) -> str:
    """The type of 16 bits with the sign of ``activations``."""
    return "uint16" if activations.startswith("u") else "int16"


def _with_bias(network: Network, layer: Layer, bias: np.ndarray) -> Layer:
    """The layer with a place for a bias, if it had none."""
    if layer.bias is not None:
        return layer
    name = network.name(f"{layer.node.output[0]}_bias")
    network.set_weight(name, bias.astype(np.float32))
    del layer.node.input[2:]
    layer.node.input.append(name)
    return Layer(layer.node, layer.data, layer.weight, 2, layer.axis)


def _raise_opset(network: Network, least: int) -> None:
    """Scales along an axis came with opset 13, 16-bit integers with 21."""
    if network.opset >= least:
        return
    try:
        network.proto = version_converter.convert_version(network.proto, least)
    except Exception as error:
        raise ModelError(
            f"its opset {network.opset} cannot be raised to {least}: {str(error).splitlines()[0][:200]}",
            where="quantize",
            hint=f"export the network with opset {least} or later",
        ) from error
