"""Rows out of the files that verl takes (.parquet, .json, .jsonl), batch by batch; records out of large JSON files."""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import NoReturn, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from verl_mars.errors import DataError, SampleError
from verl_mars.fields import FieldDict
from verl_mars.file_kinds import kind_of
from verl_mars.interrupts import obey_interrupt

SUFFIXES = (".parquet", ".json", ".jsonl")
BATCH_ROWS = 1024
EMBEDDED_BATCH_ROWS = 32
MAX_RECORD = 64 * 2**20
"""Characters of one JSON record."""
MAX_LINE = 8 * 2**20
"""Characters of one line of JSON."""
_CHUNK = 2**18
_BLANKS = " \t\r\n"


def as_files(files: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[str]:
    """The files as verl's ``data.train_files`` names them: one, or a list.

    Raises:
        DataError: none, another ending, a folder, a pattern, or a file that does not exist.
    """
    listed = [files] if isinstance(files, str | os.PathLike) else list(files)
    if not listed:
        raise DataError("no data files given: a list of .parquet, .json or .jsonl files is needed")
    return [_checked_file(os.fspath(file)) for file in listed]


def _checked_file(file: str) -> str:
    if "://" in file:
        raise DataError(
            f"{file} is not a local path. verl keeps its copy of a remote file under a hash of the name and keeps "
            "reading the old rows after the file is written again: copy it to storage that all nodes see"
        )
    path = Path(file).expanduser()
    if path.is_dir():
        shards = sorted(found.name for found in path.iterdir() if found.suffix in SUFFIXES)
        inside = f"; it has {', '.join(shards[:5])}" if shards else ""
        raise DataError(f"{file} is a folder, but verl takes files only{inside}")
    if not path.exists():
        if any(sign in file for sign in "*?["):
            found = sorted(glob.glob(os.path.expanduser(file)))
            matches = f"it matches {', '.join(found[:5])}" if found else "no file matches it"
            raise DataError(f"{file} is a pattern, but verl takes file names only: list the files; {matches}")
        raise DataError(f"{file} does not exist")
    if path.suffix not in SUFFIXES:
        raise DataError(f"{file} ends in {path.suffix!r}, but verl takes {', '.join(SUFFIXES)} only")
    return str(path)


def open_parquet(file: str) -> pq.ParquetFile:
    """The file, opened.

    Raises:
        DataError: it is no whole Parquet file.
    """
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is no whole Parquet file: {error}") from error


def row_batches(file: str, columns: Sequence[str] | None = None) -> Iterator[list[FieldDict]]:
    """The rows of a file as plain dicts, in order, a batch at a time.

    Args:
        file: .parquet, .json (an array, or one record a line) or .jsonl.
        columns: only these, where the file is Parquet.

    Raises:
        DataError: the file cannot be read.
    """
    if not file.endswith(".parquet"):
        batch: list[FieldDict] = []
        for record in json_records(file):
            batch.append(record)
            if len(batch) == BATCH_ROWS:
                obey_interrupt()
                yield batch
                batch = []
        if batch:
            yield batch
        return
    with open_parquet(file) as parquet:
        size = EMBEDDED_BATCH_ROWS if embeds_images(parquet.schema_arrow) else BATCH_ROWS
        wanted = None if columns is None else [name for name in columns if name in parquet.schema_arrow.names]
        try:
            for part in parquet.iter_batches(batch_size=size, columns=wanted):
                obey_interrupt()
                yield part.to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error


def embeds_images(schema: pa.Schema) -> bool:
    """Whether a column of the file holds binary data, at any depth."""
    return any(_has_binary(field.type) for field in schema)


def _has_binary(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_has_binary(kind.field(position).type) for position in range(kind.num_fields))


def json_records(file: str | os.PathLike[str]) -> Iterator[FieldDict]:
    """The objects in a JSON file, one by one in bounded memory: the items of one array, or one after the other.

    Raises:
        DataError: broken JSON, an item that is no object, a number that is not finite, a record of more than 64 M
            characters, or text that is not UTF-8; the message says how many records came before.
    """
    path = Path(file)
    refuse_other_kinds(path)
    try:
        with open(path, encoding="utf-8-sig") as text:
            yield from _RecordReader(text, path).records()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def json_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are not blank, one JSON value each.

    Raises:
        DataError: another kind of file, which is named; one JSON list; a line of more than 8 M characters; or text that
            is not UTF-8.
    """
    refuse_other_kinds(path)
    try:
        with open(path, encoding="utf-8-sig") as lines:
            number = 0
            while line := lines.readline(MAX_LINE):
                number += 1
                if not line.strip():
                    continue
                if number == 1 and line.lstrip().startswith("["):
                    raise DataError(
                        f"{path} is one JSON list, but one object a line is needed: `jq -c '.[]' LIST > MANIFEST` "
                        "writes it so"
                    )
                if len(line) == MAX_LINE and not line.endswith("\n"):
                    raise DataError(f"{path}, line {number}: more than {MAX_LINE} characters; one object a line")
                yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error


def refuse_other_kinds(path: Path) -> None:
    """Check that a file may be JSON text.

    Raises:
        DataError: it is of another kind, which is named with the cure, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            kind = kind_of(file.read(64))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if kind is not None and kind != "JSON text":
        raise DataError(f"{path} is {kind}")


def strict_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        SampleError: broken JSON, a key that is given twice, or a number that is not finite.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (JSONDecodeError, RecursionError) as error:
        raise SampleError("record", f"broken JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, object]]) -> FieldDict:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise SampleError("record", f"the key {twice!r} is given twice")
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise SampleError("record", f"{name} is not a finite number")


class _RecordReader:
    def __init__(self, text: TextIO, path: Path) -> None:
        self.text = text
        self.path = path
        self.decoder = json.JSONDecoder(parse_constant=self._refuse_constant)
        self.buffer = ""
        self.position = 0
        self.count = 0

    def records(self) -> Iterator[FieldDict]:
        in_array = self._peek() == "["
        if in_array:
            self.position += 1
        while True:
            sign = self._peek()
            if sign == "" and not in_array:
                return
            if in_array:
                if sign == "]":
                    self.position += 1
                    if self._peek() != "":
                        self._fail("text after the end of the array")
                    return
                if self.count:
                    if sign != ",":
                        self._fail(f"',' or ']' expected, found {sign!r}" if sign else "the file ends inside the array")
                    self.position += 1
                    self._peek()
            if self._peek() != "{":
                self._fail(f"an object expected, found {self._peek()!r}")
            yield self._record()
            self.count += 1

    def _record(self) -> FieldDict:
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.position)
                self.position = end
                return value
            except JSONDecodeError as error:
                if len(self.buffer) - self.position > MAX_RECORD:
                    self._fail(f"more than {MAX_RECORD} characters and no end")
                # Broken text is not unfinished text: stop early where more text cannot help
                if error.pos < len(self.buffer) - 16 and not error.msg.startswith("Unterminated string"):
                    self._fail(f"{error.msg}, line {error.lineno} of what follows")
                if not self._more():
                    at_end = error.pos >= len(self.buffer) - 1 or error.msg.startswith("Unterminated")
                    self._fail("the file ends inside a record" if at_end else error.msg)
            except RecursionError:
                self._fail("nested too deeply")

    def _peek(self) -> str:
        """The next sign that is not blank, left where it is; '' at the end of the file."""
        while True:
            while self.position < len(self.buffer) and self.buffer[self.position] in _BLANKS:
                self.position += 1
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, twice as much as is waiting, so that a long record costs linear time."""
        waiting = len(self.buffer) - self.position
        chunk = self.text.read(max(_CHUNK, waiting))
        self.buffer = self.buffer[self.position :] + chunk
        self.position = 0
        return bool(chunk)

    def _refuse_constant(self, name: str) -> NoReturn:
        self._fail(f"{name} is not a finite number")

    def _fail(self, reason: str) -> NoReturn:
        raise DataError(f"{self.path}: broken JSON after {self.count} records: {reason}")
