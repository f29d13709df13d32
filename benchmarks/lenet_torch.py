"""LeNets pruned in steps and trained in between, then with trained codebooks; for ``lenet.py``, by PyTorch.

Han et al., "Deep Compression", ICLR 2016, sections 2 and 3. Which weights go is decided over all layers at
once (Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021, section 2), how many
by a cubic curve (Zhu and Gupta, "To prune, or not to prune", 2018, section 3). The weights of a cluster share
one number, so that its gradient is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from lenet_net import Net

from dlcomp.errors import ToolMissing

try:
    import torch
    from torch.nn import functional
except ImportError as error:
    raise ToolMissing("training needs PyTorch", hint="pip install 'dlcomp[torch]'") from error

BATCH = 256
# Twice the usual, and no images are moved: best of five ways on images 55,000 to 60,000 of Fashion-MNIST, for
# a LeNet-300 that was trained on the others.
RATE = 2e-3
# Of the codebooks' training: their numbers have few gradients of many weights each.
CENTROID_RATE = 2e-4
# Steps between two prunings; weights go in the first half of the training.
_EVERY = 16
_TEACHER = 0.7
_HEAT = 2.0
Parameters = Sequence["torch.Tensor"]


def pruned(net: Net, images: np.ndarray, labels: np.ndarray, density: float, epochs: int, seed: int) -> Net:
    """``net`` with a share ``density`` of its weights, trained on labels and on its own answers before."""
    weights, biases = _leaves(net.weights), _leaves(net.biases)
    masks = [torch.ones_like(weight) for weight in weights]
    steps = _steps(images, epochs)

    def before(step: int) -> None:
        until = steps // 2
        if step <= until and (step % _EVERY == 0 or step == until):
            left = density + (1 - density) * (1 - step / until) ** 3
            for mask, new in zip(masks, lamp_masks(weights, left), strict=True):
                mask.copy_(new)
        for weight, mask in zip(weights, masks, strict=True):
            weight.data.mul_(mask)

    _train(net, lambda: (weights, biases), [*weights, *biases], images, labels, epochs, RATE, seed, before)
    before(steps)
    return Net(net.kind, _arrays(weights), _arrays(biases))


def with_trained_codebooks(
    net: Net, teacher: Net, images: np.ndarray, labels: np.ndarray, epochs: int, seed: int
) -> Net:
    """``net``, whose weights have few values, with better values in the same places; zeros stay."""
    found = [np.unique(weight, return_inverse=True) for weight in net.weights]
    places = [
        torch.from_numpy(place.reshape(weight.shape))
        for (_, place), weight in zip(found, net.weights, strict=True)
    ]
    used = [torch.from_numpy((values != 0).astype(np.float32)) for values, _ in found]
    centroids, biases = _leaves([values for values, _ in found]), _leaves(net.biases)

    def parameters() -> tuple[Parameters, Parameters]:
        return [
            (values * some)[place] for values, some, place in zip(centroids, used, places, strict=True)
        ], biases

    _train(teacher, parameters, [*centroids, *biases], images, labels, epochs, CENTROID_RATE, seed)
    return Net(net.kind, _arrays(parameters()[0]), _arrays(biases))


def lamp_masks(weights: Parameters, density: float) -> list[torch.Tensor]:
    """Ones where the share ``density`` of all weights with the highest scores is, zeros elsewhere.

    The score of a weight is its square over the sum of the squares of its layer that are not smaller.
    """
    scores = []
    for weight in weights:
        squares, order = (weight.detach() ** 2).flatten().sort()
        score = torch.empty_like(squares)
        score[order] = squares / squares.flip(0).cumsum(0).flip(0).clamp_min(1e-30)
        scores.append(score)
    every = torch.cat(scores)
    count = max(1, round(density * len(every)))
    kept = torch.zeros_like(every)
    kept[every.topk(count).indices] = 1.0
    parts = kept.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def _train(
    teacher: Net,
    parameters: Callable[[], tuple[Parameters, Parameters]],
    leaves: Parameters,
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    rate: float,
    seed: int,
    before: Callable[[int], None] = lambda step: None,
) -> None:
    """Adam with a rate that falls to nothing; changes ``leaves``."""
    random = np.random.default_rng(seed)
    pixels, classes = torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)
    # Images are shown as they are, so that the teacher needs to see each only once.
    wanted = (torch.from_numpy(teacher.logits(images)) / _HEAT).softmax(1)
    optimizer = torch.optim.Adam(leaves, rate)
    steps = _steps(images, epochs)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        before(step)
        picked = torch.from_numpy(random.integers(0, len(images), BATCH))
        made = logits(pixels[picked], *parameters())
        near = functional.kl_div((made / _HEAT).log_softmax(1), wanted[picked], reduction="batchmean")
        near = near * _HEAT**2
        loss = _TEACHER * near + (1 - _TEACHER) * functional.cross_entropy(made, classes[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()


def logits(value: torch.Tensor, weights: Parameters, biases: Parameters) -> torch.Tensor:
    """What :meth:`lenet_net.Net.logits` computes."""
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.ndim == 4:
            value = functional.max_pool2d(functional.conv2d(value, weight, bias), 2)
            continue
        value = functional.linear(value.flatten(1), weight, bias)
        if number + 1 < len(weights):
            value = functional.relu(value)
    return value


def _steps(images: np.ndarray, epochs: int) -> int:
    return max(2, epochs * len(images) // BATCH)


def _leaves(arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
    return [torch.tensor(array, dtype=torch.float32, requires_grad=True) for array in arrays]


def _arrays(tensors: Parameters) -> list[np.ndarray]:
    return [tensor.detach().numpy().copy() for tensor in tensors]
