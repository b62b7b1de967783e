"""Rows that are allowed and deserve a look: ``verl-mars data validate`` counts them and names the first of a kind."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence

from verl_mars.fields import Fields

_ENDS = 4096
"""Bytes of either end of an image file that stand for its content."""
_MAX_FILES = 2_000_000

ONE_PICTURE = "show one picture as two sources: their anchors are the same"
SMALL_BOX = "have a box of less than one pixel; were its numbers fractions?"
UNALIGNED = "have boxes, and a source of another size without its own ground truth"
COPY = "hold a copy of an image that another split holds under another name"


class RowNotes:
    """Counts rows by kind of note."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._homes: dict[bytes, tuple[str, str]] = {}
        """Fingerprint of an image -> the split and name that had it first."""
        self._known: set[str] = set()

    def add(self, row: Fields, where: str) -> None:
        """Take note of a row that passed the checks."""
        for text in set(self._of_row(row)):
            self.counts[text] += 1
            self._first.setdefault(text, where)

    def texts(self) -> list[str]:
        """One sentence a kind."""
        return [
            f"{count} row{'s' * (count != 1)} {text} (the first: {self._first[text]})."
            for text, count in sorted(self.counts.items())
        ]

    def _of_row(self, row: Fields) -> Iterator[str]:
        images, extra = row["images"], row["extra_info"]
        sources = row.get("sources") or []
        used = [name for source in sources for name in {_name(images[k]) for k in source["images"]} - {None}]
        if len(set(used)) < len(used):
            yield ONE_PICTURE
        if extra.get("task") == "grounding":
            yield from _about_boxes(
                json.loads(row["reward_model"]["ground_truth"]), extra.get("image_sizes") or [], sources
            )
        for image in images:
            if self._is_copy(image, str(extra.get("split"))):
                yield COPY

    def _is_copy(self, image: Fields | str, split: str) -> bool:
        name = _name(image)
        if name is None or name in self._known or len(self._known) >= _MAX_FILES:
            return False
        self._known.add(name)
        home = self._homes.setdefault(_fingerprint(name), (split, name))
        return home[0] != split and home[1] != name


def _about_boxes(truth: Fields, sizes: Sequence[Sequence[int]], sources: list[Fields]) -> Iterator[str]:
    if any(x2 - x1 < 1 or y2 - y1 < 1 for x1, y1, x2, y2 in truth["boxes"]):
        yield SMALL_BOX
    for source in sources if sizes else ():
        if source.get("ground_truth") is None and any(list(sizes[k]) != truth["size"] for k in source["images"]):
            yield UNALIGNED


def _name(image: Fields | str) -> str | None:
    """The path of an image entry; None if the row embeds it or names a URL."""
    path = image if isinstance(image, str) else image.get("image")
    return path if isinstance(path, str) and os.path.isabs(path) else None


def _fingerprint(path: str) -> bytes:
    """Size and both ends of a file: equal for copies, and two reads however large the file is."""
    try:
        with open(path, "rb") as file:
            start = file.read(_ENDS)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _ENDS))
            return hashlib.blake2b(start + file.read() + str(size).encode(), digest_size=8).digest()
    except OSError:
        return path.encode()
