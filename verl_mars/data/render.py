"""Images as training gets them: ordinary ones untouched, odd ones rendered to ordinary PNG files.

Odd are: more than 8 bits a channel, an EXIF turn, a palette, transparency or more than three bands, and a border that
the raw data say to cut off. A rendered file is named by the hash of its input; one that exists is not rendered again.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from verl_mars.data.arrays import is_array, read_array
from verl_mars.data.depth import DepthEncoding, encode, millimetres, stretch
from verl_mars.data.files import whole_file
from verl_mars.data.images import ImageHeader, read_header, training_problem
from verl_mars.data.sample import ImageRef
from verl_mars.errors import SampleError

Box = tuple[float, float, float, float]
Draw = Callable[[Image.Image, "ImageRef"], tuple[Image.Image, dict[str, object]]]
VERSION = 2
_NOTE = "verl_mars"
"""Key of the PNG text that says how an image was rendered."""
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_KNOWN_IMAGES = 1024


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready for a row."""

    path: str
    size: tuple[int, int]
    stored: ImageHeader
    """The header of the raw file."""
    crop: tuple[int, int, int, int] | None = None
    note: dict[str, object] = field(default_factory=dict)
    """How it was rendered; empty where it was not."""

    def move_box(self, box: Box, declared: tuple[int, int] | None) -> Box:
        """A box of the raw annotation in pixels of this image.

        ``declared`` is the image size that the annotation gives: it says whether a box on an EXIF-turned image was
        drawn before or after the turn. Parts of a box that a crop cuts off go; a box without a rest has no area.

        Raises:
            SampleError: the size fits neither, or a turned image has boxes but no size says how they were drawn.
        """
        upright = _turned_size(self.stored)
        if declared is not None and declared not in (self.stored.size, upright):
            (width, height), (own_width, own_height) = declared, self.stored.size
            message = f"the annotation says {width} x {height}, the image is {own_width} x {own_height}"
            raise SampleError("size_mismatch", message)
        if self.stored.orientation != 1:
            if declared is None or self.stored.size == upright:
                message = f"EXIF orientation {self.stored.orientation}: nothing says whether boxes are upright"
                raise SampleError("exif", message)
            if declared == self.stored.size:
                box = _turn(box, self.stored)
        if self.crop is None:
            return box
        left, top, right, bottom = self.crop
        x1, y1, x2, y2 = box
        clipped = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        x1, y1, x2, y2 = clipped[0] - left, clipped[1] - top, clipped[2] - left, clipped[3] - top
        return x1, y1, max(x1, x2), max(y1, y2)


class Renderer:
    """Prepares images; writes rendered ones under ``<out>/images``.

    Args:
        folder: where rendered files go.
        depth_encoding: how depth maps are shown.
        decode: decode every image in full, which finds damage in its middle.
    """

    def __init__(self, folder: Path, depth_encoding: DepthEncoding = "turbo", decode: bool = False) -> None:
        self.folder = folder
        self.depth_encoding = depth_encoding
        self.decode = decode
        self._known: dict[tuple[str, ImageRef, str], PreparedImage] = {}

    def prepare(self, path: str, ref: ImageRef, source: str) -> PreparedImage:
        """The image of a source, rendered if need be.

        Raises:
            SampleError: missing, broken, cut off, too large, or impossible to show.
        """
        if ref.content is not None:
            path = self._extracted(ref)
        if is_array(path):
            height, width = read_array(path).shape
            header = ImageHeader(width, height, "F", "array")
        else:
            header = read_header(path, decode=self.decode)
        if header.ordinary and ref.crop is None:
            problem = training_problem(header)
            if problem is not None:
                raise SampleError(problem.code, f"{path}: {problem.message}")
            return PreparedImage(path, header.size, header)
        if header.frames != 1:
            raise SampleError("frames", f"{path} has {header.frames} frames, one is needed")
        if header.deep:  # a depth map of 8 bits was made to be looked at by somebody before us and stays as it is
            is_depth = ref.kind == "depth" or (ref.kind == "auto" and "depth" in source.lower())
            return self._rendered(path, ref, header, self._depth if is_depth else self._intensity)
        return self._rendered(path, ref, header, self._ordinary)

    def _extracted(self, ref: ImageRef) -> str:
        """An embedded image as a file, named by the hash of its bytes."""
        content = ref.content or b""
        header = read_header(content)
        target = self.folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.{header.format.lower()}"
        if not target.exists() or target.stat().st_size != len(content):
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(target, mark=f".{os.getpid()}") as file:
                file.write(content)
        return str(target)

    def _rendered(
        self,
        path: str,
        ref: ImageRef,
        header: ImageHeader,
        draw: Draw,
    ) -> PreparedImage:
        known = self._known.get((path, ref, draw.__name__))
        if known is not None:  # several questions about one image follow each other in many data sets
            return known
        target = self.folder / f"{self._name(path, ref, draw.__name__)}.png"
        size, note = _rendered_before(target) or self._draw(path, ref, draw, target)
        image = PreparedImage(str(target), size, header, ref.crop, {"from": path, **note})
        if len(self._known) >= _KNOWN_IMAGES:
            self._known.clear()
        self._known[path, ref, draw.__name__] = image
        return image

    def _name(self, path: str, ref: ImageRef, kind: str) -> str:
        """Hash of the file's content and of everything else that decides the rendered pixels."""
        recipe = repr((VERSION, kind, self.depth_encoding, ref.unit, ref.scale, ref.crop)).encode()
        key = hashlib.blake2b(recipe, digest_size=32).digest()
        return hashlib.blake2b(Path(path).read_bytes(), key=key, digest_size=16).hexdigest()

    def _draw(self, path: str, ref: ImageRef, draw: Draw, target: Path) -> tuple[tuple[int, int], dict[str, object]]:
        try:
            with Image.fromarray(read_array(path)) if is_array(path) else Image.open(path) as image:
                image.load()
                picture, note = draw(image, ref)
        except SampleError as error:
            raise SampleError(error.code, f"{path}: {error}") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise SampleError("broken_image", f"{path} cannot be decoded: {error}") from error
        problem = training_problem(ImageHeader(*picture.size, picture.mode, "PNG"))
        if problem is not None:
            raise SampleError(problem.code, f"{path}: {problem.message}")
        written = PngInfo()
        written.add_text(_NOTE, json.dumps(note))
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(target, mark=f".{os.getpid()}") as file:
            picture.save(file, "PNG", compress_level=4, pnginfo=written)
        return picture.size, note

    def _depth(self, image: Image.Image, ref: ImageRef) -> tuple[Image.Image, dict[str, object]]:
        depth = millimetres(np.asarray(_cropped(image, ref)), ref.unit, ref.scale)
        picture, scale = encode(depth, self.depth_encoding)
        return Image.fromarray(picture), scale

    def _intensity(self, image: Image.Image, ref: ImageRef) -> tuple[Image.Image, dict[str, object]]:
        picture, scale = stretch(np.asarray(_cropped(image, ref)))
        return Image.fromarray(picture), scale

    def _ordinary(self, image: Image.Image, ref: ImageRef) -> tuple[Image.Image, dict[str, object]]:
        note: dict[str, object] = {"mode": image.mode}
        picture = ImageOps.exif_transpose(image)
        if image.getexif().get(0x0112, 1) != 1:
            note["turned"] = True
        if "A" in picture.getbands() or "transparency" in picture.info:
            layer = picture.convert("RGBA")
            picture = Image.new("RGB", layer.size, (255, 255, 255))  # white, as qwen_vl_utils lays it
            picture.paste(layer, mask=layer.getchannel("A"))
        elif picture.mode not in ("L", "RGB"):
            bands = picture.getbands()
            picture = picture.convert("L" if picture.mode == "1" else "RGB")
            if len(bands) > 3:
                note["bands"] = "".join(bands)
        picture = _cropped(picture, ref)
        if ref.crop is not None:
            note["crop"] = list(ref.crop)
        return Image.frombytes(picture.mode, picture.size, picture.tobytes()), note


def _rendered_before(target: Path) -> tuple[tuple[int, int], dict[str, object]] | None:
    """Size and note of a rendered file; None if it is missing or damaged."""
    try:
        with open(target, "rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            if file.read() != _PNG_END:
                return None
            with Image.open(file) as image:
                return image.size, json.loads(image.info[_NOTE])
    except (OSError, ValueError, KeyError, SyntaxError):
        return None


def _cropped(image: Image.Image, ref: ImageRef) -> Image.Image:
    if ref.crop is None:
        return image
    left, top, right, bottom = ref.crop
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise SampleError("record", f"crop {list(ref.crop)} is not inside {image.width} x {image.height} pixels")
    return image.crop(ref.crop)


def _turned_size(header: ImageHeader) -> tuple[int, int]:
    return (header.height, header.width) if header.orientation >= 5 else header.size


def _turn(box: Box, header: ImageHeader) -> Box:
    """A box on the stored pixels, in pixels of the upright image (the eight turns of EXIF)."""
    width, height = header.size
    x1, y1, x2, y2 = box
    turns: dict[int, Box] = {
        2: (width - x2, y1, width - x1, y2),
        3: (width - x2, height - y2, width - x1, height - y1),
        4: (x1, height - y2, x2, height - y1),
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }
    return turns[header.orientation]
