"""The last word on data files: read by verl's own ``RLHFDataset`` and a real processor, so what passes loads.

Every row is checked by rules (:mod:`verl_mars.data.check`) and read by verl; every prompt's length is computed, fused
and alone; a sample of rows, the longest among them, goes through the processor in full, as in training.
"""

import contextlib
import hashlib
import io
import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from verl_mars import _compat
from verl_mars.data.check import CheckReport, Fault, check_files
from verl_mars.data.overlong import OF_ANOTHER_FORM, too_long_message, view_lengths
from verl_mars.data.processor import load_processor, standin_processor
from verl_mars.data.prompt_length import PromptLength
from verl_mars.data.readers import row_batches
from verl_mars.data.row_notes import RowNotes
from verl_mars.errors import DataError
from verl_mars.views import Message, Mono, Row, sources_of_row
from verl_mars.vision.resize import limits_of

if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from verl.utils.dataset.rl_dataset import RLHFDataset

_MAX_LEAKS = 2_000_000


@dataclass
class ValidationReport:
    """What :func:`validate` found."""

    check: CheckReport
    rows_loaded: int = 0
    """Rows that verl's data set built messages for."""
    prompts_processed: int = 0
    """Prompts, fused and alone, that went through the processor."""
    max_tokens: int = 0
    """The longest prompt of all rows."""
    exact: bool = False
    """Whether ``max_tokens`` counts text with the model's own tokenizer; else it is a bound."""

    @property
    def ok(self) -> bool:
        """No fault at all."""
        return self.check.ok


def validate(
    files: Sequence[str],
    *,
    processor: str | None = None,
    model: str = "qwen2_5_vl",
    sample: int | None = 16,
    max_images: int | None = None,
    max_prompt_length: int | None = None,
    need_sources: bool = True,
    check_truth: bool = True,
    max_faults: int = 20,
    progress: bool = False,
) -> ValidationReport:
    """Validate data files.

    Args:
        files: .parquet, .json or .jsonl, as verl's ``data.train_files``.
        processor: folder or hub name of the checkpoint to train; without one a processor of the model's class is built
            that counts a token for each byte of text.
        model: ``qwen2_5_vl`` or ``qwen3_vl``, where no processor is named.
        sample: rows that go through the processor; ``None``: all.
        max_images: as ``actor_rollout_ref.rollout.limit_images``.
        max_prompt_length: as ``data.max_prompt_length``.
        need_sources: as in :func:`verl_mars.data.check.check_files`.
        check_truth: likewise.
        max_faults: faults that are spelled out.
        progress: show bars.

    Returns:
        The report; faults of the data are never raised.

    Raises:
        DataError: no files that verl takes, or no processor.
    """
    check = check_files(
        files,
        max_images=max_images,
        need_sources=need_sources,
        check_truth=check_truth,
        max_faults=max_faults,
        progress=progress,
    )
    report = ValidationReport(check)
    loaded = load_processor(processor) if processor is not None else standin_processor(model)
    length = PromptLength(limits_of(loaded.image_processor.to_dict()), loaded.tokenizer)
    run = _Validation(report, loaded, length, max_prompt_length, max_faults)
    run.faulty = {(fault.file, fault.row) for fault in check.faults}
    run.measure()
    run.load(sample, progress)
    report.exact = processor is not None
    if check.ok and not report.exact:
        check.notes.append(
            "Text was counted a token a byte, because no --processor was given: prompts are shorter in truth."
        )
    return report


class _Validation:
    def __init__(
        self,
        report: ValidationReport,
        processor: "ProcessorMixin",
        length: PromptLength,
        max_length: int | None,
        max_faults: int,
    ) -> None:
        self.report = report
        self.processor = processor
        self.length = length
        self.max_length = max_length
        self.max_faults = max_faults
        self.faulty: set[tuple[str, int | None]] = set()
        self.lengths: dict[int, int] = {}
        """Tokens of the fused prompt, by the row's number over all files; rows that cannot be measured are left out."""
        self.starts: list[tuple[int, str]] = []

    def add(self, file: str, row: int | None, code: str, key: str, message: str) -> None:
        counts = self.report.check.counts
        if len(self.report.check.faults) < self.max_faults or not counts[code]:
            self.report.check.faults.append(Fault(file, row, key, message, code))
        counts[code] += 1

    def place(self, number: int) -> tuple[str, int]:
        """File and row of a row's number over all files."""
        start, file = max(entry for entry in self.starts if entry[0] <= number)
        return file, number - start

    # Lengths and leaks

    def measure(self) -> None:
        """The length of every prompt, and images that are in files of two splits."""
        homes: dict[bytes, str] = {}
        leaks: dict[tuple[str, str], tuple[str, int, str, int]] = {}
        notes = RowNotes()
        number = 0
        for file in self.report.check.files:
            start = number
            self.starts.append((start, file))
            with contextlib.suppress(DataError):  # check_files has told it
                for row in itertools.chain.from_iterable(row_batches(file)):
                    # So it has of rows of another form, which have no length
                    with contextlib.suppress(*OF_ANOTHER_FORM):
                        self._measure_row(file, number - start, number, row)
                        self._note_images(file, number - start, row, homes, leaks)
                        notes.add(row, f"{Path(file).name}, row {number - start}")
                    number += 1
        for (here, there), (file, position, path, count) in leaks.items():
            message = f"{path} is in split {there!r} too, and so are {count - 1} more images of split {here!r}"
            self.add(file, position, "leak", "images", message)
        self.report.check.notes += notes.texts()

    def _measure_row(self, file: str, position: int, number: int, row: Row) -> None:
        for key, tokens in view_lengths(row, self.length):
            if key == "prompt":
                self.lengths[number] = tokens
            self.report.max_tokens = max(self.report.max_tokens, tokens)
            if self.max_length is not None and tokens > self.max_length:
                self.add(file, position, "too_long", key, too_long_message(tokens, self.max_length))

    def _note_images(
        self,
        file: str,
        position: int,
        row: Row,
        homes: dict[bytes, str],
        leaks: dict[tuple[str, str], tuple[str, int, str, int]],
    ) -> None:
        split = str(row["extra_info"].get("split"))
        for image in row["images"]:
            content = image if isinstance(image, str) else image.get("bytes") or image["image"]
            key = content if isinstance(content, bytes) else str(content).encode()
            digest = hashlib.blake2b(key, digest_size=8).digest()
            home = homes.get(digest)
            if home is None and len(homes) < _MAX_LEAKS:
                homes[digest] = split
            elif home is not None and home != split:
                name = content if isinstance(content, str) else image.get("path")
                first = leaks.get((split, home), (file, position, str(name), 0))
                leaks[split, home] = (*first[:3], first[3] + 1)

    # verl's own reader and the processor

    def load(self, sample: int | None, progress: bool) -> None:
        """Let verl read all rows, and the processor a sample of them."""
        with tempfile.TemporaryDirectory() as cache:
            try:
                dataset = _verl_dataset(self.report.check.files, self.processor, cache)
            except _LOADING_ERRORS as error:
                self.add(self.report.check.files[0], None, "loading", "", f"verl cannot load the files: {_told(error)}")
                return
            chosen = self._chosen(len(dataset), sample)
            for number in _counted(range(len(dataset)), progress):
                file, position = self.place(number)
                try:
                    row = dataset[number]
                    self.report.rows_loaded += 1
                except _LOADING_ERRORS as error:
                    self.add(file, position, "loading", "", f"verl cannot read the row: {_told(error)}")
                    continue
                if number in chosen and (file, position) not in self.faulty:
                    self._process(file, position, number, row, dataset)

    def _chosen(self, rows: int, sample: int | None) -> set[int]:
        """The longest row, and others at equal distances."""
        if sample is None or sample >= rows:
            return set(range(rows))
        chosen = {rows * step // sample for step in range(sample)}
        if self.lengths:
            chosen.add(max(self.lengths, key=lambda number: (self.lengths[number], -number)))
        return chosen

    def _process(self, file: str, position: int, number: int, row: Row, dataset: "RLHFDataset") -> None:
        views: list[tuple[str, list[Message], int | None]] = [("prompt", row["raw_prompt"], self.lengths.get(number))]
        try:
            for source in sources_of_row(row) if row.get("sources") else ():
                views.append((f"sources: {source.name}", Mono(source).render(row)["raw_prompt"], None))
        except ValueError as error:
            self.add(file, position, "loading", "sources", str(error))
        for key, messages, expected in views:
            try:
                tokens = _processed_length(messages, self.processor, dataset)
            except _LOADING_ERRORS as error:
                self.add(file, position, "loading", key, f"the processor refuses it: {_told(error)}")
                continue
            self.report.prompts_processed += 1
            if expected is not None and tokens != expected:
                self.add(file, position, "length", key, f"{tokens} tokens from the processor, {expected} computed")


def _verl_dataset(files: Sequence[str], processor: "ProcessorMixin", cache: str) -> "RLHFDataset":
    """verl's data set over the files, without its filter and without a copy in the user's cache."""
    _compat.define_missing_torchvision_ops()
    import datasets
    from datasets.exceptions import DatasetsError
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": cache, "return_raw_chat": True})
    before = datasets.config.HF_DATASETS_CACHE
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.config.HF_DATASETS_CACHE = Path(cache)
    datasets.utils.logging.disable_progress_bar()
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return RLHFDataset(list(files), processor.tokenizer, config, processor)
    except DatasetsError as error:
        raise RuntimeError(str(error)) from error
    finally:
        datasets.config.HF_DATASETS_CACHE = before
        logger.setLevel(level)
        if bars:
            datasets.utils.logging.enable_progress_bar()


def _processed_length(messages: list[Message], processor: "ProcessorMixin", dataset: "RLHFDataset") -> int:
    """Tokens of a prompt, made the way verl's agent loop makes it."""
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images, videos, audios = dataset._process_multi_modal_info(messages, dataset.image_patch_size, dataset.config)
    if images is None and videos is None and audios is None:
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    inputs = build_multimodal_processor_inputs(processor, text=[text], images=images, videos=videos, audio=audios)
    return int(inputs["input_ids"].shape[1])


def _counted(numbers: range, progress: bool) -> Iterator[int]:
    if not progress:
        return iter(numbers)
    from tqdm import tqdm

    return iter(tqdm(numbers, desc="verl's reader", unit="rows", leave=False))


def _told(error: BaseException) -> str:
    """The innermost reason: ``datasets`` wraps what it met."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


_LOADING_ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    StopIteration,  # of verl, for more placeholders than images
    TypeError,
    ValueError,
)
"""What verl, ``datasets``, qwen_vl_utils and the processors raise for rows they do not take."""
