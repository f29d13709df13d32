"""Inputs for the suite: rendered text and smooth pictures, normalised as each network expects them.

Every maker takes ``{name: shape}`` and a seed and returns ``{name: array}``, the same for the same seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlcomp.errors import ToolMissing

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789"
LINES = ("deep learning compiler", "weights 3.14 MB", "Zen 3, AVX2", "measure twice", "loop tiling")


def text_line(shapes: dict[str, Shape], seed: int) -> Arrays:
    """PP-OCR's recogniser and classifier: one line of text, (px / 255 - 0.5) / 0.5, NCHW float32."""
    ((name, (batch, _, height, width)),) = shapes.items()
    pictures = [
        _render(height, width, [LINES[(seed + i) % len(LINES)]], height * 2 // 3) for i in range(batch)
    ]
    return {name: _nchw(pictures) / np.float32(127.5) - np.float32(1)}


def drawn_line(text: str, extent: tuple[int, int], size: int, rng: np.random.Generator) -> np.ndarray:
    """PP-OCR's recogniser: ``text`` in letters of ``size``, paler or darker by ``rng``, with grain."""
    return _worn(_render(*extent, [text], size), rng)


def cropped_line(text: str, extent: tuple[int, int], size: int, rng: np.random.Generator) -> np.ndarray:
    """PP-OCR's recogniser: as ``drawn_line``, but cut out close to the letters, as its detector does.

    Scaled to the height, squeezed where that is too wide, and grey behind the text, as PaddleOCR prepares it.
    """
    Image, _, ImageFont = _pillow()
    font = ImageFont.load_default(size)
    width = int(font.getlength(text) * 1.05) + size
    drawn = _render(2 * size, width, [text], size)
    rows, columns = (np.flatnonzero((drawn[..., 0] < 200).any(axis=axis)) for axis in (1, 0))
    margins = rng.integers(0, 1 + size // 5, 4)
    top, left = max(0, rows[0] - margins[0]), max(0, columns[0] - margins[1])
    cut = drawn[top : rows[-1] + 1 + margins[2], left : columns[-1] + 1 + margins[3]]
    height, most = extent
    scaled = min(most, round(cut.shape[1] * height / cut.shape[0]))
    picture = Image.fromarray(cut.astype("uint8")).resize((scaled, height), Image.Resampling.BILINEAR)
    padded = np.zeros((1, 3, height, most), "float32")
    padded[..., :scaled] = _worn(np.asarray(picture, "float32"), rng)
    return padded


def grey_line(shapes: dict[str, Shape], seed: int) -> Arrays:
    """The captcha reader: one line of text in grey, (px / 255 - 0.5) / 0.5, NCHW float32."""
    ((name, (batch, _, height, width)),) = shapes.items()
    coloured = text_line({name: (batch, 3, height, width)}, seed)[name]
    return {name: np.ascontiguousarray(coloured.mean(axis=1, keepdims=True, dtype="float32"))}


def captcha(rng: np.random.Generator) -> np.ndarray:
    """The captcha reader: four to six letters and digits that dance, with grain, (1, 1, 64, 160) float32."""
    Image, ImageDraw, ImageFont = _pillow()
    image = Image.new("L", (160, 64), 235)
    draw, left = ImageDraw.Draw(image), 6.0
    for letter in rng.choice(list(_LETTERS), rng.integers(4, 7)):
        font = ImageFont.load_default(int(rng.integers(28, 40)))
        place = (left, int(rng.integers(2, 20)))
        draw.text(place, str(letter), fill=int(rng.integers(10, 110)), font=font)
        left += font.getlength(str(letter)) + float(rng.integers(0, 3))
    pixels = np.asarray(image, "float32") + rng.normal(0, rng.uniform(0, 20), (64, 160))
    return (np.clip(pixels, 0, 255) / 127.5 - 1).astype("float32")[None, None]


def speech(shapes: dict[str, Shape], seed: int) -> Arrays:
    """Silero's detector of speech: a voice of 16 kHz, a row a chunk, and the state after some of it."""
    rng = np.random.default_rng(seed)
    rows, samples = shapes["input"]
    time = np.arange(rows * samples).reshape(rows, samples) / 16000
    pitch = rng.uniform(90, 220)
    voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12)) * 0.1
    made = {"input": (voice + rng.normal(0, 0.01, time.shape)).astype("float32")}
    for name, shape in shapes.items():
        if name == "sr":
            made[name] = np.array(16000, "int64")
        elif name != "input":
            made[name] = rng.normal(0, 0.1, shape).astype("float32")
    return made


def page_imagenet(shapes: dict[str, Shape], seed: int) -> Arrays:
    """PP-OCR's detector: several lines on a page, ImageNet's mean and deviation, NCHW float32."""
    ((name, shape),) = shapes.items()
    mean = np.array([0.485, 0.456, 0.406], "float32").reshape(1, 3, 1, 1)
    deviation = np.array([0.229, 0.224, 0.225], "float32").reshape(1, 3, 1, 1)
    return {name: ((_pages(shape, seed) / np.float32(255) - mean) / deviation).astype("float32")}


def page_bytes(shapes: dict[str, Shape], seed: int) -> Arrays:
    """The YOLOX text detector: a page as it is, 0 to 255, NCHW float32."""
    ((name, shape),) = shapes.items()
    return {name: _pages(shape, seed)}


def picture_signed(shapes: dict[str, Shape], seed: int) -> Arrays:
    """EfficientNet-Lite: (px - 127) / 128, NCHW float32."""
    ((name, (batch, channels, height, width)),) = shapes.items()
    pixels = _smooth(batch, height, width, channels, seed)
    return {name: np.ascontiguousarray(((pixels - 127) / 128).transpose(0, 3, 1, 2))}


def picture_mean_subtracted(shapes: dict[str, Shape], seed: int) -> Arrays:
    """Open NSFW: BGR minus the mean colour, NHWC float32."""
    ((name, (batch, height, width, channels)),) = shapes.items()
    pixels = _smooth(batch, height, width, channels, seed)
    return {name: pixels - np.array([104, 117, 123], "float32")[:channels]}


def tokens(shapes: dict[str, Shape], seed: int) -> Arrays:
    """MiniLM: [CLS], word pieces, [SEP], then padding on every row but the first, int64."""
    batch, length = shapes["input_ids"]
    rng = np.random.default_rng(seed)
    ids = rng.integers(1000, 30000, (batch, length))
    mask = np.ones((batch, length), "int64")
    for row in range(batch):
        used = length if row == 0 else max(length * 2 // 3, min(length, 2))
        mask[row, used:] = 0
        ids[row, used:] = 0
        ids[row, used - 1] = 102
        ids[row, 0] = 101
    return {"input_ids": ids.astype("int64"), "attention_mask": mask}


def _pages(shape: Shape, seed: int) -> np.ndarray:
    batch, _, height, width = shape
    size = max(8, height // 16)
    lines = [[LINES[(seed + i + j) % len(LINES)] for j in range(4)] for i in range(batch)]
    return _nchw([_render(height, width, text, size) for text in lines])


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ToolMissing("the text inputs are drawn with Pillow", hint="pip install pillow") from error
    return Image, ImageDraw, ImageFont


def _render(height: int, width: int, lines: list[str], size: int) -> np.ndarray:
    """Black text on light grey, (height, width, 3) float32 of 0 to 255."""
    Image, ImageDraw, ImageFont = _pillow()
    image = Image.new("RGB", (width, height), (235, 235, 235))
    draw = ImageDraw.Draw(image)
    widest = max(ImageFont.load_default(size).getlength(line) for line in lines)
    size = max(4, int(size * min(1.0, (width - 2 * max(2, width // 40)) / widest)))
    font = ImageFont.load_default(size)
    step = height / len(lines)
    for index, line in enumerate(lines):
        top = step * index + (step - size * 1.2) / 2
        draw.text((max(2, width // 40), top), line, fill=(10, 10, 10), font=font)
    return np.asarray(image, "float32")


def _worn(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paler or darker, with grain, (1, 3, height, width) float32 in [-1, 1]."""
    pixels = 235 - (235 - pixels) * rng.uniform(0.3, 1) + rng.normal(0, rng.uniform(0, 25), pixels.shape)
    made: np.ndarray = _nchw([np.clip(pixels, 0, 255).astype("float32")]) / np.float32(127.5) - np.float32(1)
    return made


def _smooth(batch: int, height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """Blobs of colour, NHWC float32 of 0 to 255: an 8x8 random grid, bilinearly enlarged, plus grain."""
    rng = np.random.default_rng(seed)
    grid = rng.uniform(0, 255, (batch, 8, 8, channels))
    rows, columns = np.linspace(0, 6.999, height), np.linspace(0, 6.999, width)
    y, x = rows.astype(int), columns.astype(int)
    fy, fx = (rows - y)[None, :, None, None], (columns - x)[None, None, :, None]
    top = grid[:, y][:, :, x] * (1 - fx) + grid[:, y][:, :, x + 1] * fx
    bottom = grid[:, y + 1][:, :, x] * (1 - fx) + grid[:, y + 1][:, :, x + 1] * fx
    pixels = top * (1 - fy) + bottom * fy + rng.normal(0, 6, (batch, height, width, channels))
    return np.clip(pixels, 0, 255).astype("float32")


def _nchw(pictures: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
