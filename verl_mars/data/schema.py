"""The row that verl-mars trains on, its Arrow schema, and the writer for rows made elsewhere.

Any code that makes rows writes them through :func:`write_rows`; ``verl-mars data convert`` adds shards, resuming and a
manifest to that (:mod:`verl_mars.data.shards`).
"""

import builtins
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from verl_mars.config import explain
from verl_mars.data.files import whole_file
from verl_mars.data.row_checks import KNOWN_COLUMNS, RESERVED_COLUMNS, RowRules
from verl_mars.errors import DataError, Problem, SampleError
from verl_mars.fields import FieldDict, Fields
from verl_mars.row_tools import TOOL_KEYS
from verl_mars.vision.resize import Size

ROW_GROUP_BYTES = 128 * 2**20
"""Largest row group: beyond 2 GB of nested binary data ``datasets`` cannot read the file at all."""
ROW_GROUP_ROWS = 10_000


class Message(BaseModel):
    """One chat message; the content has one ``<image>`` for each image it shows."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Image(BaseModel):
    """One image: an absolute path (``image``), or the encoded file (``bytes``, with its name in ``path``).

    ``min_pixels`` and ``max_pixels`` bound the area the processor scales this image to.
    """

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    bytes: builtins.bytes | None = None
    path: str | None = None
    min_pixels: int | None = Field(default=None, gt=0)
    max_pixels: int | None = Field(default=None, gt=0)

    def entry(self) -> FieldDict:
        """As verl takes it: only what is set, since verl opens ``bytes`` even where it is null."""
        return {key: value for key, value in self.__dict__.items() if value is not None}


class SourceModel(BaseModel):
    """One visual source: its images by position, what is asked about it alone, and what that is scored against.

    ``prompt: None`` asks the fused text, ``ground_truth: None`` scores against the fused truth.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    images: list[int]
    prompt: str | None = None
    ground_truth: str | None = None
    tools_kwargs: str | None = None
    interaction_kwargs: str | None = None
    """JSON objects in place of the row's: what tools and interactions get in a session that sees this source alone."""

    def entry(self) -> FieldDict:
        """The source as plain data; what tools get is there only if it is given."""
        return {key: value for key, value in self.__dict__.items() if value is not None or key not in TOOL_KEYS}


class RewardModel(BaseModel):
    """How an answer is scored."""

    model_config = ConfigDict(extra="forbid")

    style: str = "rule"
    ground_truth: str
    """JSON text of one of of the task of :data:`verl_mars.tasks.TASKS`."""


class ExtraInfo(BaseModel):
    """What the reward function and people need besides; further keys are kept."""

    model_config = ConfigDict(extra="allow")

    index: int
    split: str
    sample_id: str
    task: str
    sources: list[str]
    image_sizes: list[Size]
    question: str | None = None
    group: str | None = None
    """The scene, video or pair that this row must not be split from."""
    notes: str | None = None
    """JSON text: how images were rendered and scaled, and what the converter kept of the raw record."""


class RowModel(BaseModel):
    """One prompt with all its sources: one row of a Parquet file that verl's stock ``RLHFDataset`` loads.

    Further columns are kept; their names must not be verl's own (:data:`verl_mars.data.row_checks.RESERVED_COLUMNS`).
    """

    model_config = ConfigDict(extra="allow")

    data_source: str = Field(min_length=1)
    prompt: list[Message] = Field(min_length=1)
    images: list[Image]
    ability: str
    reward_model: RewardModel
    extra_info: ExtraInfo
    sources: list[SourceModel] = Field(min_length=1)

    @model_validator(mode="after")
    def _rules(self) -> "RowModel":
        for name in self.model_extra or {}:
            if name in RESERVED_COLUMNS:
                raise SampleError("column", "this name is taken by verl or verl-mars", name)
        for problem in _RULES.problems(self.as_record()):
            raise SampleError(problem.code, problem.message, problem.key)
        return self

    def as_record(self) -> FieldDict:
        """The row as plain data, ready for Arrow."""
        record = dict(self.__dict__, **(self.model_extra or {}))
        record["prompt"] = [message.__dict__ for message in self.prompt]
        record["images"] = [image.entry() for image in self.images]
        record["reward_model"] = self.reward_model.__dict__
        record["extra_info"] = {**self.extra_info.__dict__, **(self.extra_info.model_extra or {})}
        record["sources"] = [source.entry() for source in self.sources]
        return record


_RULES = RowRules()

EXTRA_INFO_FIELDS: dict[str, pa.DataType] = {
    "index": pa.int64(),
    "split": pa.string(),
    "sample_id": pa.string(),
    "task": pa.string(),
    "sources": pa.list_(pa.string()),
    "image_sizes": pa.list_(pa.list_(pa.int32())),
    "question": pa.string(),
    "group": pa.string(),
    "notes": pa.string(),
}


def arrow_schema(
    *,
    embed: bool = False,
    pixel_limits: bool = False,
    tools: bool = False,
    extra_info: Mapping[str, pa.DataType] | None = None,
    columns: Mapping[str, pa.DataType] | None = None,
) -> pa.Schema:
    """The Arrow schema of a file of rows.

    Files that are trained on together need the same type of ``images``: ``embed`` and ``pixel_limits`` must agree.
    Keys of ``extra_info`` may differ, ``datasets`` fills what is missing with nulls.

    Args:
        embed: images as bytes in the file instead of paths.
        pixel_limits: ``min_pixels`` and ``max_pixels`` for each image.
        tools: ``tools_kwargs`` and ``interaction_kwargs`` for each source.
        extra_info: types of further keys of ``extra_info``.
        columns: types of further columns.

    Raises:
        ValueError: a further column has a reserved or a known name.
    """
    for name in columns or {}:
        if name in RESERVED_COLUMNS:
            raise ValueError(f"column {name!r}: this name is taken by verl or verl-mars")
        if name in KNOWN_COLUMNS - {"agent_name"}:
            raise ValueError(f"column {name!r}: every row has this column already")
    image: dict[str, pa.DataType] = {"bytes": pa.binary(), "path": pa.string()} if embed else {"image": pa.string()}
    if pixel_limits:
        image |= {"min_pixels": pa.int64(), "max_pixels": pa.int64()}
    source = {"name": pa.string(), "images": pa.list_(pa.int32()), "prompt": pa.string(), "ground_truth": pa.string()}
    source |= dict.fromkeys(TOOL_KEYS, pa.string()) if tools else {}
    return pa.schema(
        {
            "data_source": pa.string(),
            "prompt": pa.list_(_struct({"role": pa.string(), "content": pa.string()})),
            "images": pa.list_(_struct(image)),
            "ability": pa.string(),
            "reward_model": _struct({"style": pa.string(), "ground_truth": pa.string()}),
            "extra_info": _struct({**EXTRA_INFO_FIELDS, **(extra_info or {})}),
            "sources": pa.list_(_struct(source)),
            **(columns or {}),
        }
    )


def _struct(fields: Mapping[str, pa.DataType]) -> pa.DataType:
    return pa.struct(list(fields.items()))


ARROW_SCHEMA: pa.Schema = arrow_schema()
"""Images as absolute paths: the default of every writer in verl-mars."""


def validated(row: "RowModel | Fields", where: str = "") -> RowModel:
    """The row, checked.

    Raises:
        SampleError: the first thing that is wrong with it.
    """
    if isinstance(row, RowModel):
        return row
    try:
        return RowModel.model_validate(row)
    except ValidationError as error:
        found = explain(error, "record", model=RowModel)
        if not where:
            raise found from error
        key = f"{where}, {found.problem.key}" if found.problem.key else where
        raise SampleError(found.code, found.problem.message, key) from error


def write_rows(
    path: str | os.PathLike[str],
    rows: Iterable["RowModel | Fields"],
    *,
    schema: pa.Schema = ARROW_SCHEMA,
    row_group_rows: int = ROW_GROUP_ROWS,
) -> int:
    """Write rows to one Parquet file, streaming; the file appears under its name when it is whole.

    RowModel groups have at most 128 MB, unless one row alone is larger: what is beyond 2 GB cannot be read again.

    Args:
        path: the file; its folder must exist.
        rows: :class:`RowModel` or plain dicts of its form. Keys without a place in the schema are refused, not dropped.
        schema: :data:`ARROW_SCHEMA`, or one of :func:`arrow_schema` with further keys.
        row_group_rows: most rows of a row group, which is held in memory.

    Returns:
        The number of rows written.

    Raises:
        SampleError: a row is wrong; the message names its number. Nothing is left under ``path``.
        DataError: two rows have the same ``extra_info.index`` or ``sample_id``, or there are no rows.
        OSError: the file cannot be written, for example because the disk is full.
    """
    target = Path(path)
    seen = Distinct()
    count = held = 0
    batch: list[FieldDict] = []
    with whole_file(target) as file:
        with pq.ParquetWriter(file, schema) as writer:
            for row in rows:
                record = validated(row, f"row {count}").as_record()
                seen.add(record["extra_info"], f"row {count}")
                size = weight(record)
                if batch and (len(batch) == row_group_rows or held + size > ROW_GROUP_BYTES):
                    writer.write_table(to_table(batch, schema, count - len(batch)))
                    batch, held = [], 0
                batch.append(record)
                held += size
                count += 1
            if batch:
                writer.write_table(to_table(batch, schema, count - len(batch)))
        if count == 0:
            raise DataError(f"{target}: there are no rows to write")
    return count


class Distinct:
    """Refuses a second row with the same index or sample id."""

    def __init__(self) -> None:
        self._indices: set[int] = set()
        self._ids: set[str] = set()

    def add(self, extra_info: Fields, where: str) -> None:
        """Take note of a row.

        Raises:
            SampleError: its index or its id was there before.
        """
        index, sample = extra_info["index"], extra_info["sample_id"]
        if index in self._indices:
            raise SampleError("index", f"{index} belongs to a row before it", f"{where}, extra_info.index")
        if sample in self._ids:
            raise SampleError(
                "duplicate_id", f"{sample!r} belongs to a row before it", f"{where}, extra_info.sample_id"
            )
        self._indices.add(index)
        self._ids.add(sample)


def weight(record: Fields) -> int:
    """About how many bytes a row takes in a row group: its texts and the pictures it holds."""
    texts = [message["content"] for message in record["prompt"]]
    texts += [source["prompt"] for source in record["sources"] if source["prompt"] is not None]
    texts += record["reward_model"]["ground_truth"], record["extra_info"].get("question") or ""
    pictures = sum(len(image.get("bytes") or b"") for image in record["images"])
    return len("".join(texts).encode(errors="replace")) + pictures


def to_table(records: Sequence[Fields], schema: pa.Schema, first_row: int = 0) -> pa.Table:
    """Records as an Arrow table of exactly this schema.

    Raises:
        DataError: a record has a key that the schema does not know (Arrow would drop it without a word), or a value of
            another type.
    """
    for number, record in enumerate(records):
        unknown = next(_unknown_keys(record, pa.struct(list(schema)), ""), None)
        if unknown is not None:
            raise DataError(
                f"row {first_row + number}: {unknown} has no type in the Arrow schema and would be lost; "
                f"give it one with arrow_schema(extra_info={{...}}) or arrow_schema(columns={{...}})"
            )
    return typed_table(records, schema, first_row)


def typed_table(records: Sequence[Fields], schema: pa.Schema, first_row: int = 0) -> pa.Table:
    """As :func:`to_table`, for records that hold no key but the schema's.

    Raises:
        DataError: a value of another type.
    """
    try:
        return pa.Table.from_pylist(list(records), schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as error:
        if len(records) == 1:
            raise DataError(f"row {first_row}: {error}") from error
        half = len(records) // 2  # find the row
        typed_table(records[:half], schema, first_row)
        typed_table(records[half:], schema, first_row + half)
        raise DataError(f"rows {first_row} to {first_row + len(records) - 1}: {error}") from error


def _unknown_keys(value: object, expected: pa.DataType, at: str) -> Iterator[str]:
    if isinstance(value, Mapping) and pa.types.is_struct(expected):
        names = {field.name: field.type for field in expected}
        for key, item in value.items():
            if key not in names:
                yield f"{at}{key}"
            else:
                yield from _unknown_keys(item, names[key], f"{at}{key}.")
    elif isinstance(value, list) and pa.types.is_list(expected) and pa.types.is_struct(expected.value_type):
        for item in value:
            yield from _unknown_keys(item, expected.value_type, at)


def problem_text(problem: Problem) -> str:
    """``key: message`` of a problem."""
    return f"{problem.key}: {problem.message}" if problem.key else problem.message


def notes_json(notes: Fields) -> str | None:
    """Notes as the JSON text that ``extra_info.notes`` holds; null where there are none."""
    return json.dumps(notes, ensure_ascii=False, allow_nan=False, sort_keys=True) if notes else None
