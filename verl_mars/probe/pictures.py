"""Images as they are sent to a model: bounded, and held no longer than needed."""

import base64
import hashlib
import io
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from verl_mars.data.images import encoded_bytes, read_header, training_problem
from verl_mars.errors import DataError
from verl_mars.fields import Fields

MOST_BYTES = 32 * 2**20
"""Of one image file."""
_HELD_BYTES = 128 * 2**20
_AS_THEY_ARE = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """An encoded image."""

    data: bytes
    media_type: str
    digest: str
    """SHA-256 of the file and of the bounds that it was scaled to."""

    @property
    def data_url(self) -> bytes:
        """As servers take it."""
        return b"data:%s;base64,%s" % (self.media_type.encode(), base64.b64encode(self.data))

    def open(self) -> Image.Image:
        """Decoded, in RGB."""
        with Image.open(io.BytesIO(self.data)) as image:
            return image.convert("RGB")

    def small(self, side: int) -> Image.Image:
        """Decoded, in RGB, scaled down to a longest side; a JPEG is not decoded in full."""
        with Image.open(io.BytesIO(self.data)) as image:
            if image.format == "JPEG":
                image.thumbnail((side, side))
            shown = image.convert("RGB")
        shown.thumbnail((side, side))
        return shown


class Pictures:
    """Loads the image parts of messages; keeps the last ones, since a row's views share their images.

    Args:
        max_pixels: area to which larger images are scaled down; a part's own ``max_pixels`` holds too.
    """

    def __init__(self, max_pixels: int | None = None) -> None:
        self.max_pixels = max_pixels
        self._held: OrderedDict[Hashable, Picture] = OrderedDict()
        self._bytes = 0

    def load(self, part: Fields) -> Picture:
        """The picture of an image part ``{type, image | bytes, ...}``.

        Raises:
            DataError: no such file, no image, or one that training would show differently.
        """
        raw = part.get("bytes")
        key = (raw or part.get("image"), part.get("min_pixels"), part.get("max_pixels"))
        picture = self._held.get(key)
        if picture is not None:
            self._held.move_to_end(key)
            return picture
        picture = self._encode(_read(part), part.get("min_pixels"), part.get("max_pixels"), _name(part))
        self._held[key] = picture
        self._bytes += len(picture.data)
        while self._bytes > _HELD_BYTES and len(self._held) > 1:
            self._bytes -= len(self._held.popitem(last=False)[1].data)
        return picture

    def _encode(self, data: bytes, least: int | None, most: int | None, name: str) -> Picture:
        header = read_header(data)
        problem = training_problem(header)
        if problem is not None:
            raise DataError(f"image {name}: {problem.message}")
        most = min((bound for bound in (most, self.max_pixels) if bound), default=None)
        digest = hashlib.sha256(data)
        digest.update(f"|{least}|{most}".encode())
        area = header.width * header.height
        scale = math.sqrt(most / area) if most and area > most else 1.0
        scale = math.sqrt(least / area) if least and area < least else scale
        if scale == 1.0 and header.ordinary and header.format in _AS_THEY_ARE:
            return Picture(data, _AS_THEY_ARE[header.format], digest.hexdigest())
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.convert("RGB")
        if scale != 1.0:
            size = max(1, round(header.width * scale)), max(1, round(header.height * scale))
            pixels = pixels.resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        pixels.save(buffer, "PNG", compress_level=1)
        return Picture(buffer.getvalue(), "image/png", digest.hexdigest())


def _name(part: Fields) -> str:
    return str(part.get("path") or part.get("image") or "(embedded)")[:200]


def _read(part: Fields) -> bytes:
    """The encoded image of a part."""
    raw, where = part.get("bytes"), part.get("image")
    if isinstance(raw, bytes):
        return raw
    if not isinstance(where, str):
        raise DataError(f"image {_name(part)}: {{image: path}} or {{bytes, path}} is needed")
    if where.startswith("data:image"):
        return encoded_bytes(where)
    if where.startswith(("http://", "https://")):
        raise DataError(f"image {where[:200]}: a probe fetches nothing from the network; download it and name the file")
    path = Path(where.removeprefix("file://"))
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"image {path}: {path.stat().st_size} bytes, at most {MOST_BYTES} are sent")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"image {path}: {error.strerror}") from None
