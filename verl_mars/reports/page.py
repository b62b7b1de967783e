"""The writer of HTML pages: a jinja2 template over ``templates/base.html`` in, one self-contained file out.

A template extends ``base.html`` and fills ``{% block content %}``. ``{% import "macros.html" as m %}`` gives it
``m.table``, ``m.picture`` and ``m.texts``. Values are escaped, whatever they hold: texts of data sets and models are
untrusted. A page's policy admits no script but the one whose hash it names (:func:`script_of`).
"""

import base64
import hashlib
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from verl_mars.data.images import read_header
from verl_mars.errors import UsageError

TEMPLATES = Path(__file__).parent / "templates"
JPEG_FROM = 256
"""Longest side in pixels above which a thumbnail is a JPEG; smaller ones keep every pixel as PNG."""


@dataclass(frozen=True)
class Picture:
    """An image for a page."""

    url: str
    """Data URL of the thumbnail."""
    width: int
    height: int
    """Size of the original, which boxes refer to."""


def picture(source: str | bytes | Image.Image, side: int = 320, jpeg_from: int = JPEG_FROM) -> Picture:
    """A thumbnail of an image file, of encoded bytes, or of a decoded image.

    Args:
        source: a local path, encoded bytes, or a PIL image.
        side: longest side of the thumbnail in pixels; smaller images are not enlarged.
        jpeg_from: longest side above which the thumbnail is a JPEG.

    Raises:
        SampleError: the image is missing, broken, truncated, or has too many pixels to be opened.
    """
    if isinstance(source, Image.Image):
        return _encoded(source, side, jpeg_from)
    read_header(source, decode=True)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        return _encoded(opened, side, jpeg_from)


def _encoded(image: Image.Image, side: int, jpeg_from: int) -> Picture:
    small = image.convert("RGB")  # as verl does: an image that training turns all white is white here too
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "jpeg" if max(small.size) > jpeg_from else "png"
    buffer = io.BytesIO()
    small.save(buffer, kind, **({"quality": 88} if kind == "jpeg" else {}))
    return Picture(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", *image.size)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment of all templates: escaping on, unknown names refused."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_of(name: str) -> dict[str, str]:
    """A script in ``templates/`` for a page: its text as ``script``, its hash for the page's policy as ``script_hash``.

    The hash admits this script and no other, should a text ever slip through unescaped.
    """
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_hash": digest}


def render(template: str, **values: object) -> str:
    """The page of a template in ``templates/``; ``title`` is needed by all."""
    return environment().get_template(template).render(**values)


def write_page(path: Path, template: str, **values: object) -> Path:
    """Render a template into a file, which is there whole or not at all. Returns the path.

    Raises:
        UsageError: the folder cannot be made.
    """
    text = render(template, **values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path.parent} cannot be made: {error.strerror}") from error
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
