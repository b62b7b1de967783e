"""A raw data set to shards of rows: the pipeline behind ``verl-mars data convert``.

The converter is read in order; each sample gets its split (:mod:`verl_mars.data.splits`), becomes a row or a reject,
here or in worker processes (:mod:`verl_mars.data.workers`), and is written in the same order
(:mod:`verl_mars.data.shards`). So the same input gives the same bytes, with any number of workers. An interrupted
conversion is run again; images that it rendered are kept.
"""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from verl_mars.data import prompts, render
from verl_mars.data.paths import Root
from verl_mars.data.prompt_length import PromptLength, load_tokenizer
from verl_mars.data.row_maker import BuiltRow, PixelLimits, RowMaker
from verl_mars.data.sample import Converter
from verl_mars.data.schema import arrow_schema
from verl_mars.data.settings import ConvertSettings
from verl_mars.data.shards import IMAGES, REJECTS, OutputFolder, Split
from verl_mars.data.splits import SampleStream
from verl_mars.data.summary import Tally, build_summary
from verl_mars.data.workers import outcomes, reject
from verl_mars.errors import DataError, SampleError
from verl_mars.fields import FieldDict
from verl_mars.interrupts import obey_interrupt
from verl_mars.vision.families import IMAGE_LIMITS

SCHEMA_VERSION = 1
"""Raised when rows get another form."""


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion wrote."""

    out: Path
    summary: FieldDict
    """The content of ``summary.json``."""

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return self.summary["rows"]

    @property
    def rejects(self) -> int:
        """Rejected samples."""
        return self.summary["rejects"]["total"]

    @property
    def files(self) -> dict[str, list[str]]:
        """Shards by split, as absolute paths."""
        splits = self.summary["splits"].items()
        return {split: [str(self.out / shard["file"]) for shard in part["shards"]] for split, part in splits}


class TooManyRejects(DataError):
    """More samples were rejected than ``max_reject`` allows; everything was written."""

    def __init__(self, result: ConvertResult, message: str) -> None:
        super().__init__(message)
        self.result = result


def convert(
    converter: Converter, settings: ConvertSettings, advance: Callable[[int, int], None] | None = None
) -> ConvertResult:
    """Convert a data set. Its files get their names at the end, all at once.

    Args:
        converter: of the data set.
        settings: all of them.
        advance: called with the numbers of rows and of rejects so far.

    Raises:
        DataError: another layout, a folder that holds something else, a full disk, or no row at all.
        TooManyRejects: everything is written, but too many samples were rejected.
    """
    options = converter.parse_options(settings.options)
    stream = SampleStream(converter, settings, Root(settings.root, settings.allow_roots), options)
    folder = Path(os.path.abspath(settings.out))
    decisive = _decisive(converter, settings, options.model_dump(mode="json"))
    output = OutputFolder(folder, decisive, settings.overwrite)
    splits: dict[str, Split] = {}
    tallies: dict[str, Tally] = {}
    try:
        rejects = _write(stream, settings, folder, splits, tallies, advance)
        if not tallies and not rejects:
            raise _nothing(stream)
        shards = {name: splits[name].shards for name in sorted(tallies)}
        summary = build_summary(converter, folder, decisive, shards, tallies, rejects, stream.findings, settings)
        output.publish(summary, rejects)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"no space left for {folder} ({error.strerror}): make room and give the same command again"
        ) from error
    finally:
        for split in splits.values():
            split.abandon()
        output.abandon()
    result = ConvertResult(folder, summary)
    if not summary["complete"]:
        raise TooManyRejects(result, _too_many(summary, rejects[0], folder, settings.max_reject))
    return result


def first_rows(
    converter: Converter, settings: ConvertSettings, count: int
) -> tuple[list[FieldDict], FieldDict, list[FieldDict]]:
    """The first rows as a conversion would write them, its summary, and the rejects. Nothing is left on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        changes = {"out": Path(folder), "limit": count, "workers": 0, "max_reject": 1.0, "images": "path"}
        try:
            result = convert(converter, settings.model_copy(update=changes))
        except TooManyRejects as error:
            result = error.result
        rows = [row for files in result.files.values() for file in files for row in pq.read_table(file).to_pylist()]
        lines = (result.out / REJECTS).read_text(encoding="utf-8").splitlines()
    rows.sort(key=lambda row: row["extra_info"]["index"])
    return rows, result.summary, [json.loads(line) for line in lines]


def _write(
    stream: SampleStream,
    settings: ConvertSettings,
    folder: Path,
    splits: dict[str, Split],
    tallies: dict[str, Tally],
    advance: Callable[[int, int], None] | None,
) -> list[FieldDict]:
    """Write all shards under their temporary names, and count their rows. Returns the rejects in order."""
    limits = PixelLimits(settings.min_pixels, settings.max_pixels)
    schema = arrow_schema(
        embed=settings.images == "embed",
        pixel_limits=limits.given,
        extra_info={"seen_sizes": pa.list_(pa.list_(pa.int32()))} if limits.given else None,
    )
    rejects: list[FieldDict] = []
    rows = 0
    with closing(outcomes(_row_maker(stream, settings, folder, limits), stream.jobs(), settings.workers)) as made:
        for job, outcome in made:
            obey_interrupt()
            if job is not None and isinstance(outcome, BuiltRow):
                if job.split not in splits:
                    splits[job.split] = Split(
                        job.split,
                        folder,
                        schema,
                        embed=settings.images == "embed",
                        max_rows=settings.shard_rows,
                        max_bytes=settings.shard_megabytes * 2**20,
                    )
                try:
                    splits[job.split].add(outcome.record)
                    tallies.setdefault(job.split, Tally()).add(outcome)
                    rows += 1
                except SampleError as error:
                    outcome = reject(job, error)
            if not isinstance(outcome, BuiltRow):
                rejects.append(outcome)
            if advance is not None:
                advance(rows, len(rejects))
        obey_interrupt()
        for split in splits.values():
            split.finish()
    return rejects


def _row_maker(stream: SampleStream, settings: ConvertSettings, folder: Path, limits: PixelLimits) -> RowMaker:
    tokenizer = load_tokenizer(settings.tokenizer) if settings.tokenizer else None
    return RowMaker(
        stream.converter.name,
        stream.root,
        render.Renderer(folder / IMAGES, settings.depth_encoding, settings.decode),
        PromptLength(IMAGE_LIMITS[settings.model], tokenizer),
        style=settings.style,
        mono=settings.mono,
        limits=limits,
        max_prompt_length=settings.max_prompt_length,
    )


def _nothing(stream: SampleStream) -> DataError:
    if stream.splits:
        asked, there = ", ".join(stream.settings.splits), ", ".join(sorted(stream.splits))
        return DataError(f"--split {asked}: no sample is in it; the splits are {there}")
    converter = stream.converter
    return DataError(f"no sample found under {stream.root.path}. {converter.name} expects:\n{converter.layout}")


def _too_many(summary: FieldDict, first: FieldDict, folder: Path, allowed: float) -> str:
    rejects = summary["rejects"]
    reasons = ", ".join(f"{count} x {code}" for code, count in rejects["by_reason"].items())
    return (
        f"{rejects['total']} of {summary['rows'] + rejects['total']} samples were rejected ({reasons}), more than "
        f"--max-reject {allowed:g} allows. The first: {first['origin']}: {first['message']}. "
        f"All of them: {folder / REJECTS}"
    )


def _decisive(converter: Converter, settings: ConvertSettings, options: FieldDict) -> FieldDict:
    """Everything that decides the bytes of the result."""
    own = settings.model_dump(mode="json", exclude={"out", "workers", "max_reject", "overwrite", "options"})
    return {
        "converter": converter.name,
        "converter_version": converter.version,
        "options": options,
        **own,
        "root": str(os.path.abspath(os.path.expanduser(settings.root))),
        "schema_version": SCHEMA_VERSION,
        "prompts_version": prompts.VERSION,
        "render_version": render.VERSION,
        "pyarrow": pa.__version__,
        "pillow": PIL.__version__,
    }
