"""Depth maps as pictures that a vision-language model can look at: near is warm."""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verl_mars.errors import SampleError

DepthEncoding = Literal["turbo", "gray", "spatialbot"]
DepthMap = NDArray[np.float64]
Picture = NDArray[np.uint8]
_PERCENTILES = (2.0, 98.0)
_LIMIT_MM = 65_535


def millimetres(raw: NDArray[np.generic], unit: str, scale: float | None = None) -> DepthMap:
    """Depth in millimetres, 0 where nothing was measured.

    Args:
        raw: (H, W) integers or floats as the file holds them; NaN, infinite and negative values count as not measured.
        unit: ``mm``, ``m``, or ``sunrgbd``: 16-bit millimetres rotated left by three bits, beyond 8 m unreliable and
            cut to 8 m, as the data set's toolbox does.
        scale: millimetres that one unit stands for; replaces ``unit``.

    Raises:
        SampleError: another unit, more than one channel, or no measured depth at all.
    """
    if raw.ndim != 2:
        raise SampleError("depth", f"a depth map has one channel, this one has shape {raw.shape}")
    if scale is not None:
        depth = raw.astype(np.float64) * scale
    elif unit == "sunrgbd":
        rotated = raw.astype(np.uint16)
        depth = ((rotated >> np.uint16(3)) | (rotated << np.uint16(13))).astype(np.float64)
        depth = np.minimum(depth, 8000.0)
    elif unit in ("mm", "m"):
        depth = raw.astype(np.float64) * (1000.0 if unit == "m" else 1.0)
    else:
        raise SampleError("depth", f"unit {unit!r} is unknown, allowed: mm, m, sunrgbd")
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0.0)
    if not depth.any():
        raise SampleError("empty_depth", "no pixel has a depth")
    return depth


def encode(depth: DepthMap, encoding: DepthEncoding) -> tuple[Picture, dict[str, object]]:
    """A picture of a depth map, (H, W, 3) or (H, W) bytes, and the scale that reads it.

    ``turbo`` and ``gray`` show inverse depth between the 2nd and the 98th percentile of what was measured, near = warm
    (bright), not measured = black. ``spatialbot`` is SpatialBot's lossless code of millimetres (arXiv 2406.13642):
    R = 4 (d // 1024), G = 8 (d // 32) mod 256, B = 8 (d % 32); it survives neither JPEG nor much resizing.
    """
    valid = depth > 0
    scale: dict[str, object] = {"encoding": encoding, "unit": "mm", "measured": round(float(valid.mean()), 4)}
    if encoding == "spatialbot":
        if depth.max() > _LIMIT_MM:
            raise SampleError("depth", f"{depth.max():.0f} mm, but SpatialBot's code ends at {_LIMIT_MM} mm")
        code = np.rint(depth).astype(np.uint32)
        channels = (code // 1024) * 4, (code // 32) * 8 % 256, (code % 32) * 8
        return np.stack(channels, axis=-1).astype(np.uint8), scale
    inverse = 1.0 / depth[valid]
    far, near = np.percentile(inverse, _PERCENTILES)
    span = near - far
    level = np.clip((inverse - far) / span, 0.0, 1.0) if span > 0 else np.full_like(inverse, 0.5)
    # Level 0 is kept for pixels without depth
    steps = 1 + np.rint(level * 254).astype(np.uint8)
    image = np.zeros(depth.shape, np.uint8)
    image[valid] = steps
    scale |= {"shows": "1/depth", "near": round(1.0 / near, 1), "far": round(1.0 / far, 1)}
    return (_turbo()[image] if encoding == "turbo" else image), scale


def decode_spatialbot(picture: Picture) -> NDArray[np.int64]:
    """Millimetres from SpatialBot's code."""
    red, green, blue = (picture[..., channel].astype(np.int64) for channel in range(3))
    return (red // 4) * 1024 + (green // 8) * 32 + blue // 8


def stretch(raw: NDArray[np.generic]) -> tuple[Picture, dict[str, object]]:
    """A gray picture of 16-bit or float intensities: 2nd to 98th percentile to 0..255, and that range.

    Raises:
        SampleError: more than one channel, or no finite value.
    """
    if raw.ndim != 2:
        raise SampleError("depth", f"one channel is needed, this image has shape {raw.shape}")
    values = raw.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise SampleError("empty_depth", "no pixel has a finite value")
    low, high = np.percentile(values[finite], _PERCENTILES)
    span = high - low
    level = np.clip((np.where(finite, values, low) - low) / span, 0.0, 1.0) if span > 0 else np.full(raw.shape, 0.5)
    scale = {"encoding": "stretch", "low": round(float(low), 4), "high": round(float(high), 4)}
    return np.rint(level * 255).astype(np.uint8), scale


@lru_cache(maxsize=1)
def _turbo() -> Picture:
    from matplotlib import colormaps

    table = np.rint(colormaps["turbo"](np.linspace(0.0, 1.0, 256))[:, :3] * 255).astype(np.uint8)
    table[0] = 0
    return table
