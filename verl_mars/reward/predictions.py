"""Predictions on disk: what ``verl-mars score`` reads.

JSONL, one object a line, or a JSON list of such objects, or a table (parquet, CSV):

| key | meaning |
|---|---|
| ``response``, ``output``, ``content``, ``predict``, ``prediction``, ``filtered_resps``, ``resps`` | the response |
| ``ground_truth``, ``gts``, ``target``, ``labels``, ``label``, ``solution``, ``answer`` | the ground truth |
| ``task``, ``data_source``, ``source``, ``index``, ... | optional; any other key can be grouped by |
| ``extra_info`` | optional, as in a row: ``task``, ``coordinates``, ``image_sizes``, ... |

So dumps of verl, EasyR1 and ms-swift, samples of lmms-eval and the files of the MARS authors' inference script are read
as they are; options name other keys. A list of responses is n samples of one row. Plain ground truths: a list of boxes;
"three or 3"; a letter, with or without its text, whose choices stand in ``choices`` or in the text of the question.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from verl_mars.errors import DataError
from verl_mars.fields import Fields
from verl_mars.file_kinds import kind_of
from verl_mars.tasks import task_named
from verl_mars.tasks.base import Hints
from verl_mars.tasks.grounding import ANY_LABEL
from verl_mars.vision.resize import Size

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_MAX_LINE = 10_000_000
_RESPONSES = ("response", "output", "content", "predict", "prediction", "filtered_resps", "resps")
_OBJECT = re.compile(r'\s*\{\s*"')  # of JSON, as opposed to a set of numbers
_TAGGED = re.compile(r"(?:<think>.*</think>\s*)?<answer>(.*)</answer>", re.DOTALL)
_TRUTHS = ("ground_truth", "gts", "target", "labels", "label", "solution", "answer")


class PredictionError(DataError):
    """A file of predictions cannot be read; the message names file, line and key."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line, in the form ``compute_score`` takes."""

    line: int
    response: str
    ground_truth: object
    extra_info: Fields
    fields: Fields
    """Every other key of the line, to group by."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What lines do not say themselves."""

    task: str | None = None
    label: str = ANY_LABEL
    size: Size | None = None
    response_key: str | None = None
    truth_key: str | None = None


def read_predictions(path: Path, defaults: Defaults, rows: Path | None = None) -> list[Prediction]:
    """All predictions of a file.

    Args:
        path: ``.jsonl``, ``.json`` with a list, ``.parquet``, ``.csv`` or ``.tsv``.
        defaults: for lines without a task, boxes without labels, images without size.
        rows: the rows that were asked, in the same order: parquet of the row schema or the authors' question file. They
            lend what a line lacks: ground truth, task, sizes, choices.

    Raises:
        PredictionError: no such file, broken JSON, a missing key, or as many rows as lines are not there.
    """
    if path.suffix != ".parquet":
        _refuse_other_kinds(path)
    lines = list(_entries_of(path))
    if not lines:
        raise PredictionError(f"{path}: no predictions in it")
    lenders: Iterable[Fields] = [{}] * len(lines)
    if rows is not None:
        lent = list(_rows(rows))
        if len(lent) != len(lines):
            raise PredictionError(f"{path} has {len(lines)} predictions, but {rows} has {len(lent)} rows")
        lenders = lent
    return [
        prediction
        for (number, value), lender in zip(lines, lenders, strict=True)
        for prediction in _predictions(path, number, value, lender, defaults)
    ]


def _entries_of(path: Path) -> Iterator[tuple[int, Fields]]:
    """(line or position, object) of each entry of a file of any kind."""
    if path.suffix == ".parquet":
        return enumerate((row for batch in _parquet(path).iter_batches() for row in batch.to_pylist()), 1)
    if path.suffix in (".csv", ".tsv"):
        return _table(path, "\t" if path.suffix == ".tsv" else ",")
    return _objects(path)


def _refuse_other_kinds(path: Path) -> None:
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(64))
    except OSError as error:
        raise PredictionError(f"{path}: {error.strerror}") from None
    if kind is not None and kind != "JSON text":
        raise PredictionError(f"{path} is {kind}")


def _table(path: Path, separator: str) -> Iterator[tuple[int, Fields]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(csv.DictReader(file, delimiter=separator), 1)
    except OSError as error:
        raise PredictionError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PredictionError(f"{path}: cannot be read as a table ({error})") from None


def _parquet(path: Path) -> "ParquetFile":
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise PredictionError(f"{path}: cannot be read as parquet ({error})") from None


def _objects(path: Path) -> Iterator[tuple[int, Fields]]:
    """(line or position, object) of each entry of a JSON list or a JSONL file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix == ".json":
                yield from _entries(path, file.read())
                return
            for number, line in enumerate(file, 1):
                if len(line) > _MAX_LINE:
                    raise PredictionError(f"{path}, line {number}: {len(line)} characters in one line")
                if line.strip():
                    yield number, _object(path, number, _parse(path, number, line))
    except OSError as error:
        raise PredictionError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PredictionError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _entries(path: Path, text: str) -> Iterator[tuple[int, Fields]]:
    value = _parse(path, 1, text)
    if not isinstance(value, list):
        raise PredictionError(f"{path}: a .json file must hold a list of objects; for one object a line use .jsonl")
    for number, entry in enumerate(value, 1):
        yield number, _object(path, number, entry)


def _parse(path: Path, number: int, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{path}, line {number}: not JSON ({error})") from None


def _object(path: Path, number: int, value: object) -> Fields:
    if not isinstance(value, Mapping):
        raise PredictionError(f"{path}, line {number}: {str(value)[:80]!r} is not an object")
    return value


def _rows(path: Path) -> Iterator[Fields]:
    if path.suffix != ".parquet":
        for _, value in _objects(path):
            yield {**value, "question": _text_of(value.get("content"))}
        return
    file = _parquet(path)
    columns = [name for name in ("data_source", "reward_model", "extra_info") if name in file.schema_arrow.names]
    for batch in file.iter_batches(columns=columns):
        for row in batch.to_pylist():
            truth = (row.get("reward_model") or {}).get("ground_truth")
            info = {key: value for key, value in (row.get("extra_info") or {}).items() if value is not None}
            yield {"ground_truth": truth, "data_source": row.get("data_source"), "extra_info": info}


def _predictions(path: Path, number: int, value: Fields, lender: Fields, defaults: Defaults) -> Iterator[Prediction]:
    where = f"{path}, line {number}"
    keys = (defaults.response_key,) if defaults.response_key else _RESPONSES
    key = next((key for key in keys if value.get(key) is not None), None)
    if key is None:
        raise PredictionError(f"{where}: none of the keys {', '.join(keys)}; one must hold the response")
    responses = [_text_of(value[key])] if key == "content" else _samples(value[key])
    if responses is None:
        raise PredictionError(f"{where}: the response is {type(value[key]).__name__}, text is needed")
    if key in _TRUTHS or key == defaults.truth_key:
        raise PredictionError(f"{where}: {key!r} cannot be both response and ground truth")
    truths = (defaults.truth_key,) if defaults.truth_key else _TRUTHS
    truth = next((source[key] for source in (value, lender) for key in truths if source.get(key) is not None), None)
    if truth is None:
        raise PredictionError(f"{where}: none of the keys {', '.join(truths)}; one must hold the ground truth")
    info = {**(lender.get("extra_info") or {}), **(value.get("extra_info") or {})}
    task = value.get("task") or info.get("task") or defaults.task
    if task is None:
        raise PredictionError(f"{where}: no task in the line or its extra_info; say --task")
    info |= {"task": task, "index": value.get("index", info.get("index", number))}
    for key in ("coordinates", "image_sizes", "seen_sizes"):
        if key in value:
            info[key] = value[key]
    if defaults.size is not None and "image_sizes" not in info:
        info["image_sizes"] = [list(defaults.size)] * 16
    used = {key, *_RESPONSES, *truths, "extra_info"}
    fields = {key: entry for key, entry in {**info, **lender, **value}.items() if key not in used}
    try:
        hints = Hints(defaults.label, _first_size(info), value.get("choices"), fields.get("question"))
        truth = plain_truth(task, truth, hints)
    except ValueError as error:
        raise PredictionError(f"{where}: {error}") from None
    for response in responses:
        yield Prediction(number, response, truth, info, fields)


def _samples(value: object) -> list[str] | None:
    """The responses of one row: a text, or a list of texts at any depth; None for anything else."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        return None
    parts = [_samples(item) for item in value]
    return None if any(part is None for part in parts) else [text for part in parts for text in part or ()]


def _first_size(info: Fields) -> Size | None:
    """Size of the first image, if the row has a list of sizes; what stands in it is checked with the ground truth."""
    sizes = info.get("image_sizes")
    return sizes[0] if isinstance(sizes, list) and sizes else None


def _text_of(content: object) -> str:
    """The text of a message's content: texts, and the text parts of structured content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | dict)]
    return " ".join(part for part in parts if isinstance(part, str))


def plain_truth(task: str, truth: object, hints: Hints) -> object:
    """A ground truth in the form of a row; one that is in that form already (JSON object) stays as it is.

    Raises:
        ValueError: an unknown task, a letter without choices, a count without a number.
    """
    if isinstance(truth, str):
        tagged = _TAGGED.fullmatch(truth.strip())
        truth = tagged.group(1).strip() if tagged else truth
    kind = task_named(task)
    if isinstance(truth, Mapping) or (isinstance(truth, str) and _OBJECT.match(truth)):
        if not any(key in truth for key in kind.plain_keys):
            return truth
    return kind.from_plain(truth, hints)
