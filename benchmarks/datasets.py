"""Labelled pictures for accuracy: Fashion-MNIST, and objects with ImageNet's classes; and speech.

None is part of the project. Fashion-MNIST (Xiao et al., 2017, MIT licence) comes with the Debian package
``dataset-fashion-mnist``, speech (the prompts of Asterisk, CC BY-SA) with ``asterisk-core-sounds-en-wav``;
the objects are made of the stamps of Tux Paint (GPL-2), see ``pictures``.
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
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dlcomp.errors import ToolMissing

_PACKAGE = "dataset-fashion-mnist"
_SPEECH = "asterisk-core-sounds-en-wav"
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
    cached = _cache() / "fashion-mnist"
    for folder in (_INSTALLED, cached):
        if all((folder / name).exists() for name in _FILES):
            return folder
    _download(_PACKAGE, cached, lambda name: name in _FILES)
    return cached


def speech() -> list[np.ndarray]:
    """Spoken sentences at 16 kHz, each (samples,) float32 in [-1, 1], in the order of their files.

    They were recorded at 8 kHz; no frequency above 4 kHz is in them.

    Raises
    ------
    ToolMissing
        The package is not here and apt-get cannot download it.
    """
    folder = _cache() / "speech"
    if not any(folder.glob("*.wav")):
        _download(_SPEECH, folder, lambda name: name.endswith(".wav"))
    return [_resampled(path) for path in sorted(folder.glob("*.wav"))]


def _resampled(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (8000, 2, 1):
            raise ToolMissing(f"{path} is not speech of 8 kHz", hint=f"remove it, {_SPEECH} has others")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    return np.asarray(2 * np.fft.irfft(np.fft.rfft(samples), 2 * len(samples)), np.float32)


def _cache() -> Path:
    return Path(os.environ.get("DLCOMP_CACHE") or Path.home() / ".cache" / "dlcomp")


def _download(package: str, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Put the files of a Debian ``package`` whose names are ``wanted`` into ``folder``."""
    hint = f"install the Debian package {package}, or put its files into {folder}"
    if shutil.which("apt-get") is None:
        raise ToolMissing(f"the files of {package} are not here", hint=hint)
    with tempfile.TemporaryDirectory() as where:
        done = subprocess.run(
            ["apt-get", "download", package], cwd=where, capture_output=True, text=True, check=False
        )
        packages = list(Path(where).glob("*.deb"))
        if not packages:
            reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
            raise ToolMissing(f"apt-get could not download {package}: {reason}", hint=hint)
        with _data_of(packages[0].read_bytes(), package) as archive:
            folder.mkdir(parents=True, exist_ok=True)
            for member in archive:
                name = Path(member.name).name
                content = archive.extractfile(member) if member.isfile() and wanted(name) else None
                if content is not None:
                    (folder / name).write_bytes(content.read())


def _data_of(package: bytes, title: str) -> tarfile.TarFile:
    """The files of a Debian package: an ar archive with a compressed tar archive in it."""
    place = 8
    while place + 60 <= len(package):
        name, size = package[place : place + 16].decode().strip(), int(package[place + 48 : place + 58])
        body = package[place + 60 : place + 60 + size]
        if name.startswith("data.tar"):
            return tarfile.open(fileobj=io.BytesIO(body))
        place += 60 + size + size % 2
    raise ToolMissing(f"the package {title} has no data in it")


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
