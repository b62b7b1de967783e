"""Atomic files: there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp"
"""Suffix of a file that is being written."""


@contextmanager
def whole_file(path: Path, *, text: bool = False, mark: str = "") -> Iterator[IO]:
    """A file to write to; it gets its name once it is complete and on the disk. On an error nothing is left.

    Args:
        path: its final name.
        text: UTF-8 text instead of bytes.
        mark: distinguishes temporary names if several processes may write the same file.
    """
    partial = path.with_name(f"{path.name}{mark}{TEMPORARY}")
    try:
        # Half characters, which file names and JSON may hold, are written as JSON escapes them: \ud800
        with open(partial, "w", encoding="utf-8", errors="backslashreplace") if text else open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
