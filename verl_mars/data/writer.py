"""One shard: rows in, a Parquet file out that is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_mars.data.faults import SampleError
from verl_mars.data.files import TEMPORARY, content_hash, sync_folder
from verl_mars.data.schema import ROW_GROUP_BYTES, ROW_GROUP_ROWS, typed_table, weight

EMBED_GROUP_BYTES = 32 * 2**20
TEXT_GROUP_BYTES = 32 * 2**20
assert EMBED_GROUP_BYTES + TEXT_GROUP_BYTES <= ROW_GROUP_BYTES


class ShardWriter:
    """Writes one shard; it is there after :meth:`finish`, and not at all before.

    Args:
        path: its name in the end.
        schema: of :func:`verl_mars.data.schema.arrow_schema`.
        embed: put the image files in, instead of their paths.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, embed: bool) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self._group = _EmbeddedRows(schema) if embed else _Rows(schema)
        self._embed = embed
        self._partial = path.with_name(path.name + TEMPORARY)
        self._file: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._written_bytes = 0

    @property
    def image_bytes(self) -> int:
        """Bytes of the image files in it, in embed mode."""
        return self._written_bytes + self._group.image_bytes

    def add(self, record: dict[str, Any]) -> None:
        """Take a row, images as paths; written when enough have come together.

        Raises:
            SampleError: an image cannot be put in. The row is not taken.
        """
        self._group.add(record)
        self.rows += 1
        if self._group.full:
            self._write()

    def finish(self) -> str:
        """Write the rest and put the file under its name. Returns its hash."""
        self._write()
        assert self._writer is not None and self._file is not None  # it has rows
        self._writer.close()
        self._file.close()
        with open(self._partial, "rb", buffering=0) as file:
            os.fsync(file.fileno())
            digest = content_hash(file)
        os.replace(self._partial, self.path)
        sync_folder(self.path.parent)
        return digest

    def abandon(self) -> None:
        """Leave nothing behind."""
        for part in (self._writer, self._file):
            # The disk that stopped the writer stops its footer too
            with suppress(OSError, ValueError, pa.ArrowInvalid):
                if part is not None:
                    part.close()
        self._partial.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._writer is None:
            self._file = pa.OSFile(str(self._partial), "wb")
            self._writer = pq.ParquetWriter(
                self._file, self.schema, **(_embedded_form(self.schema) if self._embed else {})
            )
        self._written_bytes += self._group.image_bytes
        table = self._group.take(self.rows)
        self._writer.write_table(table, row_group_size=max(1, len(table)))


class _Rows:
    """The rows of one row group."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.image_bytes = 0
        self._records: list[dict[str, Any]] = []
        self._text_bytes = 0

    @property
    def full(self) -> bool:
        """Whether it should be written."""
        return len(self._records) >= ROW_GROUP_ROWS or self._text_bytes >= TEXT_GROUP_BYTES

    def add(self, record: dict[str, Any]) -> None:
        """Take a row."""
        self._records.append(record)
        self._text_bytes += weight(record)

    def take(self, end: int) -> pa.Table:
        """All of it as a table; ``end`` rows of the shard have come so far. It is empty after that."""
        table = typed_table(self._records, self.schema, end - len(self._records))
        self._records, self._text_bytes = [], 0
        return table


class _EmbeddedRows(_Rows):
    """The rows of one row group with their image files, which are read into one buffer that the next group uses again.

    Only a file's name stays in ``path``: ``datasets`` drops the bytes where the path exists.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._position = schema.get_field_index("images")
        super().__init__(schema.remove(self._position))
        self._field = schema.field(self._position)
        self._buffer = bytearray(2**20)
        self._restart()

    def _restart(self) -> None:
        self.image_bytes = 0
        self._images: list[dict[str, Any]] = []
        self._image_ends = [0]
        self._row_ends = [0]

    @property
    def full(self) -> bool:
        """Whether it should be written."""
        return super().full or self.image_bytes >= EMBED_GROUP_BYTES

    def add(self, record: dict[str, Any]) -> None:
        """Take a row and read its images.

        Raises:
            SampleError: ``missing_image``, ``truncated_image``, or ``row_group`` where they are too large for one.
        """
        ends = [self.image_bytes]
        for image in record["images"]:
            ends.append(self._read(image["image"], ends[-1]))
        super().add(record)
        self._images += record["images"]
        self._image_ends += ends[1:]
        self._row_ends.append(len(self._images))
        self.image_bytes = ends[-1]

    def _read(self, path: str, start: int) -> int:
        """Read a file to ``start`` of the buffer. Returns where it ends."""
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if start + size - self.image_bytes > ROW_GROUP_BYTES:
                    limit = ROW_GROUP_BYTES // 2**20
                    raise SampleError("row_group", f"{path}: the row's images have more than {limit} MB")
                self._reserve(start + size)
                read = file.readinto(memoryview(self._buffer)[start : start + size])
        except OSError as error:
            raise SampleError("missing_image", f"{path} cannot be read: {error.strerror}") from error
        if read != size:
            raise SampleError("truncated_image", f"{path} got shorter while it was read")
        return start + size

    def _reserve(self, size: int) -> None:
        if size > len(self._buffer):
            larger = bytearray(max(size, 2 * len(self._buffer)))
            larger[: len(self._buffer)] = self._buffer
            self._buffer = larger

    def take(self, end: int) -> pa.Table:
        """All of it as a table; ``end`` rows of the shard have come so far. It is empty after that."""
        kind = self._field.type.value_type
        columns = [self._column(field) for field in kind]
        images = pa.StructArray.from_arrays(columns, fields=list(kind))
        lists = pa.ListArray.from_arrays(pa.array(self._row_ends, pa.int32()), images, type=self._field.type)
        table = super().take(end).add_column(self._position, self._field, lists)
        self._restart()
        return table

    def _column(self, field: pa.Field) -> pa.Array:
        if field.name == "path":
            return pa.array([os.path.basename(image["image"]) for image in self._images], field.type)
        if field.name != "bytes":
            return pa.array([image[field.name] for image in self._images], field.type)
        ends = pa.array(self._image_ends, pa.int32()).buffers()[1]
        return pa.Array.from_buffers(field.type, len(self._images), [None, ends, pa.py_buffer(self._buffer)])


def _embedded_form(schema: pa.Schema) -> dict[str, Any]:
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
