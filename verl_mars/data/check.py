"""Fast checks of data files before any model is loaded: what verl would only find hours later, or never.

Rows are read in batches and images are opened, not decoded. ``verl_mars.data.validate`` adds verl's own reader and a
real processor to this.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from verl_mars.data.cures import CURES
from verl_mars.data.images import ImageHeader, encoded_bytes, read_header, training_problem
from verl_mars.data.readers import as_files, embeds_images, open_parquet, row_batches
from verl_mars.data.row_checks import RowRules, column_problems, image_entry_problem
from verl_mars.data.schema import ROW_GROUP_BYTES
from verl_mars.errors import DataError, Problem, SampleError
from verl_mars.fields import Fields

UNREADABLE_BYTES = 2**31 - 1
"""Nested binary data of one row group that ``datasets`` cannot read any more."""
_CACHED_HEADERS = 2**18
_ROW_COLUMNS = ("data_source", "reward_model", "extra_info", "sources", "videos", "audios")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, for people to read."""

    file: str
    row: int | None
    """Counted from 0; ``None``: the whole file."""
    key: str
    message: str
    code: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{where}, {self.key}: {self.message}" if self.key else f"{where}: {self.message}"

    @property
    def cure(self) -> str:
        """What to do about it."""
        return CURES[self.code]


@dataclass
class CheckReport:
    """What :func:`check_files` found."""

    files: list[str]
    rows: int = 0
    faults: list[Fault] = field(default_factory=list)
    """At most ``max_faults`` of them, with at least one of each kind that occurs."""
    counts: Counter[str] = field(default_factory=Counter)
    """All faults, by code."""
    single_source_rows: int = 0
    """Rows with one source: they train, but have no anchor."""
    images_per_row_max: int = 0
    remote_images: int = 0
    """Images at http(s) addresses, which were not opened."""
    notes: list[str] = field(default_factory=list)
    """Worth knowing, but not wrong."""

    @property
    def ok(self) -> bool:
        """No fault at all."""
        return not self.counts

    def text(self) -> str:
        """All of it in sentences, each kind of fault with its cure."""
        lines = [str(fault) for fault in self.faults]
        left = self.counts.total() - len(self.faults)
        if left > 0:
            lines.append(f"... and {left} more faults")
        lines += [f"{count} x {code}: {CURES[code]}" for code, count in self.counts.most_common()]
        return "\n".join(lines + self.notes)

    def raise_faults(self) -> None:
        """Do nothing where all is well.

        Raises:
            DataError: with :meth:`text`.
        """
        if not self.ok:
            files = ", ".join(self.files[:3]) + (", ..." if len(self.files) > 3 else "")
            raise DataError(f"{self.counts.total()} faults in the data ({files}):\n{self.text()}")


def check_files(
    files: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    max_images: int | None = None,
    need_sources: bool = True,
    join_sources: bool = False,
    open_images: bool = True,
    max_faults: int = 20,
    progress: bool = False,
    check_truth: bool = True,
    prompt_key: str = "prompt",
    image_key: str = "images",
) -> CheckReport:
    """Check files of rows, in bounded memory, 10,000 rows or so a second.

    Args:
        files: as in verl's ``data.train_files``: a list of .parquet, .json or .jsonl files, or one of them.
        max_images: what the engine takes a prompt (``actor_rollout_ref.rollout.limit_images``); ``None``: no limit.
        need_sources: whether rows need ``sources``, as they do for anchors.
        join_sources: whether sessions show all sources but one (``algorithm.mars.anchors=leave_one_out``).
        open_images: open each image file once, header only.
        max_faults: how many faults the report spells out; all are counted.
        progress: show a bar.
        check_truth: check tasks and ground truths; off where a reward function of the user's own scores.
        prompt_key: as ``data.prompt_key``.
        image_key: as ``data.image_key``.

    Returns:
        The report. Faults of the data are never raised; see :meth:`CheckReport.raise_faults`.

    Raises:
        DataError: no file, or one that verl would not take: a folder, a pattern, another ending, a missing file.
    """
    checked = as_files(files)
    report = CheckReport(checked)
    rules = RowRules(prompt_key, image_key, need_sources, check_truth, max_images, join_sources)
    checker = _Checker(rules, report, max_faults, open_images)
    for file in checked:
        checker.check(file, _progress_bar(file) if progress else None)
    checker.check_types()
    if report.single_source_rows:
        report.notes.append(f"{report.single_source_rows} of {report.rows} rows have one source: they get no anchor.")
    if report.remote_images:
        report.notes.append(f"{report.remote_images} images at http(s) addresses were not opened.")
    return report


class _Checker:
    def __init__(self, rules: RowRules, report: CheckReport, max_faults: int, open_images: bool) -> None:
        self.rules = rules
        self.report = report
        self.max_faults = max_faults
        self.open_images = open_images
        self.schemas: list[tuple[str, pa.Schema]] = []
        self.headers: dict[str, ImageHeader | Problem] = {}

    def check(self, file: str, advance: Callable[[int], None] | None) -> None:
        before = self.report.rows
        try:
            if file.endswith(".parquet"):
                self._check_layout(file)
            indices: set[int] = set()
            columns = (self.rules.prompt_key, self.rules.image_key, *_ROW_COLUMNS)
            for batch in row_batches(file, columns):
                for row in batch:
                    self._check_row(file, self.report.rows - before, row, indices)
                    self.report.rows += 1
                if advance is not None:
                    advance(len(batch))
        except DataError as error:
            self._add(file, None, Problem("file", "", str(error).removeprefix(f"{file} ")))
        if self.report.rows == before and not self.report.counts["file"]:
            self._add(file, None, Problem("file", "", "the file has no rows"))

    def check_types(self) -> None:
        """verl concatenates all files; ``datasets`` refuses that where their types differ."""
        for file, schema in self.schemas[1:]:
            for problem in type_problems(self.schemas[0], schema):
                self._add(file, None, problem)

    def _check_layout(self, file: str) -> None:
        with open_parquet(file) as parquet:
            schema = parquet.schema_arrow
            metadata = parquet.metadata
            if not any(known.equals(schema) for _, known in self.schemas):
                self.schemas.append((file, schema))
            for problem in column_problems(schema.names, self.rules.prompt_key):
                self._add(file, None, problem)
            if embeds_images(schema):
                groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
                largest = max((group.total_byte_size for group in groups), default=0)
                if largest > 2 * ROW_GROUP_BYTES:
                    size = f"{largest / 2**20:.0f} MB in one row group, at most {ROW_GROUP_BYTES // 2**20} are advised"
                    consequence = "; beyond 2048 `datasets` cannot read the file"
                    if largest >= UNREADABLE_BYTES:
                        self._add(file, None, Problem("row_group", "", size + consequence))
                    else:
                        self.report.notes.append(f"{file}: {size}{consequence}.")
                self.report.notes.append(
                    f"{file}: rows hold their images, so every rollout carries them, encoded and decoded; paths travel "
                    "as text. Set data.val_batch_size: without it verl validates all rows in one batch."
                )
            if b'"_type": "Image"' in (schema.metadata or {}).get(b"huggingface", b""):
                self.report.notes.append(
                    f"{file}: images have the type Image of `datasets`, so every row is decoded when it is loaded and "
                    "travels as pixels; paths travel as text."
                )

    def _check_row(self, file: str, number: int, row: Fields, indices: set[int]) -> None:
        for problem in self.rules.problems(row):
            self._add(file, number, problem)
        extra = row.get("extra_info")
        index = extra.get("index") if isinstance(extra, dict) else None
        if isinstance(index, int):
            if index in indices:
                self._add(file, number, Problem("index", "extra_info.index", f"{index} belongs to a row before it"))
            indices.add(index)
        sources = row.get("sources")
        if isinstance(sources, list) and len(sources) == 1:
            self.report.single_source_rows += 1
        images = row.get(self.rules.image_key)
        if isinstance(images, list):
            self.report.images_per_row_max = max(self.report.images_per_row_max, len(images))
            if self.open_images:
                sizes = extra.get("image_sizes") if isinstance(extra, dict) else None
                self._check_images(file, number, images, sizes if isinstance(sizes, list) else [])

    def _check_images(self, file: str, number: int, images: Sequence[Fields | str], sizes: Sequence[object]) -> None:
        for position, image in enumerate(images):
            key = f"{self.rules.image_key}[{position}]"
            if image_entry_problem(image, key) is not None:
                continue  # the row rules have told it
            header = self._header(image)
            if header is None:
                self.report.remote_images += 1
            elif isinstance(header, Problem):
                self._add(file, number, Problem(header.code, key, header.message))
            elif position < len(sizes) and sizes[position] != list(header.size):
                told = sizes[position]
                message = f"the image is {header.width} x {header.height}, extra_info.image_sizes says {told}"
                self._add(file, number, Problem("size_mismatch", key, message))

    def _header(self, image: Fields | str) -> ImageHeader | Problem | None:
        """What is known of an image; ``None`` where it lies on another machine."""
        if isinstance(image, dict) and "bytes" in image:
            return _look(image["bytes"])
        path: str = image if isinstance(image, str) else image["image"]
        if path.startswith(("http://", "https://")):
            return None
        known = self.headers.get(path)
        if known is None:
            if len(self.headers) >= _CACHED_HEADERS:
                self.headers.clear()
            known = self.headers[path] = _look(path)
        return known

    def _add(self, file: str, row: int | None, problem: Problem) -> None:
        first_of_kind = not self.report.counts[problem.code]
        self.report.counts[problem.code] += 1
        if len(self.report.faults) < self.max_faults or first_of_kind:
            self.report.faults.append(Fault(file, row, problem.key, problem.message, problem.code))


def type_problems(reference: tuple[str, pa.Schema], schema: pa.Schema) -> Iterator[Problem]:
    """Columns whose types keep ``datasets`` from concatenating two files. Keys of a struct column may be missing."""
    first, expected = reference
    for name in schema.names:
        if name not in expected.names:
            continue
        for at, here, there in _type_differences(schema.field(name).type, expected.field(name).type, name):
            yield Problem("types", at, f"{here}, but {there} in {first}: `datasets` cannot put the files together")


def _type_differences(here: pa.DataType, there: pa.DataType, at: str) -> Iterator[tuple[str, pa.DataType, pa.DataType]]:
    if pa.types.is_struct(here) and pa.types.is_struct(there):
        for position in range(here.num_fields):
            name = here.field(position).name
            if there.get_field_index(name) >= 0:
                yield from _type_differences(here.field(position).type, there.field(name).type, f"{at}.{name}")
    elif not here.equals(there) and not pa.types.is_null(here) and not pa.types.is_null(there):
        yield at, here, there


def _look(source: str | bytes) -> ImageHeader | Problem:
    try:
        if isinstance(source, str) and source.startswith("data:image"):
            header = read_header(encoded_bytes(source))
        elif isinstance(source, str) and source.startswith("file://"):
            header = read_header(source[len("file://") :])  # as qwen_vl_utils reads it, with nothing unquoted
        else:
            header = read_header(source)
    except SampleError as error:
        return error.problem
    return training_problem(header) or header


def _progress_bar(file: str) -> Callable[[int], None]:
    from tqdm import tqdm

    total = open_parquet(file).metadata.num_rows if file.endswith(".parquet") else None
    bar = tqdm(total=total, desc=os.path.basename(file), unit="rows", leave=False)

    def advance(rows: int) -> None:
        bar.update(rows)
        if total is not None and bar.n >= total:
            bar.close()

    return advance
