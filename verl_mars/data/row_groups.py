"""One Parquet file of rows, written in row groups of bounded size."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from verl_mars.data.schema import ROW_GROUP_BYTES, ROW_GROUP_ROWS, typed_table, weight
from verl_mars.errors import SampleError
from verl_mars.fields import FieldDict

GROUP_BYTES = 32 * 2**20
"""Bytes of texts and embedded images after which a row group is written."""


class ShardWriter:
    """Writes rows to a file; the file is complete after :meth:`finish`.

    Args:
        path: the file.
        schema: of :func:`verl_mars.data.schema.arrow_schema`.
        embed: store the image files themselves instead of their paths.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, embed: bool) -> None:
        self.path = path
        self.schema = schema
        self.embed = embed
        self.rows = 0
        self.image_bytes = 0
        """Bytes of the embedded image files."""
        self._records: list[FieldDict] = []
        self._held = 0
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(self._file, schema, **(_embedded_form(schema) if embed else {}))

    def add(self, record: FieldDict) -> None:
        """Take a row, images as paths; it is written with its row group.

        Raises:
            SampleError: an image cannot be embedded. The row is not taken.
        """
        if self.embed:
            record = {**record, "images": _with_bytes(record["images"])}
            self.image_bytes += sum(len(image["bytes"]) for image in record["images"])
        self._records.append(record)
        self._held += weight(record)
        self.rows += 1
        if len(self._records) >= ROW_GROUP_ROWS or self._held >= GROUP_BYTES:
            self._write()

    def finish(self) -> None:
        """Write the rest and close the file."""
        if self._records:
            self._write()
        self._writer.close()
        self._file.close()
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def abandon(self) -> None:
        """Close and remove the file."""
        for part in (self._writer, self._file):
            with suppress(OSError, ValueError, pa.ArrowInvalid):  # a full disk stops the footer too
                part.close()
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        table = typed_table(self._records, self.schema, self.rows - len(self._records))
        self._records, self._held = [], 0
        self._writer.write_table(table, row_group_size=len(table))


def _with_bytes(images: list[FieldDict]) -> list[FieldDict]:
    """The images of a row with their files' bytes. Only the name stays: ``datasets`` drops bytes beside a local path.

    Raises:
        SampleError: ``missing_image``, or ``row_group`` if they are too large for one row group.
    """
    read, size = [], 0
    for image in images:
        path = image["image"]
        try:
            size += os.path.getsize(path)
            if size > ROW_GROUP_BYTES:
                raise SampleError("row_group", f"{path}: the row's images have more than {ROW_GROUP_BYTES} bytes")
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise SampleError("missing_image", f"{path} cannot be read: {error.strerror}") from error
        limits = {key: value for key, value in image.items() if key != "image"}
        read.append({"bytes": content, "path": os.path.basename(path), **limits})
    return read


def _embedded_form(schema: pa.Schema) -> FieldDict:
    """Encoded images do not compress, have no use for statistics, and would fill the dictionary."""
    others = [name for name in _leaves(schema) if not name.endswith(".bytes")]
    return {
        "use_dictionary": others,
        "write_statistics": others,
        "compression": {name: "snappy" for name in others} | {"images.list.element.bytes": "none"},
        "write_batch_size": 16,  # the default of 1024 values copies hundreds of megabytes at a time
    }


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the leaf columns."""

    def walk(kind: pa.DataType, at: str) -> Iterator[str]:
        if pa.types.is_struct(kind):
            for position in range(kind.num_fields):
                yield from walk(kind.field(position).type, f"{at}.{kind.field(position).name}")
        elif pa.types.is_list(kind):
            yield from walk(kind.value_type, f"{at}.list.element")
        else:
            yield at

    return [leaf for column in schema for leaf in walk(column.type, column.name)]
