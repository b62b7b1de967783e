"""Ground truths, read from the JSON string in ``reward_model.ground_truth`` and checked.

Here a fault is the data's, not the model's: it raises :class:`RowError`, which names the row.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TASKS = ("grounding", "vqa", "mcq", "count", "math")


class RowError(ValueError):
    """A row of the data cannot be scored; the message names the row, the key, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Row:
    """What errors say about where a row is."""

    data_source: Any
    extra_info: Mapping[str, Any]

    def error(self, problem: str) -> RowError:
        info = self.extra_info
        parts = [f"data source {str(self.data_source)!r}"]
        parts += [f"{key} {info[key]!r}" for key in ("split", "index", "sample_id") if info.get(key) is not None]
        if info.get("index") is None:
            parts.append("no index")
        return RowError(f"row ({', '.join(parts)}): {problem}")

    @property
    def task(self) -> str:
        task = self.extra_info.get("task")
        if task not in TASKS:
            said = "has no 'task'" if task is None else f"has task {task!r}"
            raise self.error(f"extra_info {said}; allowed: {', '.join(TASKS)}")
        return str(task)


@dataclass(frozen=True, slots=True)
class Boxes:
    """Ground truth of ``grounding``: N boxes in pixels of the image ``frame``."""

    boxes: list[list[float]]
    labels: list[str]
    frame: int
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Ground truth of ``mcq``."""

    letter: str
    text: str
    choices: list[str]


def read_mapping(ground_truth: Any, row: Row, keys: Sequence[str]) -> Mapping[str, Any]:
    """The JSON object of a ground truth, which must hold ``keys``.

    Raises:
        RowError: not a JSON object, or a key is missing.
    """
    value = ground_truth
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise row.error(f"ground_truth is not JSON ({error}): {_short(ground_truth)}") from None
    if not isinstance(value, Mapping):
        raise row.error(f"ground_truth must be a JSON object with {', '.join(keys)}, got {_short(ground_truth)}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise row.error(
            f"ground_truth has no {' and no '.join(repr(key) for key in missing)}; task {row.task!r} needs "
            f"{', '.join(keys)}, got {_short(ground_truth)}"
        )
    return value


def read_true_boxes(ground_truth: Any, row: Row) -> Boxes:
    """Ground truth of ``grounding``: ``{"boxes", "labels", "frame", "size"}``; ``frame`` 0 and no size are allowed.

    The size falls back to ``extra_info["image_sizes"][frame]``.

    Raises:
        RowError: boxes that are not four finite numbers with x1 < x2 and y1 < y2, too few labels, a wrong size.
    """
    value = read_mapping(ground_truth, row, ("boxes", "labels"))
    boxes, labels = value["boxes"], value["labels"]
    if not isinstance(boxes, list) or not isinstance(labels, list) or len(boxes) != len(labels):
        raise row.error("ground_truth 'boxes' and 'labels' must be lists of one length")
    for index, box in enumerate(boxes):
        if not (isinstance(box, list) and len(box) == 4 and all(is_number(number) for number in box)):
            raise row.error(f"ground_truth boxes[{index}] = {_short(box)} is not four finite numbers")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise row.error(f"ground_truth boxes[{index}] = {_short(box)} has no area; wanted x1 < x2 and y1 < y2")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise row.error(f"ground_truth labels[{index}] = {_short(label)} is not a word")
    frame = value.get("frame", 0)
    if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
        raise row.error(f"ground_truth frame = {_short(frame)} is not the index of an image")
    size = size_of_image(row, "image_sizes", frame)
    if value.get("size") is not None:
        own = read_size(value["size"], row, "ground_truth size")
        if size not in (None, own):
            raise row.error(f"ground_truth size = {list(own)}, but extra_info image_sizes[{frame}] = {list(size)}")
        size = own
    width, height = size or (math.inf, math.inf)
    for index, (left, top, right, bottom) in enumerate(boxes):
        if left < 0 or top < 0 or right > width or bottom > height:
            raise row.error(
                f"ground_truth boxes[{index}] = {boxes[index]} leaves the image of {width} x {height} pixels"
            )
    return Boxes(boxes, labels, frame, size)


def size_of_image(row: Row, key: str, index: int) -> tuple[int, int] | None:
    """(width, height) of image ``index`` in the list ``extra_info[key]``; None where the row has no such list.

    Raises:
        RowError: the list is too short, or its entry is no size.
    """
    sizes = row.extra_info.get(key)
    if sizes is None:
        return None
    if not hasattr(sizes, "__len__") or len(sizes) <= index:
        raise row.error(f"extra_info {key} = {_short(sizes)} has no size for image {index}")
    return read_size(sizes[index], row, f"extra_info {key}[{index}]")


def read_size(size: Any, row: Row, what: str) -> tuple[int, int]:
    """A ``[width, height]`` as positive whole numbers; lists, tuples and numpy rows are all met in verl.

    Raises:
        RowError: anything else.
    """
    try:
        numbers = [float(number) for number in size]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 2 or any(not math.isfinite(n) or n < 1 or n != int(n) for n in numbers):
        raise row.error(f"{what} = {_short(size)} is not [width, height] in pixels")
    return int(numbers[0]), int(numbers[1])


def read_answers(ground_truth: Any, row: Row) -> list[str]:
    """Ground truth of ``vqa``: ``{"answers": [aliases]}``.

    Raises:
        RowError: no answers, or one that is not text.
    """
    answers = read_mapping(ground_truth, row, ("answers",))["answers"]
    if not isinstance(answers, list) or not answers:
        raise row.error(f"ground_truth answers = {_short(answers)} is not a list of at least one answer")
    for index, answer in enumerate(answers):
        if not isinstance(answer, str) or not answer.strip():
            raise row.error(f"ground_truth answers[{index}] = {_short(answer)} is not text")
    return answers


def read_choice(ground_truth: Any, row: Row) -> Choice:
    """Ground truth of ``mcq``: ``{"letter", "text", "choices": [texts]}``; choice i has the i-th letter of A to Z.

    Raises:
        RowError: a letter outside the choices, or a text that is not the letter's choice.
    """
    value = read_mapping(ground_truth, row, ("letter", "text", "choices"))
    letter, text, choices = value["letter"], value["text"], value["choices"]
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26 or not all(_is_text(c) for c in choices):
        raise row.error(f"ground_truth choices = {_short(choices)} is not a list of 2 to 26 texts")
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    if not isinstance(letter, str) or letter.strip().upper() not in letters:
        raise row.error(f"ground_truth letter = {_short(letter)}; {len(choices)} choices have {', '.join(letters)}")
    letter = letter.strip().upper()
    own = choices[letters.index(letter)]
    if not isinstance(text, str) or text.strip().casefold() != own.strip().casefold():
        raise row.error(f"ground_truth text = {_short(text)}, but choice {letter} is {own!r}")
    return Choice(letter, text, choices)


def read_count(ground_truth: Any, row: Row) -> int:
    """Ground truth of ``count``: ``{"value": whole number from 0}``.

    Raises:
        RowError: anything else.
    """
    value = read_mapping(ground_truth, row, ("value",))["value"]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise row.error(f"ground_truth value = {_short(value)} is not a whole number from 0")
    return value


def read_math(ground_truth: Any, row: Row) -> str:
    """Ground truth of ``math``: ``{"answer": expression}``.

    Raises:
        RowError: anything else.
    """
    answer = read_mapping(ground_truth, row, ("answer",))["answer"]
    if not isinstance(answer, str) or not answer.strip():
        raise row.error(f"ground_truth answer = {_short(answer)} is not an expression")
    return answer


def is_number(value: Any) -> bool:
    """A finite int or float (not a bool)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
