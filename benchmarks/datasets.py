"""Labelled pictures for accuracy: Fashion-MNIST, and objects with ImageNet's classes.

Neither is part of the project. Fashion-MNIST (Xiao et al., 2017, MIT licence) comes with the Debian package
``dataset-fashion-mnist``; the objects are made of the stamps of Tux Paint (GPL-2), see ``pictures``.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dlcomp.errors import ToolMissing

_PACKAGE = "dataset-fashion-mnist"
_INSTALLED = Path("/usr/share/datasets/fashion-mnist")
_FILES = tuple(
    f"{part}-{kind}.gz" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


def fashion(part: str) -> tuple[np.ndarray, np.ndarray]:
    """``part`` (``train`` or ``t10k``): images (N, 1, 28, 28) float32 in [0, 1] and labels (N,) int64.

    Raises
    ------
    ToolMissing
        The package is not installed and apt-get cannot download it.
    """
    folder = _fashion_folder()
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return pixels.astype(np.float32) / 255, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


def _fashion_folder() -> Path:
    cached = Path(os.environ.get("DLCOMP_CACHE") or Path.home() / ".cache" / "dlcomp") / "fashion-mnist"
    for folder in (_INSTALLED, cached):
        if all((folder / name).exists() for name in _FILES):
            return folder
    _download(cached)
    return cached


def _download(folder: Path) -> None:
    hint = f"install the Debian package {_PACKAGE}, or put its files into {folder}"
    if shutil.which("apt-get") is None:
        raise ToolMissing("Fashion-MNIST is not here", hint=hint)
    with tempfile.TemporaryDirectory() as where:
        done = subprocess.run(
            ["apt-get", "download", _PACKAGE], cwd=where, capture_output=True, text=True, check=False
        )
        packages = list(Path(where).glob("*.deb"))
        if not packages:
            reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
            raise ToolMissing(f"apt-get could not download {_PACKAGE}: {reason}", hint=hint)
        with _data_of(packages[0].read_bytes()) as archive:
            folder.mkdir(parents=True, exist_ok=True)
            for member in archive:
                name = Path(member.name).name
                content = archive.extractfile(member) if name in _FILES else None
                if content is not None:
                    (folder / name).write_bytes(content.read())


def _data_of(package: bytes) -> tarfile.TarFile:
    """The files of a Debian package: an ar archive with a compressed tar archive in it."""
    place = 8
    while place + 60 <= len(package):
        name, size = package[place : place + 16].decode().strip(), int(package[place + 48 : place + 58])
        body = package[place + 60 : place + 60 + size]
        if name.startswith("data.tar"):
            return tarfile.open(fileobj=io.BytesIO(body))
        place += 60 + size + size % 2
    raise ToolMissing(f"the package {_PACKAGE} has no data in it")


def pictures(folder: Path) -> tuple[np.ndarray, list[set[int]], np.ndarray]:
    """Pictures of objects for EfficientNet-Lite0, the classes that count as right for each, and others.

    ``folder`` holds ``imagenet_stamps.npz`` (``pixels`` uint8 (N, 3, 224, 224)), ``imagenet_stamps.json``
    (``accepted``: the ImageNet-1k classes of each) and ``imagenet_calibration.npz`` (other ``pixels``).

    Raises
    ------
    ToolMissing
        They are not there.
    """
    paths = [folder / f"imagenet_{part}" for part in ("stamps.npz", "stamps.json", "calibration.npz")]
    if not all(path.exists() for path in paths):
        raise ToolMissing(f"no labelled pictures in {folder}", hint="--pictures FOLDER")
    with np.load(paths[0]) as file:
        pixels = file["pixels"]
    accepted = [set(classes) for classes in json.loads(paths[1].read_text())["accepted"]]
    with np.load(paths[2]) as file:
        others = file["pixels"]
    return _signed(pixels), accepted, _signed(others)


def _signed(pixels: Any) -> np.ndarray:
    """As EfficientNet-Lite takes them: (px - 127) / 128."""
    scaled: np.ndarray = ((pixels.astype(np.float32) - 127) / 128).astype(np.float32)
    return scaled
