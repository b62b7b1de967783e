"""Files under a root that raw data cannot lead out of."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from verl_mars.errors import DataError, SampleError, UsageError

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"])
_KNOWN_FILES = 1024
"""A file is asked for twice, when the inputs are noted and when the row is made."""


class Root:
    """A folder of raw data. Annotations are not trusted: a path that leaves the folder is refused, also by a link.

    Args:
        path: the folder.
        allowed: further folders that links and absolute paths may lead to.

    Raises:
        UsageError: one of them is no folder.
    """

    def __init__(self, path: str | os.PathLike[str], allowed: Sequence[str | os.PathLike[str]] = ()) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        self._start = str(self.path)
        self._known: dict[str, str] = {}
        self._homes = [self._home(folder) for folder in (self.path, *allowed)]

    @staticmethod
    def _home(folder: str | os.PathLike[str]) -> str:
        if not os.path.isdir(os.path.expanduser(folder)):
            raise UsageError(f"{folder} is no folder")
        return os.path.realpath(os.path.expanduser(folder))

    def file(self, name: str) -> str:
        """The absolute path of a file that the raw data name; it need not exist.

        Raises:
            SampleError: ``outside_root``.
        """
        path = self._known.get(name)
        if path is None:
            if len(self._known) >= _KNOWN_FILES:
                self._known.clear()
            path = self._known[name] = self._checked(name)
        return path

    def _checked(self, name: str) -> str:
        if "\0" in name or not name.strip():
            raise SampleError("outside_root", f"{name!r} is no file name")
        refuse_url(name)
        if not is_unicode(name):
            raise SampleError("record", f"the file name {name!r} is not UTF-8, so no row can hold it; rename the file")
        path = os.path.normpath(os.path.join(self._start, name))
        if "\\" in name and not os.path.lexists(path):
            raise SampleError("missing_image", f"{name[:120]!r} has backslashes and is not there: write / instead")
        folder, base = os.path.split(path)
        real = os.path.join(_real_folder(folder), base)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not any(real.startswith(home + os.sep) for home in self._homes):
            where = f" (it leads to {real})" if real != path else ""
            raise SampleError("outside_root", f"{name!r} is outside of --root {self.path}{where}")
        return path

    def has(self, name: str) -> bool:
        """Whether a file or folder of this name is there."""
        return os.path.exists(self.file(name))

    def need(self, name: str, layout: str) -> Path:
        """The path of a file or folder without which there is nothing to convert.

        Raises:
            DataError: it is not there; the message shows the layout.
        """
        path = Path(self.file(name))
        if not path.exists():
            raise DataError(f"{path} does not exist. Expected under --root:\n{layout}")
        return path

    def images(self, folder: str) -> Iterator[tuple[str, str]]:
        """(stem, name relative to the root) of the image files in a folder, sorted by stem.

        Raises:
            DataError: two files have one stem.
        """
        found: dict[str, str] = {}
        with os.scandir(self.file(folder)) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() not in IMAGE_SUFFIXES or stem.startswith("."):
                    continue
                if stem in found:
                    raise DataError(f"{self.path / folder}: {found[stem]} and {entry.name} have one name")
                found[stem] = entry.name
        for stem in sorted(found):
            yield stem, f"{folder}/{found[stem]}"


def refuse_url(name: str) -> None:
    """Check that a name is one of a local file.

    Raises:
        SampleError: ``outside_root``: a URL, a data URL, or a Windows path; the message says what to do.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", name)
    if name.startswith("data:"):
        raise SampleError("outside_root", "a data URL (an embedded base64 image), not a file: write it to a file")
    if name.startswith("file://"):
        raise SampleError("outside_root", f"{name[:120]!r} is a file:// URL: give the path alone, without file://")
    if scheme:
        message = f"{name[:120]!r} is a URL ({scheme[1]}://), not a local file: download it under --root"
        raise SampleError("outside_root", message)
    if re.match(r"[A-Za-z]:[\\/]", name):
        raise SampleError("outside_root", f"{name[:120]!r} is a Windows path: write it with /, relative to --root")


def is_unicode(text: str) -> bool:
    """Whether a file of rows can hold the text; names of files need not be UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """The folder without links. Folders repeat from file to file, and resolving one costs as much as a header."""
    return os.path.realpath(folder)
