"""A raw data set to shards of rows: the pipeline behind ``verl-mars data convert``.

The converter is read in order; each sample gets its split, then becomes a row or a reject, here or in worker processes;
rows are written in the same order. So the same input gives the same bytes, with any number of workers and after any
number of interruptions.
"""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import PIL
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verl_mars.data import prompts, render
from verl_mars.data.depth import DepthEncoding
from verl_mars.data.faults import DataError, SampleError
from verl_mars.data.length import FAMILIES, PromptLength, load_tokenizer
from verl_mars.data.manifest import Tally, build_manifest
from verl_mars.data.paths import Root
from verl_mars.data.prompts import MonoStyle, Style
from verl_mars.data.rows import Made, PixelLimits, RowMaker, embedded
from verl_mars.data.sample import Converter, Findings, Reject, Sample
from verl_mars.data.schema import arrow_schema
from verl_mars.data.shards import Output, Shard, ShardWriter, clear_disk_errors, locked
from verl_mars.data.truth import explain

SCHEMA_VERSION = 1
_CHUNK = 64


class ConvertSettings(BaseModel):
    """What a conversion is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path
    out: Path
    images: Literal["path", "embed"] = "path"
    style: Style = "labelled"
    mono: MonoStyle = "own"
    depth_encoding: DepthEncoding = "turbo"
    splits: tuple[str, ...] = ()
    """Only these; none named: all."""
    val_fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of groups that go to ``val``, where the data set has no split of its own."""
    seed: int = 0
    shard_rows: int = Field(default=100_000, gt=0)
    shard_megabytes: int = Field(default=512, gt=0)
    """Image bytes of one shard, in embed mode."""
    max_reject: float = Field(default=0.01, ge=0.0, le=1.0)
    decode: bool = False
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that open images; 0: this one."""
    model: str = "qwen2_5_vl"
    """Family that prompt lengths are computed for."""
    tokenizer: str | None = None
    """Folder or hub name of a checkpoint; without it text is bounded, not counted."""
    max_prompt_length: int | None = Field(default=None, gt=0)
    min_pixels: int | None = Field(default=None, gt=0)
    max_pixels: int | None = Field(default=None, gt=0)
    limit: int | None = Field(default=None, gt=0)
    """Only so many samples."""
    allow_roots: tuple[Path, ...] = ()
    overwrite: bool = False
    options: dict[str, str] = Field(default_factory=dict)
    """Options of the converter."""


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


def settings_from(values: dict[str, Any]) -> ConvertSettings:
    """Settings from plain values.

    Raises:
        DataError: a value that is not allowed, with what is.
    """
    try:
        settings = ConvertSettings.model_validate(values)
    except ValidationError as error:
        problem = explain(error, "record").problem
        raise DataError(f"--{problem.key.replace('_', '-')}: {problem.message}") from error
    if settings.model not in FAMILIES:
        raise DataError(f"--model {settings.model!r} is unknown, allowed: {', '.join(FAMILIES)}")
    return settings


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
    root = Root(settings.root, settings.allow_roots)
    options = converter.parse_options(settings.options)
    out = Path(os.path.abspath(settings.out))
    config = _config(converter, settings, options.model_dump(mode="json"))
    output = Output(out, config)
    with locked(out), clear_disk_errors(out):
        run = _Run(converter, settings, root, options, output)
        finished = output.open(settings.overwrite)
        if finished:
            finished = run.still_valid(finished)
        run.convert(finished, advance)
        return run.finish()


@dataclass(frozen=True, slots=True)
class _Job:
    """A sample on its way."""

    sample: Sample
    split: str
    number: int
    """Position in its split."""
    index: int
    """Position in the whole stream; becomes ``extra_info.index``."""
    inputs: bytes


@dataclass
class _Split:
    """The shards of one split."""

    name: str
    shards: list[Shard] = field(default_factory=list)
    writer: ShardWriter | None = None
    first: int = 0
    samples: int = 0
    tally: Tally = field(default_factory=Tally)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def start_next(self, first: int) -> None:
        self.writer, self.first, self.samples = None, first, 0
        self.tally, self.rejects, self.digest = Tally(), [], hashlib.sha256()


class _Run:
    def __init__(
        self, converter: Converter, settings: ConvertSettings, root: Root, options: Any, output: Output
    ) -> None:
        self.converter = converter
        self.settings = settings
        self.root = root
        self.options = options
        self.output = output
        self.embed = settings.images == "embed"
        self.limits = PixelLimits(settings.min_pixels, settings.max_pixels)
        self.schema = arrow_schema(
            embed=self.embed,
            pixel_limits=self.limits.given,
            extra_info={"seen_sizes": pa.list_(pa.list_(pa.int32()))} if self.limits.given else None,
        )
        self.splits: dict[str, _Split] = {}
        self.stray_rejects: list[dict[str, Any]] = []
        self.findings = Findings()
        self.leaks: Counter[str] = Counter()

    # Reading

    def jobs(self) -> Iterator[_Job | dict[str, Any]]:
        """Samples with their splits, and rejects of the converter, in order."""
        self.findings = Findings(list(self.converter.caveats))
        self.leaks = Counter()
        ids: set[str] = set()
        numbers: Counter[str] = Counter()
        homes = _Homes(self.leaks)
        items = enumerate(self.converter.samples(self.root, self.options, self.findings))
        for index, item in islice(items, self.settings.limit):
            if isinstance(item, Sample) and item.sample_id in ids:
                item = Reject(item.origin, "duplicate_id", f"{item.sample_id!r} was there before", item.sample_id)
            if isinstance(item, Reject):
                yield {"index": index, **asdict(item)}
                continue
            ids.add(item.sample_id)
            split = item.split or self._split_of(item.group or item.sample_id)
            if self.settings.splits and split not in self.settings.splits:
                continue
            homes.note(item, split)
            yield _Job(item, split, numbers[split], index, self._inputs(item))
            numbers[split] += 1

    def _split_of(self, group: str) -> str:
        """``train`` or ``val``, by a hash of the group, so that a group stays together and no other moves it."""
        key = hashlib.blake2b(f"{self.settings.seed}|{group}".encode(), digest_size=8).digest()
        return "val" if int.from_bytes(key, "big") < self.settings.val_fraction * 2**64 else "train"

    def _inputs(self, sample: Sample) -> bytes:
        """What the row is made from: the sample, and size and time of its image files."""
        digest = hashlib.blake2b(repr(sample).encode(), digest_size=16)
        for image in sample.images:
            try:
                state = os.stat(self.root.file(image.path))
                digest.update(f"{state.st_size}|{state.st_mtime_ns}".encode())
            except (OSError, SampleError):
                digest.update(b"missing")
        return digest.digest()

    def still_valid(self, finished: dict[str, list[Shard]]) -> dict[str, list[Shard]]:
        """Those finished shards that the raw data would give again; the others are forgotten."""
        digests = {split: [hashlib.sha256() for _ in shards] for split, shards in finished.items()}
        counts = {split: [0] * len(shards) for split, shards in finished.items()}
        at: Counter[str] = Counter()
        for job in self.jobs():
            if not isinstance(job, _Job) or job.split not in finished:
                continue
            shards, position = finished[job.split], at[job.split]
            while position < len(shards) and job.number >= shards[position].end:
                position += 1
            at[job.split] = position
            if position < len(shards):
                digests[job.split][position].update(job.inputs)
                counts[job.split][position] += 1
        valid: dict[str, list[Shard]] = {}
        for split, shards in finished.items():
            for position, shard in enumerate(shards):
                same = digests[split][position].hexdigest() == shard.inputs
                if not same or counts[split][position] != shard.samples:
                    for stale in shards[position:]:
                        self.output.forget(stale)
                    break
                valid.setdefault(split, []).append(shard)
        return valid

    # Writing

    def convert(self, finished: dict[str, list[Shard]], advance: Callable[[int, int], None] | None) -> None:
        for name, shards in finished.items():
            self.splits[name] = _Split(name, list(shards))
            self.splits[name].start_next(shards[-1].end)
        rows = sum(shard.rows for split in self.splits.values() for shard in split.shards)
        rejects = sum(len(shard.rejects) for split in self.splits.values() for shard in split.shards)
        maker = self._maker()
        with ExitStack() as stack:
            stack.callback(self._abandon)
            outcomes = stack.enter_context(closing(self._outcomes(maker)))
            for job, outcome in outcomes:
                if job is None:
                    self.stray_rejects.append(outcome)
                    rejects += 1
                elif self._take(job, outcome):
                    rows += 1
                else:
                    rejects += 1
                if advance is not None:
                    advance(rows, rejects)
            for split in self.splits.values():
                self._finish_shard(split)

    def _maker(self) -> RowMaker:
        tokenizer = load_tokenizer(self.settings.tokenizer) if self.settings.tokenizer else None
        return RowMaker(
            self.converter.name,
            self.root,
            render.Renderer(self.output.folder / render.FOLDER, self.settings.depth_encoding, self.settings.decode),
            PromptLength(FAMILIES[self.settings.model], tokenizer),
            style=self.settings.style,
            mono=self.settings.mono,
            limits=self.limits,
            max_prompt_length=self.settings.max_prompt_length,
        )

    def _outcomes(self, maker: RowMaker) -> Generator[tuple[_Job | None, Any], None, None]:
        """(job, row or reject) in order; (None, reject) for what the converter rejected."""
        pending = (job for job in self.jobs() if not isinstance(job, _Job) or not self._is_done(job))
        if self.settings.workers == 0:
            for job in pending:
                yield (job, _outcome(maker, job)) if isinstance(job, _Job) else (None, job)
            return
        chunks: deque[tuple[list[_Job | dict[str, Any]], Future[list[Any]]]] = deque()
        context = get_context("spawn")
        with ProcessPoolExecutor(self.settings.workers, context, _start_worker, (maker,)) as pool:
            try:
                while chunk := list(islice(pending, _CHUNK)):
                    chunks.append((chunk, pool.submit(_work, [job for job in chunk if isinstance(job, _Job)])))
                    if len(chunks) > 3 * self.settings.workers:
                        yield from _joined(*chunks.popleft())
                while chunks:
                    yield from _joined(*chunks.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _is_done(self, job: _Job) -> bool:
        """Whether the sample is in a finished shard."""
        split = self.splits.get(job.split)
        return split is not None and bool(split.shards) and job.number < split.shards[-1].end

    def _take(self, job: _Job, outcome: Made | dict[str, Any]) -> bool:
        """Write a row, or note a reject. Whether it was a row."""
        split = self.splits.setdefault(job.split, _Split(job.split))
        record: dict[str, Any] | None = None
        if isinstance(outcome, Made):
            try:
                record = embedded(outcome.record) if self.embed else outcome.record
            except SampleError as error:
                outcome = _reject(job, error)
        split.samples += 1
        split.digest.update(job.inputs)
        if record is None or not isinstance(outcome, Made):
            assert isinstance(outcome, dict)
            split.rejects.append(outcome)
            return False
        if split.writer is None:
            path = self.output.folder / f"{split.name}-{len(split.shards):05d}.parquet"
            split.writer = ShardWriter(path, self.schema, embed=self.embed)
        split.writer.add(record)
        split.tally.add(outcome)
        full = split.writer.bytes >= self.settings.shard_megabytes * 2**20
        if split.writer.rows >= self.settings.shard_rows or full:
            self._finish_shard(split)
        return True

    def _finish_shard(self, split: _Split) -> None:
        if split.writer is None:
            return
        writer = split.writer
        digest = writer.finish()
        shard = Shard(
            file=writer.path.name,
            split=split.name,
            first=split.first,
            samples=split.samples,
            rows=writer.rows,
            bytes=writer.path.stat().st_size,
            sha256=digest,
            inputs=split.digest.hexdigest(),
            tally=split.tally.as_dict(),
            rejects=split.rejects,
        )
        self.output.note(shard)
        split.shards.append(shard)
        split.start_next(shard.end)

    def _abandon(self) -> None:
        for split in self.splits.values():
            if split.writer is not None:
                split.writer.abandon()
                split.writer = None

    def finish(self) -> ConvertResult:
        rejects = [{**reject, "shard": None} for reject in self.stray_rejects]
        for split in self.splits.values():
            rejects += [{**reject, "shard": None} for reject in split.rejects]  # after the last whole shard
            rejects += [{**reject, "shard": shard.file} for shard in split.shards for reject in shard.rejects]
        rejects.sort(key=lambda reject: reject["index"])
        shards = {name: self.splits[name].shards for name in sorted(self.splits) if self.splits[name].shards}
        rows = sum(shard.rows for part in shards.values() for shard in part)
        if rows == 0 and not rejects:
            raise DataError(
                f"no sample found under {self.root.path}. {self.converter.name} expects:\n{self.converter.layout}"
            )
        for text, count in sorted(self.leaks.items()):
            self.findings.add(f"{count} {text}")
        manifest = build_manifest(
            self.converter,
            self.output,
            shards,
            rejects,
            self.findings,
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


class _Homes:
    """Which split each image and each group is in, to find what is in two."""

    def __init__(self, leaks: Counter[str]) -> None:
        self.leaks = leaks
        self.images: dict[bytes, str] = {}
        self.groups: dict[str, str] = {}

    def note(self, sample: Sample, split: str) -> None:
        for image in sample.images:
            # 8 bytes instead of the path: memory stays small at a million images
            key = hashlib.blake2b(image.path.encode(), digest_size=8).digest()
            home = self.images.setdefault(key, split)
            if home != split:
                self.leaks[
                    f"images used in {split} are in {home} too: results on one tell little about the other."
                ] += 1
        if sample.group is not None:
            home = self.groups.setdefault(sample.group, split)
            if home != split:
                self.leaks[f"samples of {split} come from scenes or groups that are in {home} too."] += 1


def _outcome(maker: RowMaker, job: _Job) -> Made | dict[str, Any]:
    try:
        return maker.make(job.sample, job.split, job.index)
    except SampleError as error:
        return _reject(job, error)
    except ValidationError as error:
        return _reject(job, explain(error, "record"))


def _reject(job: _Job, error: SampleError) -> dict[str, Any]:
    return {"index": job.index, **asdict(Reject.of(error, job.sample.origin, job.sample.sample_id))}


def _joined(chunk: list[_Job | dict[str, Any]], future: Future[list[Any]]) -> Iterator[tuple[_Job | None, Any]]:
    outcomes = iter(future.result())
    for job in chunk:
        yield (job, next(outcomes)) if isinstance(job, _Job) else (None, job)


_worker_maker: RowMaker


def _start_worker(maker: RowMaker) -> None:
    global _worker_maker
    _worker_maker = maker
    parent = parent_process()
    if parent is not None:
        # A killed parent cannot end its workers, and they would wait for work for ever
        Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _work(jobs: list[_Job]) -> list[Made | dict[str, Any]]:
    return [_outcome(_worker_maker, job) for job in jobs]


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
