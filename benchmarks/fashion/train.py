"""Trains the small Fashion-MNIST networks of this folder and exports them; needs torch, minutes on a CPU.

``train.py OUTPUT NET...`` with NET of lenet300, lenet5, resnet8, dscnn, lstm. Inputs are (N, 1, 28, 28)
float32 in [0, 1] (lstm: the same, read as 28 rows of 28), outputs 10 logits. Prints the test accuracy.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from datasets import fashion
from torch import nn


class ResBlock(nn.Module):  # type: ignore[misc]
    """Two convolutions and a short cut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.c, self.d = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.s: nn.Module = nn.Identity()
        if stride > 1 or inner != outer:
            self.s = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Any) -> Any:
        return F.relu(self.d(self.c(F.relu(self.b(self.a(x))))) + self.s(x))


class RowLSTM(nn.Module):  # type: ignore[misc]
    """An LSTM over the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 128, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(x.reshape(-1, 28, 28))[0][:, -1])


def separable(inner: int, outer: int, stride: int) -> list[nn.Module]:
    depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
    pointwise = nn.Conv2d(inner, outer, 1, bias=False)
    return [depthwise, nn.BatchNorm2d(inner), nn.ReLU6(), pointwise, nn.BatchNorm2d(outer), nn.ReLU6()]


def lenet300() -> nn.Module:
    dense = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *dense)


def lenet5() -> nn.Module:
    convolutions = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


def resnet8() -> nn.Module:
    stem = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [ResBlock(16, 16, 1), ResBlock(16, 32, 2), ResBlock(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def dscnn() -> nn.Module:
    stem = [nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    blocks = [*separable(32, 64, 1), *separable(64, 128, 2), *separable(128, 128, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


# Who makes it, epochs, and the largest learning rate.
NETS: dict[str, tuple[Any, int, float]] = {
    "lenet300": (lenet300, 20, 2e-3),
    "lenet5": (lenet5, 10, 2e-3),
    "resnet8": (resnet8, 8, 8e-3),
    "dscnn": (dscnn, 10, 8e-3),
    "lstm": (RowLSTM, 8, 4e-3),
}


def train(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    x, y, xt, yt = (torch.tensor(array) for part in ("train", "t10k") for array in fashion(part))
    make, epochs, rate = NETS[name]
    net = make()
    steps = len(x) // 128
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps)
    for epoch in range(epochs):
        net.train()
        order = torch.randperm(len(x))
        for i in range(steps):
            places = order[i * 128 : (i + 1) * 128]
            batch = x[places].flip(3) if i % 2 else x[places]
            loss = F.cross_entropy(net(batch), y[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            found = torch.cat([net(part) for part in xt.split(1000)]).argmax(1)
        print(f"{name} epoch {epoch + 1}/{epochs}: {(found == yt).float().mean().item():.4f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        net,
        torch.zeros(1, 1, 28, 28),
        str(folder / f"{name}.onnx"),
        opset_version=17,
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )


if __name__ == "__main__":
    for chosen in sys.argv[2:]:
        train(chosen, Path(sys.argv[1]))
