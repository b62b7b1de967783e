"""Records of other projects' files: JSON, JSONL, Parquet, and folders of Hugging Face ``datasets``."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verl_mars.data.paths import Root
from verl_mars.data.readers import json_records, row_batches
from verl_mars.errors import DataError, UsageError
from verl_mars.fields import FieldDict

SUFFIXES = (".jsonl", ".json", ".parquet")
_SPLIT = re.compile(r"(train|training|validation|valid|val|dev|test|testing)(?![A-Za-z])")
_OF_DATASETS = ("dataset_dict.json", "dataset_info.json", "state.json", "dataset_infos.json")


@dataclass(frozen=True)
class Line:
    """One record and where it is from."""

    origin: str
    number: int
    """Position in its file."""
    content: FieldDict
    split: str | None = None
    """As the file's name or the data set says it."""


def lines_of(root: Root, name: str, layout: str) -> Iterator[Line]:
    """The records of a file or folder under the root.

    Args:
        root: of the raw data.
        name: a file or folder; empty: the only file of records, or the folder itself if it is a data set.
        layout: for messages.

    Raises:
        DataError: nothing that could be read, or several files and no name.
    """
    path = root.need(name, layout) if name else root.path
    if path.is_dir():
        yield from _folder(path, named=bool(name))
    else:
        yield from _file(path, path.name, None)


def _folder(path: Path, *, named: bool) -> Iterator[Line]:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        yield from _saved_to_disk(path)
        return
    files = sorted(file for part in ("", "data/") for file in path.glob(f"{part}*") if file.suffix in SUFFIXES)
    files = [file for file in files if file.name not in _OF_DATASETS]
    splits = [_split_of(file) for file in files]
    if not files:
        raise DataError(f"{path} has no file that ends in {', '.join(SUFFIXES)}")
    if len(files) > 1 and not all(splits):
        listed = ", ".join(file.name for file in files[:5])
        raise UsageError(f"{path} has several files ({listed}): --set file=NAME picks one")
    for file, split in zip(files, splits, strict=True):
        yield from _file(file, file.name, split)


def _file(path: Path, name: str, split: str | None) -> Iterator[Line]:
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} ends in {path.suffix!r}, but {', '.join(SUFFIXES)} are read")
    if path.suffix == ".parquet":
        rows: Iterator[FieldDict] = (row for batch in row_batches(str(path)) for row in batch)
    else:
        rows = json_records(path)
    for number, row in enumerate(rows):
        yield Line(f"{name}, {'row' if path.suffix == '.parquet' else 'record'} {number}", number, row, split)


def _saved_to_disk(path: Path) -> Iterator[Line]:
    """A folder that ``Dataset.save_to_disk`` wrote. Its Arrow files are read; nothing in it is run."""
    from datasets import Image, Sequence, load_from_disk

    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read as a folder of datasets: {error}") from error
    for split, data in loaded.items() if isinstance(loaded, dict) else [(None, loaded)]:
        for column, feature in data.features.items():
            inner = getattr(feature, "feature", None)
            if isinstance(feature, Image):
                data = data.cast_column(column, Image(decode=False))
            elif isinstance(inner, Image):
                data = data.cast_column(column, Sequence(Image(decode=False)))
        for number, row in enumerate(data):
            yield Line(f"{split or path.name}, row {number}", number, row, split)


def _split_of(file: Path) -> str | None:
    match = _SPLIT.match(file.stem)
    return match[1] if match else None
