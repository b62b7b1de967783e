"""Predictions on disk: what ``verl-mars score`` reads.

JSONL, one object a line, or a JSON list of such objects:

| key | meaning |
|---|---|
| ``response`` (or ``output``, or ``content``: [text]) | what the model wrote |
| ``ground_truth`` (or ``gts``) | a row's ground truth, or the plain forms below |
| ``task``, ``data_source``, ``source``, ``index``, ... | optional; any other key can be grouped by |
| ``extra_info`` | optional, as in a row: ``task``, ``coordinates``, ``image_sizes``, ... |

So verl's validation dumps and the files of the MARS authors' inference script can be read as they are. Plain ground
truths: a list of boxes; "three or 3"; a letter, with the choices in ``choices`` or in the text of the question.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_mars.tasks import task_named
from verl_mars.tasks.base import Hints
from verl_mars.vision.resize import Size

_MAX_LINE = 10_000_000
_RESPONSES = ("response", "output", "content")
_TRUTHS = ("ground_truth", "gts")


class PredictionError(ValueError):
    """A file of predictions cannot be read; the message names file, line and key."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line, in the form ``compute_score`` takes."""

    line: int
    response: str
    ground_truth: Any
    extra_info: Mapping[str, Any]
    fields: Mapping[str, Any]
    """Every other key of the line, to group by."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What lines do not say themselves."""

    task: str | None = None
    label: str = "object"
    size: Size | None = None


def read_predictions(path: Path, defaults: Defaults, rows: Path | None = None) -> list[Prediction]:
    """All predictions of a file.

    Args:
        path: ``.jsonl``, or ``.json`` with a list.
        defaults: for lines without a task, boxes without labels, images without size.
        rows: the rows that were asked, in the same order: parquet of the row schema or the authors' question file. They
            lend what a line lacks: ground truth, task, sizes, choices.

    Raises:
        PredictionError: no such file, broken JSON, a missing key, or as many rows as lines are not there.
    """
    lines = list(_objects(path))
    if not lines:
        raise PredictionError(f"{path}: no predictions in it")
    lenders: Iterable[Mapping[str, Any]] = [{}] * len(lines)
    if rows is not None:
        lent = list(_rows(rows))
        if len(lent) != len(lines):
            raise PredictionError(f"{path} has {len(lines)} predictions, but {rows} has {len(lent)} rows")
        lenders = lent
    return [
        _prediction(path, number, value, lender, defaults)
        for (number, value), lender in zip(lines, lenders, strict=True)
    ]


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line or position, object) of each entry of a JSON list or a JSONL file."""
    try:
        with path.open(encoding="utf-8") as file:
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


def _entries(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    value = _parse(path, 1, text)
    if not isinstance(value, list):
        raise PredictionError(f"{path}: a .json file must hold a list of objects; for one object a line use .jsonl")
    for number, entry in enumerate(value, 1):
        yield number, _object(path, number, entry)


def _parse(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{path}, line {number}: not JSON ({error})") from None


def _object(path: Path, number: int, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PredictionError(f"{path}, line {number}: {str(value)[:80]!r} is not an object")
    return value


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix != ".parquet":
        for _, value in _objects(path):
            yield {**value, "question": _text_of(value.get("content"))}
        return
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise PredictionError(f"{path}: cannot be read as parquet ({error})") from None
    columns = [name for name in ("data_source", "reward_model", "extra_info") if name in file.schema_arrow.names]
    for batch in file.iter_batches(columns=columns):
        for row in batch.to_pylist():
            truth = (row.get("reward_model") or {}).get("ground_truth")
            info = {key: value for key, value in (row.get("extra_info") or {}).items() if value is not None}
            yield {"ground_truth": truth, "data_source": row.get("data_source"), "extra_info": info}


def _prediction(
    path: Path, number: int, value: Mapping[str, Any], lender: Mapping[str, Any], defaults: Defaults
) -> Prediction:
    where = f"{path}, line {number}"
    response = next((value[key] for key in _RESPONSES if key in value), None)
    if isinstance(response, list):
        response = _text_of(response)
    if response is None:
        raise PredictionError(f"{where}: none of the keys {', '.join(_RESPONSES)}; one must hold the response")
    if not isinstance(response, str):
        raise PredictionError(f"{where}: the response is {type(response).__name__}, text is needed")
    truth = next((source[key] for source in (value, lender) for key in _TRUTHS if source.get(key) is not None), None)
    if truth is None:
        raise PredictionError(f"{where}: none of the keys {', '.join(_TRUTHS)}; one must hold the ground truth")
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
    used = {*_RESPONSES, *_TRUTHS, "extra_info"}
    fields = {key: entry for key, entry in {**info, **lender, **value}.items() if key not in used}
    try:
        hints = Hints(defaults.label, _first_size(info), value.get("choices"), fields.get("question"))
        truth = plain_truth(task, truth, hints)
    except ValueError as error:
        raise PredictionError(f"{where}: {error}") from None
    return Prediction(number, response, truth, info, fields)


def _first_size(info: Mapping[str, Any]) -> Size | None:
    """Size of the first image, if the row has a list of sizes; what stands in it is checked with the ground truth."""
    sizes = info.get("image_sizes")
    return sizes[0] if isinstance(sizes, list) and sizes else None


def _text_of(content: Any) -> str:
    """The text of a message's content: texts, and the text parts of structured content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | dict)]
    return " ".join(part for part in parts if isinstance(part, str))


def plain_truth(task: str, truth: Any, hints: Hints) -> Any:
    """A ground truth in the form of a row; one that is in that form already (JSON object) stays as it is.

    Raises:
        ValueError: an unknown task, a letter without choices, a count without a number.
    """
    if isinstance(truth, Mapping) or (isinstance(truth, str) and truth.lstrip().startswith("{")):
        return truth
    return task_named(task).from_plain(truth, hints)
