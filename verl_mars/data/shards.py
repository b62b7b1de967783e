"""The folder of a conversion: shards under temporary names, renamed together once all of them are complete.

An interrupted conversion leaves temporary files at most; the next one into the folder removes them and starts again.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from verl_mars.data.files import TEMPORARY, whole_file
from verl_mars.data.row_groups import ShardWriter
from verl_mars.errors import DataError, UsageError
from verl_mars.fields import FieldDict, Fields

SUMMARY = "summary.json"
REJECTS = "rejects.jsonl"
IMAGES = "images"


@dataclass(frozen=True)
class Shard:
    """One complete Parquet file of a split, under its final name."""

    file: str
    rows: int
    bytes: int


class Split:
    """The shards of one split. A shard ends at ``max_rows`` rows or ``max_bytes`` bytes of embedded images."""

    def __init__(self, name: str, folder: Path, schema: pa.Schema, *, embed: bool, max_rows: int, max_bytes: int):
        self.name = name
        self.folder = folder
        self.schema = schema
        self.embed = embed
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.shards: list[Shard] = []
        self._writer: ShardWriter | None = None

    def add(self, record: FieldDict) -> None:
        """Write a row.

        Raises:
            SampleError: an image cannot be embedded. The row is not written.
        """
        if self._writer is None:
            path = self.folder / (self._file + TEMPORARY)
            self._writer = ShardWriter(path, self.schema, embed=self.embed)
        self._writer.add(record)
        if self._writer.rows >= self.max_rows or self._writer.image_bytes >= self.max_bytes:
            self.finish()

    @property
    def _file(self) -> str:
        return f"{self.name}-{len(self.shards):05d}.parquet"

    def finish(self) -> None:
        """Complete the shard that is being written, if it has rows."""
        if self._writer is None:
            return
        if self._writer.rows:
            self._writer.finish()
            self.shards.append(Shard(self._file, self._writer.rows, self._writer.path.stat().st_size))
        else:
            self.abandon()
        self._writer = None

    def abandon(self) -> None:
        """Close the shard that is being written; its file is of no use."""
        if self._writer is not None:
            self._writer.abandon()


class OutputFolder:
    """The folder of one conversion.

    Args:
        folder: made if it is not there.
        settings: everything that decides the bytes of the result.
        overwrite: replace a conversion with other settings.

    Raises:
        UsageError: the folder cannot be made.
        DataError: it holds Parquet files of something else, or a conversion with other settings.
    """

    def __init__(self, folder: Path, settings: Fields, overwrite: bool) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {folder} cannot be made: {error.strerror}") from error
        self._announced = folder / (SUMMARY + TEMPORARY)
        """Lists the shards while they are renamed; a conversion that is interrupted there leaves it."""
        before = [_read(path) for path in (folder / SUMMARY, self._announced)]
        self._replaced = {file for summary in before for file in _files(summary)}
        foreign = sorted(path.name for path in folder.glob("*.parquet") if path.name not in self._replaced)
        if foreign:
            raise DataError(f"{folder} holds files of something else ({', '.join(foreign[:3])}); choose another --out")
        earlier = before[0].get("settings")
        if before[0].get("rows") and earlier != settings and not overwrite:
            raise DataError(
                f"{folder} holds a conversion with other settings ({_difference(earlier, settings)}); "
                "choose another --out, or pass --overwrite"
            )
        self._remove_temporary()

    def publish(self, summary: Fields, rejects: Iterable[Fields]) -> None:
        """Give everything its name, the summary last. Shards of the conversion before that are not replaced go."""
        with whole_file(self.folder / REJECTS, text=True) as file:
            for reject in rejects:
                file.write(json.dumps(reject, ensure_ascii=False) + "\n")
        with whole_file(self._announced, text=True) as file:
            json.dump(summary, file, ensure_ascii=False, indent=1)
            file.write("\n")
        shards = _files(summary)
        for name in shards:
            os.replace(self.folder / (name + TEMPORARY), self.folder / name)
        for name in self._replaced - shards:
            (self.folder / name).unlink(missing_ok=True)
        os.replace(self._announced, self.folder / SUMMARY)

    def abandon(self) -> None:
        """Remove what an unfinished conversion wrote, rendered images excepted."""
        if not self._announced.exists():
            with suppress(OSError):
                self._remove_temporary()

    def _remove_temporary(self) -> None:
        for part in ("", f"{IMAGES}/"):
            for partial in self.folder.glob(f"{part}*{TEMPORARY}"):
                partial.unlink(missing_ok=True)


def _read(path: Path) -> FieldDict:
    """A summary; empty if there is none, or if it was cut off."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _files(summary: Fields) -> set[str]:
    splits = summary.get("splits", {}).values()
    return {Path(shard["file"]).name for split in splits for shard in split["shards"]}


def _difference(before: Fields | None, now: Fields) -> str:
    before = before or {}
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return ", ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in keys[:4])
