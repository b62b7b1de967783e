"""Boxes and labels out of an answer's text.

Read: a JSON list of ``{"bbox_2d": [x1, y1, x2, y2], "label": text}``, one such object, several after one another, bare
lists of four numbers; inside a code fence (the last one counts) or without; with typographic or single quotes; with
trailing commas; broken off at the end (what is complete counts). Never NaN, Infinity or a bool for a number.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

MAX_CHARS = 200_000
MAX_BOXES = 2_000
_BUDGET = 200_000  # characters that failed attempts at decoding may cost in one answer
_START = re.compile(r"[\[{]")
_DOUBLE = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02"
_SINGLE = "\u2018\u2019\u201a\u201b\u2032\uff07"
_QUOTES = str.maketrans(dict.fromkeys(_DOUBLE, '"') | dict.fromkeys(_SINGLE, "'"))
# JSON's NaN and Infinity are not numbers; whole numbers become floats at once, so that a million digits cost nothing.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=lambda name: None)
_FAILURES = (ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Box:
    """One predicted box; ``corners`` is None where it is not four finite numbers."""

    corners: tuple[float, float, float, float] | None
    label: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer to a grounding question says."""

    boxes: list[Box]
    well_formed: bool
    """The answer is one JSON value without repair (but for typographic quotes), and each item a box with a label."""

    problem: str
    """Why there is nothing to score; "" where there is (an empty JSON list says: no object)."""


def read_boxes(answer: str) -> Answer:
    """The boxes of an answer, in the order they stand in.

    Cost: linear in the answer; deep nesting, endless numbers and unclosed brackets included. An answer above
    ``MAX_CHARS`` characters or ``MAX_BOXES`` boxes is not read and says so.
    """
    if len(answer) > MAX_CHARS:
        return Answer([], False, f"an answer of {len(answer)} characters is longer than {MAX_CHARS}")
    text, fences = _inside_fence(answer.translate(_QUOTES))
    text = text.strip()
    values, whole = _values(text)
    if not values and "'" in text:
        values, whole = _values(text.replace("'", '"'))[0], False
    if not values:
        return Answer([], False, "no JSON in the answer")
    items = [item for value in values for item in (value if _is_list_of_items(value) else [value])]
    if len(items) > MAX_BOXES:
        return Answer([], False, f"{len(items)} boxes in one answer; at most {MAX_BOXES} are read")
    boxes = [_read_box(item) for item in items]
    complete = all(box.corners is not None and box.label is not None for box in boxes)
    return Answer(boxes, whole and fences <= 1 and complete, "")


def _inside_fence(text: str) -> tuple[str, int]:
    """The text of the last code fence (an unclosed one runs to the end) and how many fences there are."""
    parts = text.split("```")
    if len(parts) == 1:
        return text, 0
    inside = parts[-1] if len(parts) % 2 == 0 else parts[-2]
    inside = inside.lstrip()
    return (inside[4:] if inside[:4].lower() == "json" else inside), len(parts) // 2


def _values(text: str) -> tuple[list[Any], bool]:
    """The JSON lists and objects in ``text`` in order, and whether the text is exactly one of them."""
    try:
        value = _DECODER.decode(text)
    except _FAILURES:
        pass
    else:
        return ([value], True) if isinstance(value, list | dict) else ([], False)
    values: list[Any] = []
    position = spent = 0
    while spent <= _BUDGET and len(values) <= MAX_BOXES:
        start = _START.search(text, position)
        if start is None:
            break
        try:
            value, position = _DECODER.raw_decode(text, start.start())
            values.append(value)
        except _FAILURES as error:
            # Nesting too deep has cost about as much as reading ten thousand characters.
            spent += max(error.pos - start.start(), 1_000) if isinstance(error, json.JSONDecodeError) else 10_000
            if start.group() == "[":
                position = start.end()
            else:  # nothing inside a broken object is a box of its own
                closed = text.find("}", start.end())
                position = len(text) if closed < 0 else closed + 1
    return values, False


def _is_list_of_items(value: Any) -> bool:
    """A list of boxes, as opposed to one box given as a list of four numbers."""
    return isinstance(value, list) and not (len(value) == 4 and all(isinstance(n, float) for n in value))


def _read_box(item: Any) -> Box:
    if not isinstance(item, dict):
        return Box(_corners(item), None)
    label = item.get("label")
    corners = item["bbox_2d"] if "bbox_2d" in item else item.get("bbox")
    if isinstance(corners, str):
        try:
            corners = _DECODER.decode(corners)
        except _FAILURES:
            corners = None
    return Box(_corners(corners), label if isinstance(label, str) else None)


def _corners(value: Any) -> tuple[float, float, float, float] | None:
    if not (isinstance(value, list) and len(value) == 4):
        return None
    if not all(isinstance(number, float) and math.isfinite(number) for number in value):
        return None
    return value[0], value[1], value[2], value[3]
