"""Files that are there whole or not at all."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import xxhash

TEMPORARY = ".tmp"


@contextmanager
def whole_file(path: Path, *, text: bool = False, mark: str = "") -> Iterator[IO]:
    """A file to write to, which gets its name when it is complete and on the disk; else nothing is left.

    Args:
        path: its name in the end.
        text: UTF-8 text instead of bytes.
        mark: makes the temporary name a process's own, where several may write the same file.
    """
    partial = path.with_name(f"{path.name}{mark}{TEMPORARY}")
    try:
        # Halves of characters, which file names and JSON may hold, are written as JSON writes them: \ud800
        with open(partial, "w", encoding="utf-8", errors="backslashreplace") if text else open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make renames in it last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    """XXH128 of a file."""
    with open(path, "rb", buffering=0) as file:
        return content_hash(file)


def content_hash(file: io.FileIO) -> str:
    """XXH128 of a file from where it stands: finds damage, as fast as the file can be read; no guard against intent."""
    digest = xxhash.xxh3_128()
    buffer = bytearray(2**18)
    while size := file.readinto(buffer):
        digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()
