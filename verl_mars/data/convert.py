"""A raw data set to shards of rows: the pipeline behind ``verl-mars data convert``.

The converter is read in order; each sample gets its split (:mod:`verl_mars.data.stream`), then becomes a row or a
reject, here or in worker processes (:mod:`verl_mars.data.workers`); rows are written in the same order
(:mod:`verl_mars.data.shards`). So the same input gives the same bytes, with any number of workers and after any number
of interruptions.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa

from verl_mars.data import prompts, render
from verl_mars.data.faults import DataError, SampleError
from verl_mars.data.length import PromptLength, load_tokenizer
from verl_mars.data.manifest import Tally, build_manifest
from verl_mars.data.paths import Root
from verl_mars.data.rows import Made, PixelLimits, RowMaker
from verl_mars.data.sample import Converter
from verl_mars.data.schema import arrow_schema
from verl_mars.data.settings import ConvertSettings
from verl_mars.data.shards import Output, Shard, clear_disk_errors, locked
from verl_mars.data.stream import Job, SampleStream
from verl_mars.data.workers import Outcome, outcomes, reject
from verl_mars.data.writer import ShardWriter
from verl_mars.vision.families import IMAGE_LIMITS

SCHEMA_VERSION = 1
"""Raised when rows get another form."""


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion made."""

    out: Path
    manifest: dict[str, Any]
    rejects: int
    rows: int

    @property
    def files(self) -> dict[str, list[str]]:
        """Shards by split, as absolute paths."""
        return {
            split: [str(self.out / shard["file"]) for shard in part["shards"]]
            for split, part in self.manifest["splits"].items()
        }


class TooManyRejects(DataError):
    """More samples were rejected than ``max_reject`` allows; what was written is kept."""

    def __init__(self, result: ConvertResult, message: str) -> None:
        super().__init__(message)
        self.result = result


def convert(
    converter: Converter, settings: ConvertSettings, advance: Callable[[int, int], None] | None = None
) -> ConvertResult:
    """Convert a data set. An interrupted conversion goes on where its last whole shard ended.

    Args:
        converter: of the data set.
        settings: all of them.
        advance: called with the numbers of rows and of rejects so far.

    Raises:
        DataError: another layout, another conversion in the folder, a full disk, or no row at all.
        TooManyRejects: everything is written, but too many samples were rejected.
    """
    options = converter.parse_options(settings.options)
    stream = SampleStream(converter, settings, Root(settings.root, settings.allow_roots), options)
    folder = Path(os.path.abspath(settings.out))
    output = Output(folder, _config(converter, settings, options.model_dump(mode="json")))
    with locked(folder), clear_disk_errors(folder):
        run = _Run(stream, settings, output)
        run.take_over(output.open(settings.overwrite))
        run.write(advance)
        return run.finish()


class _Split:
    """The shards of one split: those that are finished, and the one that is being written."""

    def __init__(
        self, name: str, output: Output, schema: pa.Schema, settings: ConvertSettings, shards: list[Shard]
    ) -> None:
        self.name = name
        self.output = output
        self.schema = schema
        self.settings = settings
        self.shards = shards
        self._start()

    def _start(self) -> None:
        path = self.output.folder / f"{self.name}-{len(self.shards):05d}.parquet"
        self.writer = ShardWriter(path, self.schema, embed=self.settings.images == "embed")
        self.samples = 0
        self.tally = Tally()
        self.rejects: list[dict[str, Any]] = []
        self.inputs = hashlib.sha256()

    @property
    def end(self) -> int:
        """The first sample that is in no finished shard."""
        return self.shards[-1].end if self.shards else 0

    def take(self, job: Job, outcome: Outcome) -> bool:
        """Write a row, or note a reject. Whether it was a row."""
        if isinstance(outcome, Made):
            try:
                self.writer.add(outcome.record)
            except SampleError as error:
                outcome = reject(job, error)
        self.samples += 1
        self.inputs.update(job.inputs)
        if not isinstance(outcome, Made):
            self.rejects.append(outcome)
            return False
        self.tally.add(outcome)
        full = self.writer.image_bytes >= self.settings.shard_megabytes * 2**20
        if full or self.writer.rows >= self.settings.shard_rows:
            self.finish()
        return True

    def finish(self) -> None:
        """Put the shard that is being written under its name, if it has rows."""
        if self.writer.rows == 0:
            return
        digest = self.writer.finish()
        path = self.writer.path
        shard = Shard(
            file=path.name,
            split=self.name,
            first=self.end,
            samples=self.samples,
            rows=self.writer.rows,
            bytes=path.stat().st_size,
            xxh128=digest,
            inputs=self.inputs.hexdigest(),
            tally=self.tally.as_dict(),
            rejects=self.rejects,
        )
        self.output.note(shard)
        self.shards.append(shard)
        self._start()

    def abandon(self) -> None:
        """Leave nothing of the shard that is being written."""
        self.writer.abandon()


class _Run:
    """One conversion."""

    def __init__(self, stream: SampleStream, settings: ConvertSettings, output: Output) -> None:
        self.stream = stream
        self.settings = settings
        self.output = output
        self.limits = PixelLimits(settings.min_pixels, settings.max_pixels)
        self.schema = arrow_schema(
            embed=settings.images == "embed",
            pixel_limits=self.limits.given,
            extra_info={"seen_sizes": pa.list_(pa.list_(pa.int32()))} if self.limits.given else None,
        )
        self.splits: dict[str, _Split] = {}
        self.converter_rejects: list[dict[str, Any]] = []

    def split(self, name: str, shards: Sequence[Shard] = ()) -> _Split:
        """The split of this name; at first with these shards."""
        if name not in self.splits:
            self.splits[name] = _Split(name, self.output, self.schema, self.settings, list(shards))
        return self.splits[name]

    def take_over(self, finished: dict[str, list[Shard]]) -> None:
        """Keep the finished shards that the raw data would give again; forget the others."""
        valid = self.stream.still_valid(finished) if finished else {}
        for name, shards in finished.items():
            kept = valid.get(name, [])
            for stale in shards[len(kept) :]:
                self.output.forget(stale)
            if kept:
                self.split(name, kept)

    def write(self, advance: Callable[[int, int], None] | None) -> None:
        """Write what is not finished."""
        done = [shard for split in self.splits.values() for shard in split.shards]
        rows, rejects = sum(shard.rows for shard in done), sum(len(shard.rejects) for shard in done)
        pending = (job for job in self.stream.jobs() if not isinstance(job, Job) or job.number >= self._end(job.split))
        with ExitStack() as stack:
            stack.callback(self._abandon)
            made = stack.enter_context(closing(outcomes(self._maker(), pending, self.settings.workers)))
            for job, outcome in made:
                if job is None:
                    self.converter_rejects.append(outcome)
                    rejects += 1
                elif self.split(job.split).take(job, outcome):
                    rows += 1
                else:
                    rejects += 1
                if advance is not None:
                    advance(rows, rejects)
            for split in self.splits.values():
                split.finish()

    def _end(self, split: str) -> int:
        return self.splits[split].end if split in self.splits else 0

    def _abandon(self) -> None:
        for split in self.splits.values():
            split.abandon()

    def _maker(self) -> RowMaker:
        tokenizer = load_tokenizer(self.settings.tokenizer) if self.settings.tokenizer else None
        return RowMaker(
            self.stream.converter.name,
            self.stream.root,
            render.Renderer(self.output.folder / render.FOLDER, self.settings.depth_encoding, self.settings.decode),
            PromptLength(IMAGE_LIMITS[self.settings.model], tokenizer),
            style=self.settings.style,
            mono=self.settings.mono,
            limits=self.limits,
            max_prompt_length=self.settings.max_prompt_length,
        )

    def finish(self) -> ConvertResult:
        """Write rejects and manifest."""
        converter = self.stream.converter
        rejects = [{**item, "shard": None} for item in self.converter_rejects]
        for split in self.splits.values():
            rejects += [{**item, "shard": None} for item in split.rejects]  # after the last whole shard
            rejects += [{**item, "shard": shard.file} for shard in split.shards for item in shard.rejects]
        rejects.sort(key=lambda item: item["index"])
        shards = {name: self.splits[name].shards for name in sorted(self.splits) if self.splits[name].shards}
        rows = sum(shard.rows for part in shards.values() for shard in part)
        if rows == 0 and not rejects and self.stream.splits:
            asked, found = ", ".join(self.settings.splits), ", ".join(sorted(self.stream.splits))
            raise DataError(f"--split {asked}: no sample is in it; the splits are {found}")
        if rows == 0 and not rejects:
            raise DataError(
                f"no sample found under {self.stream.root.path}. {converter.name} expects:\n{converter.layout}"
            )
        manifest = build_manifest(
            converter,
            self.output,
            shards,
            rejects,
            self.stream.findings,
            max_reject=self.settings.max_reject,
            exact_lengths=self.settings.tokenizer is not None,
        )
        self.output.close(manifest, iter(rejects))
        result = ConvertResult(self.output.folder, manifest, len(rejects), rows)
        share = len(rejects) / (rows + len(rejects))
        if rows == 0 or share > self.settings.max_reject:
            reasons = ", ".join(f"{count} x {code}" for code, count in manifest["rejects"]["by_reason"].items())
            first = rejects[0]
            raise TooManyRejects(
                result,
                f"{len(rejects)} of {rows + len(rejects)} samples were rejected ({reasons}), more than "
                f"--max-reject {self.settings.max_reject:g} allows. The first: {first['origin']}: {first['message']}. "
                f"All of them: {self.output.folder / 'rejects.jsonl'}",
            )
        return result


def _config(converter: Converter, settings: ConvertSettings, options: dict[str, Any]) -> dict[str, Any]:
    """All that decides the bytes of the result."""
    told = settings.model_dump(mode="json", exclude={"out", "workers", "max_reject", "overwrite", "options"})
    return {
        "converter": converter.name,
        "converter_version": converter.version,
        "options": options,
        **told,
        "root": str(os.path.abspath(os.path.expanduser(settings.root))),
        "schema_version": SCHEMA_VERSION,
        "prompts_version": prompts.VERSION,
        "render_version": render.VERSION,
        "pyarrow": pa.__version__,
        "pillow": PIL.__version__,
    }
