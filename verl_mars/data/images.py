"""What an image file's header says, and whether verl will show the model what a person sees.

Nothing is decoded unless a file's end looks cut off. On the way to the model an image goes through ``convert("RGB")``
and two resizes, which silently turn some images into something else: 16-bit and float images become all white, and an
EXIF orientation is ignored, so that boxes drawn on the upright image lie elsewhere.
"""

import base64
import binascii
import io
import os
import struct
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from verl_mars.errors import Problem, SampleError
from verl_mars.file_kinds import kind_of
from verl_mars.vision.resize import MAX_ASPECT_RATIO

MAX_PIXELS = 89_478_485
"""Pixels of one image; above it Pillow itself suspects a decompression bomb."""
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 64
_ORIENTATION = 0x0112
_DEEP_MODES = ("I", "F")
_START = 4096
_START_OF_SCAN, _APP2 = 0xDA, 0xE2  # markers of JPEG segments


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What is known of an image without decoding it."""

    width: int
    height: int
    mode: str
    """Pillow's mode; ``I;16``, ``I`` and ``F`` hold more than 8 bits."""
    format: str
    orientation: int = 1
    """EXIF orientation; 1 = upright."""
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as stored, before any EXIF turn."""
        return self.width, self.height

    @property
    def deep(self) -> bool:
        """More than 8 bits a channel."""
        return self.mode.startswith(_DEEP_MODES)

    @property
    def ordinary(self) -> bool:
        """An image that needs no rendering: 8 bits, gray or RGB, upright, one frame."""
        return self.mode in ("L", "RGB") and self.orientation == 1 and self.frames == 1


def read_header(source: str | bytes, *, decode: bool = False) -> ImageHeader:
    """The header of an image file or of encoded bytes, after a look at the file's end.

    Args:
        source: a path, or the encoded image.
        decode: decode all pixels too, which finds damage in the middle; 200 times slower for 1280 x 1024 pixels.

    Raises:
        SampleError: ``missing_image``, ``broken_image``, ``truncated_image`` or ``bomb``.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), f"{len(source)} bytes", decode)
    try:
        with open(source, "rb") as file:
            return _read(file, source, decode)
    except FileNotFoundError as error:
        raise SampleError("missing_image", f"{source} does not exist") from error
    except IsADirectoryError as error:
        raise SampleError("missing_image", f"{source} is a folder") from error
    except OSError as error:
        raise SampleError("missing_image", f"{source} cannot be read: {error.strerror}") from error


def training_problem(header: ImageHeader, key: str = "") -> Problem | None:
    """Why verl would not show the model this image as it is; ``None``: it would."""
    width, height = header.size
    if header.deep:
        message = f"mode {header.mode}: verl converts it to RGB, which turns it all white; 8 bits a channel are needed"
        return Problem("sixteen_bit", key, message)
    if header.orientation != 1:
        message = f"EXIF orientation {header.orientation}: verl ignores it, so the image is shown turned"
        return Problem("exif", key, message)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        message = f"{width} x {height}: sides that differ by more than {MAX_ASPECT_RATIO} times are refused"
        return Problem("aspect_ratio", key, message)
    if header.frames != 1:
        return Problem("frames", key, f"{header.frames} frames: only the first would be shown")
    return None


def encoded_bytes(data_uri: str) -> bytes:
    """The image in a ``data:image/...;base64,`` text.

    Raises:
        SampleError: ``broken_image``.
    """
    head, comma, text = data_uri.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("no ;base64, in it")
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SampleError("broken_image", f"{data_uri[:40]!r}...: no base64 image: {error}") from error


def _read(file: BinaryIO, name: str, decode: bool) -> ImageHeader:
    known = None if decode else _known_header(file)
    if known is not None and _is_whole(file, known.format):
        return known
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise SampleError("bomb", f"{name}: more than {MAX_PIXELS} pixels are not opened") from error
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(64)
        kind = (kind_of(head) or "no image that Pillow knows") if head else "empty"
        raise SampleError("broken_image", f"{name} is {kind}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise SampleError("broken_image", f"{name}: {error}") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise SampleError("bomb", f"{name}: {width} x {height} pixels, at most {MAX_PIXELS} are allowed")
        header = _header(image)
        if decode or not _is_whole(file, header.format):
            _decode(image, name)
    return header


def _header(image: Image.Image) -> ImageHeader:
    # A phone's MPO file is a JPEG whose further frames (depth, gain map) no viewer shows
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    return ImageHeader(*image.size, image.mode, image.format or "", _orientation(image), frames)


def _known_header(file: BinaryIO) -> ImageHeader | None:
    """The header of a JPEG that begins like one before it.

    A camera's pictures have the same bytes up to their pixels, and Pillow's answer depends on these alone. So it is
    asked once for each such beginning; ``None`` where there is none, or where Pillow does not take it.
    """
    start = file.read(_START)
    if not start.startswith(b"\xff\xd8\xff"):
        return None
    position = 2
    while position + 4 <= len(start) and start[position] == 0xFF:
        marker = start[position + 1]
        position += 2 + int.from_bytes(start[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN and position <= len(start):
            return _header_of_start(start[:position])
        if marker == _APP2:  # may lead to further frames
            return None
    return None


@lru_cache(maxsize=256)
def _header_of_start(start: bytes) -> ImageHeader | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(start), formats=("JPEG",)) as image:
                return _header(image) if image.width * image.height <= MAX_PIXELS else None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None  # opening the whole file says what is wrong


def _orientation(image: Image.Image) -> int:
    # getexif() decodes a PNG that has no EXIF entry before its pixels, so ask only where there is one
    if "exif" not in image.info and image.format != "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1  # an EXIF entry that cannot be read turns no image
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_whole(file: BinaryIO, image_format: str) -> bool:
    """Whether the end of the file is where the format says an image ends; unknown formats are decoded instead."""
    end = ENDS.get(image_format)
    if end is None:
        return False
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    return end in file.read(_TAIL)


def _decode(image: Image.Image, name: str) -> None:
    try:
        image.seek(0)
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        code = "truncated_image" if "truncated" in str(error) or "data" in str(error) else "broken_image"
        raise SampleError(code, f"{name} cannot be decoded: {error}") from error
