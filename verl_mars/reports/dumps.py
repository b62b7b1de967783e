"""Lines of verl's dumps of training responses (``trainer.rollout_data_dir``)."""

import json
from collections.abc import Iterator
from pathlib import Path

from verl_mars.data.images import encoded_bytes
from verl_mars.errors import DataError, SampleError
from verl_mars.fields import FieldDict
from verl_mars.reports.page import Picture, picture

LONGEST_LINE = 64 * 2**20
"""Bytes of one dumped response."""


def dumped_lines(dump: Path) -> Iterator[tuple[int, FieldDict]]:
    """Number and content of each line, from 1.

    Raises:
        DataError: no such file, or a line that is no dumped response (named by its number).
    """
    try:
        with dump.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{dump}, line {number}: longer than {LONGEST_LINE} bytes")
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise DataError(f"{dump}, line {number}: no dumped response")
                yield number, entry
    except OSError as error:
        raise DataError(f"{dump} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{dump}, line {number}: no JSON: {error}") from error


def dumped_picture(image: object, side: int) -> Picture | None:
    """An image of a dumped line (a path or a data URL); None if there is none or it cannot be read."""
    if not isinstance(image, str):
        return None
    try:
        source = encoded_bytes(image) if image.startswith("data:image") else image.removeprefix("file://")
        return picture(source, side, jpeg_from=112)
    except SampleError:
        return None
