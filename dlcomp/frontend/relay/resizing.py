"""Relay's operators that change the size of images: resize, upsampling, blocks to depth, padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcomp.frontend.builder import Builder, Tensor
from dlcomp.frontend.relay.attributes import Attributes
from dlcomp.frontend.relay.layouts import plain, to_layout

_MODES = {
    "nearest_neighbor": "nearest",
    "nearest": "nearest",
    "linear": "linear",
    "bilinear": "linear",
    "cubic": "cubic",
    "bicubic": "cubic",
}
# A half goes up: coordinates are not negative inside an image.
_NEAREST = {"round": "round_prefer_ceil"}


def _resized(
    b: Builder, x: Tensor, sizes: list[int], method: str, coordinates: str, rounding: str, **more: Any
) -> Tensor:
    """``x`` (channels first) with ``sizes``; an empty ``rounding`` is down, or to the nearest pixel at
    corners that are aligned."""
    if method not in _MODES:
        raise ValueError(f"the method {method} is not supported")
    if coordinates not in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
        raise ValueError(f"the coordinates {coordinates} are not supported")
    if not rounding:
        rounding = "round" if coordinates == "align_corners" else "floor"
    if _MODES[method] == "nearest":
        more = {"nearest_mode": _NEAREST.get(rounding, rounding)}
    elif _MODES[method] == "linear":
        more = {}
    operands = [x, None, None, b.constant([*x.shape[:2], *sizes], "int64")]
    return b.op("Resize", operands, mode=_MODES[method], coordinate_transformation_mode=coordinates, **more)


def _upsampling(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    layout = attrs.text("layout", "NCHW")
    x = to_layout(b, args[0], layout, "NCHW")
    scales = (attrs.real("scale_h", 1.0), attrs.real("scale_w", 1.0))
    sizes = [round(size * scale) for size, scale in zip(x.shape[2:], scales, strict=True)]
    coordinates = "align_corners" if attrs.flag("align_corners") else "asymmetric"
    method = attrs.text("method", "nearest_neighbor")
    y = _resized(b, x, sizes, method, coordinates, "", cubic_coeff_a=-0.5)
    return to_layout(b, y, "NCHW", layout)


def _resize(rank: int) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        layout = attrs.text("layout", plain(rank))
        x = to_layout(b, args[0], layout, plain(rank))
        # Only cropping uses a region, and what lies outside it; cropping is refused.
        attrs.get("roi")
        attrs.get("extrapolation_value")
        coordinates = attrs.text("coordinate_transformation_mode", "half_pixel")
        dtype = attrs.text("out_dtype", x.dtype)
        more = {
            "cubic_coeff_a": attrs.real("cubic_alpha", -0.5),
            "exclude_outside": attrs.whole("cubic_exclude", 0),
        }
        method, rounding = attrs.text("method", "linear"), str(attrs.get("rounding_method", "round"))
        y = _resized(b, x, attrs.each("size", rank), method, coordinates, rounding, **more)
        return to_layout(b, b.cast(y, dtype), plain(rank), layout)

    return convert


def _depth_to_space(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    layout = attrs.text("layout", "NCHW")
    x = to_layout(b, args[0], layout, "NCHW")
    mode = {"DCR": "DCR", "CDR": "CRD"}[attrs.text("mode", "DCR")]
    return to_layout(
        b, b.op("DepthToSpace", [x], blocksize=attrs.whole("block_size"), mode=mode), "NCHW", layout
    )


def _space_to_depth(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    layout = attrs.text("layout", "NCHW")
    x = to_layout(b, args[0], layout, "NCHW")
    return to_layout(b, b.op("SpaceToDepth", [x], blocksize=attrs.whole("block_size")), "NCHW", layout)


def _pad_widths(b: Builder, x: Tensor, attrs: Attributes) -> Tensor:
    widths = attrs.required("pad_width")
    sound = isinstance(widths, list) and all(isinstance(side, list) and len(side) == 2 for side in widths)
    if not sound or len(widths) != x.rank:
        raise ValueError(f"pad_width must have two numbers for each of {x.rank} axes")
    return b.constant([int(low) for low, _ in widths] + [int(high) for _, high in widths], "int64")


def _pad(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    operands, mode = [x, _pad_widths(b, x, attrs)], attrs.text("pad_mode", "constant")
    value = args[1] if len(args) > 1 else b.number(attrs.real("pad_value", 0.0), x)
    if mode == "constant":
        operands.append(b.reshape(b.cast(value, x.dtype), []))
    return b.op("Pad", operands, mode=mode)


def _mirror_pad(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    if attrs.text("mode", "SYMMETRIC") != "REFLECT":
        raise ValueError("only the mode REFLECT is supported")
    return b.op("Pad", [args[0], _pad_widths(b, args[0], attrs)], mode="reflect")


OPERATORS: Mapping[str, Any] = {
    "image.resize1d": _resize(1),
    "image.resize2d": _resize(2),
    "image.resize3d": _resize(3),
    "nn.depth_to_space": _depth_to_space,
    "nn.mirror_pad": _mirror_pad,
    "nn.pad": _pad,
    "nn.space_to_depth": _space_to_depth,
    "nn.upsampling": _upsampling,
}
