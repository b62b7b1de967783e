"""Letters on contact sheets: the font, and text that fits into its place."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

from verl_mars.data.faults import DataError

_own_font: ContextVar[str | None] = ContextVar("own_font", default=None)


@contextmanager
def own_font(file: str | None) -> Iterator[None]:
    """Letters of this TrueType or OpenType file instead of DejaVu Sans, which has no Chinese, Japanese or Korean.

    Raises:
        DataError: it is no font.
    """
    if file is not None:
        try:
            _load(file, 15)
        except OSError as error:
            raise DataError(f"{file} is no font that can be read: {error}") from error
    token = _own_font.set(file)
    try:
        yield
    finally:
        _own_font.reset(token)


def font(size: int, bold: bool = False) -> Any:
    """The font in this size."""
    return _load(_file(bold), size)


def length(text: str, size: int, bold: bool = False) -> float:
    """Pixels that a line of text takes."""
    return font(size, bold).getlength(text)


def wrapped(text: str, width: int, size: int) -> list[str]:
    """The text in lines of at most so many pixels, broken between words where that is possible."""
    return [line for part in text.splitlines() or [""] for line in _broken(part.expandtabs(4), width, size)]


def _broken(part: str, width: int, size: int) -> Iterator[str]:
    most = max(1, width // 2)  # no letter is as narrow as two pixels
    while len(part) > most or length(part, size) > width:
        fits = max(1, _fitting(part[:most], width, size))
        space = part.rfind(" ", 1, fits + 1)
        cut = space if space > 0 else fits
        yield part[:cut].rstrip()
        part = part[cut:].lstrip()
    yield part


def _fitting(text: str, width: float, size: int, bold: bool = False) -> int:
    """How many of the first characters fit."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if length(text[:middle], size, bold) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def shortened(text: str, width: float, size: int, bold: bool = False) -> str:
    """One line of at most so many pixels; what is left out is marked."""
    text = " ".join(text.split())
    if length(text, size, bold) <= width:
        return text
    return text[: _fitting(text, width - length("…", size, bold), size, bold)].rstrip() + "…"


def unknown_letters(text: str) -> set[str]:
    """Characters that the font has no picture for: they show as empty boxes."""
    known = _letters(_file(False))
    return {letter for letter in set(text) if ord(letter) not in known and not letter.isspace()}


def _file(bold: bool) -> str:
    own = _own_font.get()
    if own is not None:
        return own
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@lru_cache(maxsize=32)
def _load(file: str, size: int) -> Any:
    return ImageFont.truetype(file, size)


@lru_cache(maxsize=4)
def _letters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())
