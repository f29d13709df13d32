"""A network while a pass rewrites it: an ONNX graph with folded constants and its weights as arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlcomp.errors import UsageError
from dlcomp.frontend.fold import replace_nodes
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.simplify import simplify
from dlcomp.frontend.stored import array_of, mapped
from dlcomp.frontend.writer import attributes_of
from dlcomp.model import Model, Step

__all__ = ["Network", "attributes_of"]


class Network:
    """A copy of a model's network that may be changed.

    Attributes
    ----------
    proto : onnx.ModelProto
        Batch normalisation folded, bodies and constants inlined.
    weights : dict of str to numpy.ndarray
        What the initializers hold; :meth:`set_weight` changes one.
    """

    def __init__(self, model: Model) -> None:
        if model.source is None or model.text is not None:
            raise UsageError(
                "this model has no network of numbers to compress", hint="load it from an .onnx file"
            )
        self._model = model
        self.proto = simplify(model.source)
        if any(mapped(self.proto.graph)):
            raise UsageError(
                f"the weights of {model.name} are more than one message can hold",
                hint="networks of more than 2 GiB can be compiled, but not compressed yet",
            )
        self.weights = {tensor.name: array_of(tensor) for tensor in self.proto.graph.initializer}
        self._taken = {*self.weights, *self.inputs, *(o for node in self.nodes for o in node.output)}
        self._count = 0

    def copy(self) -> Network:
        """Another that may be changed apart from this one; arrays are shared, which nobody writes into."""
        other = copy.copy(self)
        other.proto = onnx.ModelProto()
        other.proto.CopyFrom(self.proto)
        other.weights, other._taken = dict(self.weights), set(self._taken)
        return other

    @property
    def opset(self) -> int:
        return next(int(o.version) for o in self.proto.opset_import if o.domain in ("", "ai.onnx"))

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        return list(self.proto.graph.node)

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.proto.graph.output]

    @property
    def inputs(self) -> list[str]:
        return [value.name for value in self.proto.graph.input]

    def kinds(self) -> dict[str, int]:
        """The ONNX element type of every value."""
        graph = inferred(self.proto)
        values = (*self.proto.graph.input, *graph.value_info, *graph.output)
        found = {value.name: value.type.tensor_type.elem_type for value in values}
        return found | {tensor.name: tensor.data_type for tensor in self.proto.graph.initializer}

    def name(self, hint: str) -> str:
        """A name that nothing in the network has."""
        while True:
            self._count += 1
            name = f"{hint}_{self._count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def set_weight(self, name: str, array: np.ndarray) -> None:
        """Give the initializer ``name`` other elements, or add it."""
        made = numpy_helper.from_array(array, name)
        if name in self.weights:
            next(t for t in self.proto.graph.initializer if t.name == name).CopyFrom(made)
        else:
            self.proto.graph.initializer.append(made)
        self.weights[name] = array

    def own_weight(self, node: onnx.NodeProto, place: int) -> str:
        """The name of a weight that only ``node`` reads: a shared one is copied for it."""
        name = str(node.input[place])
        if sum(list(other.input).count(name) for other in self.proto.graph.node) == 1:
            return name
        copy = self.name(name)
        self.set_weight(copy, self.weights[name])
        node.input[place] = copy
        return copy

    def rewrite(self, function: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto]]) -> None:
        """Every node replaced by what ``function`` makes of it."""
        replace_nodes(self.proto.graph, [new for node in self.proto.graph.node for new in function(node)])

    def drop_unread(self) -> None:
        """Remove initializers that nobody reads any more."""
        graph = self.proto.graph
        read = {name for node in graph.node for name in node.input} | set(self.outputs)
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        if len(kept) < len(graph.initializer):
            held = onnx.GraphProto()
            held.initializer.extend(kept)
            del graph.initializer[:]
            graph.initializer.extend(held.initializer)
            self.weights = {name: array for name, array in self.weights.items() if name in read}

    def model(self, step: Step) -> Model:
        """The model of the network as it is now, with ``step`` in its history."""
        from dlcomp.frontend import load

        self.drop_unread()
        del self.proto.graph.value_info[:]
        made = load(self.proto)
        return replace(made, name=self._model.name, history=(*self._model.history, step))

    def exposing(self, names: Iterable[str], given: Collection[str] = ()) -> onnx.ModelProto:
        """The network with the values ``names`` as its outputs, instead of its own.

        The weights ``given`` are inputs of it, so that others can be tried without compiling it again.
        """
        network = onnx.ModelProto()
        network.CopyFrom(self.proto)
        graph = inferred(network)
        typed = {value.name: value for value in (*graph.value_info, *graph.output)}
        del network.graph.output[:]
        for name in names:
            network.graph.output.append(typed.get(name) or helper.make_empty_tensor_value_info(name))
        if given:
            held = onnx.GraphProto()
            held.initializer.extend(network.graph.initializer)
            del network.graph.initializer[:]
            network.graph.initializer.extend(
                tensor for tensor in held.initializer if tensor.name not in given
            )
            for tensor in held.initializer:
                if tensor.name in given:
                    made = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                    network.graph.input.append(made)
        return network
