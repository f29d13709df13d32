"""TFLite's resizing of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcomp.frontend.builder import Tensor
from dlcomp.frontend.tflite.call import Call
from dlcomp.frontend.tflite.convolution import channels_first, channels_last


def _resized(call: Call, **how: Any) -> Tensor:
    """Where a pixel is read: its own place scaled, the middles of pixels, or corners on corners."""
    b, x = call.b, call.arg(0)
    sizes = call.wholes(1, "the size")
    if x.rank != 4 or len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"a size of {sizes}")
    corners, middles = call.options.flag("AlignCorners"), call.options.flag("HalfPixelCenters")
    if corners and middles:
        raise ValueError("corners that are aligned have no middles of pixels")
    coordinates = "align_corners" if corners else "half_pixel" if middles else "asymmetric"
    if how["mode"] == "nearest":
        # The nearest place, a half up; without both flags the place is cut.
        how["nearest_mode"] = "round_prefer_ceil" if corners or middles else "floor"
    image = channels_first(b, x)
    if x.shape[0] > 0 and x.shape[3] > 0:
        operands = [image, None, None, b.constant([*image.shape[:2], *sizes], "int64")]
    else:
        operands = [image, None, None, b.constant(sizes, "int64")]
        how["axes"] = [2, 3]
    return channels_last(b, b.op("Resize", operands, coordinate_transformation_mode=coordinates, **how))


def _bilinear(call: Call) -> Tensor:
    return _resized(call, mode="linear")


def _nearest(call: Call) -> Tensor:
    return _resized(call, mode="nearest")


OPERATORS: Mapping[str, Any] = {"RESIZE_BILINEAR": _bilinear}
MOVING: Mapping[str, Any] = {"RESIZE_NEAREST_NEIGHBOR": _nearest}
