"""LeNet-300-100 and LeNet-5 in NumPy: read from ONNX, run, trained, written back; for ``lenet.py``.

LeNet-5 is Caffe's, as Deep Compression has it: convolutions of 20 and 50 5x5 filters, each pooled, then 500
and 10. ReLU stands between dense layers only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "lenet300": [(300, 784), (100, 300), (10, 100)],
    "lenet5": [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)],
}
_BATCH = 64
_PART = 500


@dataclass
class Net:
    """Weights, each (O, I) or (O, I, 5, 5), and biases, in the order of the layers."""

    kind: str
    weights: list[np.ndarray]
    biases: list[np.ndarray]

    def copy(self) -> Net:
        return Net(self.kind, [w.copy() for w in self.weights], [b.copy() for b in self.biases])

    def forward(self, images: np.ndarray, until: int | None = None) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits (N, 10), and what each layer multiplies its weight with: (N, I) or (N, H, W, I * 25).

        With ``until`` the layers behind that one are left out, and the logits are not logits.
        """
        value, seen = images, []
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            last = number + 1 == len(self.weights)
            if weight.ndim == 4:
                value = _patches(value)
                seen.append(value)
                if number == until:
                    break
                made = value @ weight.reshape(len(weight), -1).T + bias
                value = _pooled(made).transpose(0, 3, 1, 2)
            else:
                value = value.reshape(len(value), -1)
                seen.append(value)
                if number == until:
                    break
                value = value @ weight.T + bias
                value = value if last else np.maximum(value, 0)
        return value, seen

    def inputs(self, images: np.ndarray, layer: int) -> Iterator[np.ndarray]:
        """What ``layer`` multiplies its weight with, for parts of ``images``."""
        for start in range(0, len(images), _PART):
            yield self.forward(images[start : start + _PART], layer)[1][layer]

    def logits(self, images: np.ndarray) -> np.ndarray:
        parts = range(0, len(images), _PART)
        return np.concatenate([self.forward(images[start : start + _PART])[0] for start in parts])

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """In percent."""
        return 100 * float(np.mean(self.logits(images).argmax(axis=1) == labels))

    def gradients(
        self, images: np.ndarray, targets: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Those of the mean cross-entropy, for weights, biases and what layers make, (N * H * W, O).

        ``targets`` (N, 10) are probabilities.
        """
        logits, seen = self.forward(images)
        back = ((shares(logits) - targets) / len(targets)).astype(logits.dtype)
        weights: list[np.ndarray] = []
        biases: list[np.ndarray] = []
        outputs: list[np.ndarray] = []
        for number in range(len(self.weights) - 1, -1, -1):
            weight, inputs = self.weights[number], seen[number]
            if weight.ndim == 4:
                made = inputs @ weight.reshape(len(weight), -1).T + self.biases[number]
                back = _unpooled(made, back.transpose(0, 2, 3, 1))
            flat = back.reshape(-1, len(weight))
            weights.append((flat.T @ inputs.reshape(-1, inputs.shape[-1])).reshape(weight.shape))
            biases.append(flat.sum(axis=0))
            outputs.append(flat)
            if number == 0:
                break
            back = back @ weight.reshape(len(weight), -1)
            if weight.ndim == 4:
                back = _image(back, weight.shape[1])
            elif self.weights[number - 1].ndim == 4:
                back = back.reshape(-1, 50, 4, 4)
            else:
                back = back * (inputs > 0)
        return weights[::-1], biases[::-1], outputs[::-1]

    def sensitivities(self, images: np.ndarray) -> list[np.ndarray]:
        """How much the loss minds a change of what each layer makes, (O,): the Fisher information of each.

        The mean square of the gradient for labels that are drawn as the network itself predicts them.
        """
        random = np.random.default_rng(0)
        found = [np.zeros(len(weight)) for weight in self.weights]
        for start in range(0, len(images), 500):
            part = images[start : start + 500]
            logits = self.logits(part)
            # The largest of logits with noise of this kind is drawn by their softmax.
            labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
            for sums, outputs in zip(found, self.gradients(part, np.eye(10)[labels])[2], strict=True):
                sums += (outputs.astype(np.float64) ** 2).sum(axis=0)
        return found

    def proto(self) -> onnx.ModelProto:
        """As ONNX, for any number of images."""
        nodes, stored, value = [], [], "image"
        for n, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            stored += [numpy_helper.from_array(weight, f"w{n}"), numpy_helper.from_array(bias, f"b{n}")]
            made = "logits" if n + 1 == len(self.weights) else f"layer{n}"
            if weight.ndim == 4:
                nodes.append(helper.make_node("Conv", [value, f"w{n}", f"b{n}"], [made], f"layer{n}"))
                value = f"pool{n}"
                options = {"kernel_shape": [2, 2], "strides": [2, 2]}
                nodes.append(helper.make_node("MaxPool", [made], [value], **options))
                continue
            if n == 0 or self.weights[n - 1].ndim == 4:
                nodes.append(helper.make_node("Flatten", [value], ["flat"]))
                value = "flat"
            nodes.append(helper.make_node("Gemm", [value, f"w{n}", f"b{n}"], [made], f"layer{n}", transB=1))
            value = made
            if made != "logits":
                value = f"relu{n}"
                nodes.append(helper.make_node("Relu", [made], [value]))
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
            for name, shape in (("image", (1, 28, 28)), ("logits", (10,)))
        ]
        graph = helper.make_graph(nodes, self.kind, ends[:1], ends[1:], stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def read(kind: str, path: Any) -> Net:
    """The net of an ONNX file whose weights have the order and shapes of ``kind``."""
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    layers = [n for n in onnx.load(path).graph.node if n.op_type in ("Conv", "Gemm")]
    net = Net(kind, *([stored[n.input[place]].copy() for n in layers] for place in (1, 2)))
    assert [w.shape for w in net.weights] == SHAPES[kind]
    return net


def fresh(kind: str, seed: int) -> Net:
    """Untrained (He et al., 2015)."""
    random = np.random.default_rng(seed)
    weights = [
        (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        for shape in SHAPES[kind]
    ]
    return Net(kind, weights, [np.zeros(len(w), np.float32) for w in weights])


def train(
    net: Net,
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Adam with a falling rate on images that are moved by up to a pixel; changes ``net``."""
    random = np.random.default_rng(seed)
    values = [*net.weights, *net.biases]
    first, second = ([np.zeros_like(v) for v in values] for _ in range(2))
    steps = epochs * (len(images) // _BATCH)
    for step in range(steps):
        picked = random.integers(0, len(images), _BATCH)
        moved = _moved(images[picked], random)
        weights, biases, _ = net.gradients(moved, np.eye(10)[labels[picked]])
        now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        for v, m, s, g in zip(values, first, second, [*weights, *biases], strict=True):
            m += 0.1 * (g - m)
            s += 0.001 * (g * g - s)
            unbiased = m / (1 - 0.9 ** (step + 1))
            v -= now * unbiased / (np.sqrt(s / (1 - 0.999 ** (step + 1))) + 1e-8)


def shares(logits: np.ndarray) -> np.ndarray:
    """The softmax (N, 10), nothing quite zero."""
    made = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    made = made / made.sum(axis=1, keepdims=True) + 1e-9
    return np.asarray(made / made.sum(axis=1, keepdims=True))


def _moved(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    down, right = random.integers(-1, 2, 2)
    return np.roll(images, (down, right), axis=(2, 3))


def _patches(images: np.ndarray) -> np.ndarray:
    """(N, H - 4, W - 4, I * 25) of (N, I, H, W)."""
    seen = np.lib.stride_tricks.sliding_window_view(images, (5, 5), axis=(2, 3))
    count, channels, height, width = seen.shape[:4]
    return np.moveaxis(seen, 1, 3).reshape(count, height, width, channels * 25)


def _image(back: np.ndarray, channels: int) -> np.ndarray:
    """The sum over patches: what :func:`_patches` does, backwards."""
    count, height, width = back.shape[:3]
    parts = back.reshape(count, height, width, channels, 5, 5)
    made = np.zeros((count, channels, height + 4, width + 4), back.dtype)
    for y in range(5):
        for x in range(5):
            made[:, :, y : y + height, x : x + width] += np.moveaxis(parts[..., y, x], 3, 1)
    return made


def _windows(made: np.ndarray) -> np.ndarray:
    count, height, width, channels = made.shape
    return made.reshape(count, height // 2, 2, width // 2, 2, channels)


def _pooled(made: np.ndarray) -> np.ndarray:
    return np.asarray(_windows(made).max(axis=(2, 4)))


def _unpooled(made: np.ndarray, back: np.ndarray) -> np.ndarray:
    windows = _windows(made)
    largest = windows == windows.max(axis=(2, 4), keepdims=True)
    return (largest * back[:, :, None, :, None, :]).reshape(made.shape)
