"""Boxes and labels out of an answer's text.

Read: a JSON list of ``{"bbox_2d": [x1, y1, x2, y2], "label": text}``, one such object, several after one another, bare
lists of four numbers; inside a code fence (the last one that holds something counts), ``\\boxed{}`` or without. What is
nearly JSON is read too, but does not keep the form: Python's quotes, trailing commas, full-width punctuation, prose
around it, a list broken off at the end (what is complete counts). Never NaN, Infinity or a bool for a number.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import TypeGuard

from verl_mars.fields import FieldDict

MAX_CHARS = 200_000
MAX_BOXES = 2_000
_MAX_NEARLY_JSON = 20_000
"""Characters of an answer that is read although it is no JSON; more are read as far as they are JSON."""
_BUDGET = 200_000  # characters that failed attempts at decoding may cost in one answer
_START = re.compile(r"[\[{]")
_DOUBLE = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02"
_SINGLE = "\u2018\u2019\u201a\u201b\u2032\uff07"
_QUOTES = str.maketrans(dict.fromkeys(_DOUBLE, '"') | dict.fromkeys(_SINGLE, "'"))
_PUNCTUATION = str.maketrans("\uff1a\uff0c\uff3b\uff3d\uff5b\uff5d\u3001", ":,[]{},")
_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[\[\](){}:,])|"(?P<double>(?:[^"\\]|\\.)*)"|[uUrRbB]?'(?P<single>(?:[^'\\]|\\.|(?<=\w)'(?=\w))*)'"""
    r"|(?P<number>[-+]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][-+]?\d{1,4})?)(?![\w.])|(?P<word>[^\s\[\](){}:,]+))",
    re.DOTALL,
)
_BOXED = re.compile(r"\\boxed\s?\{|\\[\[\]]")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)|\"", re.DOTALL)
_LITERALS = frozenset({"null", "None", "true", "false", "True", "False", "NaN", "nan", "Infinity", "inf"})
_ELLIPSES = frozenset({"...", "..", "\u2026"})
# JSON's NaN and Infinity are not numbers; whole numbers become floats at once, so that a million digits cost nothing.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=lambda name: None)
_FAILURES = (ValueError, RecursionError)
BOX_KEYS = ("bbox_2d", "bbox", "box_2d")


@dataclass(frozen=True, slots=True)
class Box:
    """One predicted box; ``corners`` is None where it is not four finite numbers."""

    corners: tuple[float, float, float, float] | None
    label: str | None

    def y_first(self) -> "Box":
        """The box whose corners were given as (y1, x1, y2, x2)."""
        if self.corners is None:
            return self
        y1, x1, y2, x2 = self.corners
        return Box((x1, y1, x2, y2), self.label)


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
    ``MAX_CHARS`` characters or ``MAX_BOXES`` boxes is not read.
    """
    if len(answer) > MAX_CHARS:
        return Answer([], False, f"an answer of {len(answer)} characters is longer than {MAX_CHARS}")
    text, fences = _inside_fence(answer.translate(_QUOTES))
    text = text.strip()
    try:
        value = _DECODER.decode(text)
    except _FAILURES:
        values, whole = _values_in(_BOXED.sub(" ", _unescaped(text))), False
    else:
        whole = isinstance(value, list | dict)
        values = [value] if whole else _values_in(value) if isinstance(value, str) else []
    values = [_items_of(value) for value in values]
    if not values:
        return Answer([], False, "no JSON in the answer")
    items = [item for value in values for item in (value if _is_list_of_items(value) else [value])]
    if len(items) > MAX_BOXES:
        return Answer([], False, f"{len(items)} boxes in one answer; at most {MAX_BOXES} are read")
    boxes = [_read_box(item) for item in items]
    complete = all(box.corners is not None and box.label is not None for box in boxes)
    return Answer(boxes, whole and fences <= 1 and complete, "")


def _inside_fence(text: str) -> tuple[str, int]:
    """The text of the last code fence that is not empty (an unclosed one runs to the end), and how many there are."""
    parts = text.split("```")
    if len(parts) == 1:
        return text, 0
    inside = [part.lstrip() for part in parts[1::2]]
    inside = [part[4:] if part[:4].lower() == "json" else part for part in inside]
    filled = next((part for part in reversed(inside) if part.strip()), None)
    return " ".join(parts[::2]) if filled is None else filled, len(parts) // 2


def _unescaped(text: str) -> str:
    """A text whose quotes are all escaped, as in a string of JSON inside another, with plain quotes."""
    return text.replace('\\"', '"') if '\\"' in text and text.count('"') == text.count('\\"') else text


def _items_of(value: object) -> object:
    """The list of boxes in an object that is no box, or in a list around it: ``{"objects": [...]}``, ``[[...]]``."""
    if isinstance(value, dict) and not any(key in value for key in BOX_KEYS):
        lists = [inner for inner in value.values() if isinstance(inner, list) and _holds_box(inner)]
        return lists[0] if len(lists) == 1 else value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        return value[0] if any(isinstance(item, dict) for item in value[0]) else value
    return value


def _values_in(text: str) -> list[object]:
    """The values of a text that is no JSON: those in nearly JSON if there are boxes, else what is JSON in it.

    In prose, brackets may hold anything ("as in figure [2]"): there only values with a box in them count. An empty list
    counts where it is all there is.
    """
    if len(text) <= _MAX_NEARLY_JSON:
        values = _nearly_json(text)
    else:
        values = _json_in(text)
    with_boxes = [value for value in values if _holds_box(value)]
    if with_boxes or not values:
        return with_boxes
    return values if text[:1] in "[{" and text[:1] else []


def _holds_box(value: object) -> bool:
    if isinstance(value, dict):
        return any(key in value for key in BOX_KEYS)
    if not isinstance(value, list):
        return False
    return not _is_list_of_items(value) or any(
        isinstance(item, dict) and _holds_box(item) or isinstance(item, list) and len(item) == 4 for item in value
    )


def _json_in(text: str) -> list[object]:
    """The JSON lists and objects in ``text`` in order."""
    values: list[object] = []
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
            else:  # nothing inside a broken object is a separate box
                closed = text.find("}", start.end())
                position = len(text) if closed < 0 else closed + 1
    return values


def _nearly_json(text: str) -> list[object]:
    """The lists and objects in a text that is nearly JSON, outermost first; an object that never closes is no value.

    Inside of them a Python tuple is a list; outside, round brackets are prose.

    One pass over the tokens with an explicit stack, so that no nesting is too deep and no text raises.
    """
    roots: list[object] = []
    stack: list[tuple[str, list[object]]] = []
    for match in _TOKEN.finditer(text.translate(_PUNCTUATION)):
        mark = match.group("mark")
        if mark in ("(", ")"):
            if not stack:
                continue
            mark = "[" if mark == "(" else "]"
        if mark in ("[", "{"):
            stack.append((mark, []))
        elif mark in ("]", "}"):
            while stack:
                opened, items = stack.pop()
                value = _object(items) if opened == "{" else [item for item in items if item != ":"]
                if opened == ("[" if mark == "]" else "{"):
                    (stack[-1][1] if stack else roots).append(value)
                    break
                if opened == "[":  # a list that an object closes
                    (stack[-1][1] if stack else roots).append(value)
        elif stack and mark != "," and match.group("word") not in _ELLIPSES:
            stack[-1][1].append(_scalar(match))
    for opened, items in stack:  # broken off: complete objects inside lists count
        if opened == "[":
            roots.extend(item for item in items if isinstance(item, dict | list))
    return roots


def _scalar(match: re.Match[str]) -> object:
    if match.group("mark"):
        return ":"
    if match.group("number"):
        return float(match.group("number"))
    text = match.group("double") if match.group("double") is not None else match.group("single")
    if text is None:  # a bare word: a key or a label without quotes, or true, None, NaN
        return None if match.group("word") in _LITERALS else match.group("word")
    try:
        return json.loads(f'"{_ESCAPE.sub(_json_escape, text)}"', strict=False) if "\\" in text else text
    except ValueError:
        return text


def _json_escape(match: re.Match[str]) -> str:
    """An escape of Python, or a quote that its string need not escape, as JSON has it."""
    said = match.group(1)
    if said is None:
        return '\\"'
    return f"\\u00{said[1:]}" if said[0] == "x" and len(said) == 3 else "'" if said == "'" else match.group()


def _object(items: list[object]) -> FieldDict:
    """Keys and values around their colons; several texts after one colon are one, what stands elsewhere is left out."""
    places = [place for place, item in enumerate(items) if item == ":" and 0 < place < len(items) - 1]
    ends = [place - 1 for place in places[1:]] + [len(items)]
    pairs = {}
    for place, end in zip(places, ends, strict=False):
        key, values = items[place - 1], items[place + 1 : end]
        if isinstance(key, str) and values:
            texts = [value for value in values if isinstance(value, str)]
            pairs[key] = " ".join(texts) if len(texts) == len(values) > 1 else values[0]
    return pairs


def box_of(item: FieldDict) -> object:
    """The four numbers of an object, whichever of the usual keys they stand under."""
    return next((item[key] for key in BOX_KEYS if key in item), None)


def _is_list_of_items(value: object) -> TypeGuard[list[object]]:
    """A list of boxes, as opposed to one box given as a list of four numbers."""
    return isinstance(value, list) and not (len(value) == 4 and all(isinstance(n, float) for n in value))


def _read_box(item: object) -> Box:
    if not isinstance(item, dict):
        return Box(_corners(item), None)
    label = item.get("label")
    corners = box_of(item)
    if isinstance(corners, str):
        try:
            corners = _DECODER.decode(corners)
        except _FAILURES:
            corners = None
    return Box(_corners(corners), label if isinstance(label, str) else None)


def _corners(value: object) -> tuple[float, float, float, float] | None:
    if not (isinstance(value, list) and len(value) == 4):
        return None
    if not all(isinstance(number, float) and math.isfinite(number) for number in value):
        return None
    return value[0], value[1], value[2], value[3]
