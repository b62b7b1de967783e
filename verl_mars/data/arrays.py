"""Depth and intensity in files that Pillow does not open: ``.npy`` arrays and OpenEXR images (extra ``exr``)."""

import numpy as np
from numpy.typing import NDArray

from verl_mars.data.images import MAX_PIXELS
from verl_mars.errors import SampleError
from verl_mars.fields import FieldDict

ENDINGS = (".npy", ".exr")
_DEPTH_CHANNELS = ("Z", "depth.Z", "Depth.Z", "depth", "Depth", "Depth.V", "V", "Y")
"""Names that renderers give to depth, or to a single channel; the first one found is read."""


def is_array(path: str) -> bool:
    """Whether a file is read here."""
    return path.lower().endswith(ENDINGS)


def read_array(path: str) -> NDArray[np.float32]:
    """The (H, W) numbers of a ``.npy`` file or of one channel of an ``.exr`` file.

    Raises:
        SampleError: missing, pickled, of another shape or type, too large, or OpenEXR is not installed.
    """
    return _read_exr(path) if path.lower().endswith(".exr") else _read_npy(path)


def _read_npy(path: str) -> NDArray[np.float32]:
    try:
        raw = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise SampleError("missing_image", f"{path} does not exist") from error
    except (OSError, ValueError, EOFError) as error:
        raise SampleError("broken_image", f"{path} is no NumPy array that can be read: {error}") from error
    if not isinstance(raw, np.ndarray) or raw.ndim != 2 or raw.dtype.kind not in "iuf" or 0 in raw.shape:
        found = f"shape {raw.shape}, {raw.dtype}" if isinstance(raw, np.ndarray) else "an archive"
        raise SampleError("depth", f"{path}: a NumPy array of shape (H, W) with numbers is needed, found {found}")
    _check_size(path, raw.size)
    return np.asarray(raw, np.float32)


def _read_exr(path: str) -> NDArray[np.float32]:
    try:
        import OpenEXR
    except ModuleNotFoundError as error:
        cure = 'pip install "OpenEXR>=3.3", or convert the file to a 16-bit PNG or a float TIFF'
        raise SampleError("depth", f"{path} is an OpenEXR image, which needs the extra `exr`: {cure}") from error
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"\x76\x2f\x31\x01":
                raise SampleError("broken_image", f"{path} is no OpenEXR image")
        with OpenEXR.File(path, separate_channels=True, header_only=True, num_threads=0) as image:
            (left, top), (right, bottom) = image.header()["dataWindow"]
            _check_size(path, (int(right) - int(left) + 1) * (int(bottom) - int(top) + 1))
        with OpenEXR.File(path, separate_channels=True, num_threads=0) as image:
            return _channel(path, image.channels())
    except FileNotFoundError as error:
        raise SampleError("missing_image", f"{path} does not exist") from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError("broken_image", f"{path} is no OpenEXR image that can be read: {error}") from error


def _channel(path: str, channels: FieldDict) -> NDArray[np.float32]:
    name = next((name for name in _DEPTH_CHANNELS if name in channels), None)
    if name is None and len(channels) == 1:
        name = next(iter(channels))
    if name is None:
        found, allowed = ", ".join(sorted(channels)), ", ".join(_DEPTH_CHANNELS)
        raise SampleError("depth", f"{path} has the channels {found}; one channel is needed, or one named {allowed}")
    return np.array(channels[name].pixels, np.float32)


def _check_size(path: str, values: int) -> None:
    if values > MAX_PIXELS:
        raise SampleError("bomb", f"{path}: {values} values, at most {MAX_PIXELS} are allowed")
