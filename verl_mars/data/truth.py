"""Ground truths, one model a task. A row holds them as JSON text, so that every task has one Arrow type."""

import json
import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from verl_mars.data.explain import explain
from verl_mars.data.faults import SampleError

_MAX_JSON = 1_000_000
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


def _plain_text(value: str) -> str:
    if not value.strip():
        raise SampleError("answer", "an answer is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can name one: \ud800
        raise SampleError("answer", f"{value[:60]!r} holds half a character") from error
    return value


Coordinate = Annotated[float, AfterValidator(_finite)]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
Text = Annotated[str, AfterValidator(_plain_text)]


class Truth(BaseModel):
    """What an answer is scored against; written to a row by :meth:`to_json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """The text for ``reward_model.ground_truth``: the same for the same truth, whole floats as integers."""
        return _ENCODER.encode(_plain(self.model_dump()))


class GroundingTruth(Truth):
    """Boxes [x1, y1, x2, y2] in original pixels of image ``frame``, whose size is ``size`` = (width, height).

    No box at all is a truth too: nothing of the kind is to be seen.
    """

    boxes: list[Box]
    labels: list[Text]
    frame: int = Field(ge=0)
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]

    @model_validator(mode="after")
    def _boxes_fit(self) -> "GroundingTruth":
        if len(self.boxes) != len(self.labels):
            raise SampleError(
                "box", f"{len(self.boxes)} boxes but {len(self.labels)} labels: one label a box is needed"
            )
        width, height = self.size
        for number, box in enumerate(self.boxes):
            x1, y1, x2, y2 = box
            shown = [round(value, 3) for value in box]
            if x1 == x2 or y1 == y2:
                raise SampleError("zero_area", f"box {number} {shown} has no area")
            if x1 > x2 or y1 > y2:
                raise SampleError("box", f"box {number} {shown}: x1 < x2 and y1 < y2 are needed")
            if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                raise SampleError("box", f"box {number} {shown} leaves the image of {width} x {height} pixels")
        return self


class VqaTruth(Truth):
    """Every text that counts as the right answer."""

    answers: list[Text] = Field(min_length=1)


class McqTruth(Truth):
    """A choice by letter and by text; ``choices`` in the order of their letters A, B, C, ..."""

    letter: str = Field(pattern="^[A-Z]$")
    text: Text
    choices: list[Text] = Field(min_length=2, max_length=26)

    @model_validator(mode="after")
    def _letter_names_text(self) -> "McqTruth":
        position = ord(self.letter) - ord("A")
        if position >= len(self.choices):
            last = chr(ord("A") + len(self.choices) - 1)
            raise SampleError("choices", f"letter {self.letter!r} is none of the choices' A to {last}")
        if self.choices[position] != self.text:
            raise SampleError(
                "choices", f"choice {self.letter} is {self.choices[position]!r}, but text is {self.text!r}"
            )
        return self


class CountTruth(Truth):
    """A number of things."""

    value: int = Field(ge=0, strict=True)


class MathTruth(Truth):
    """A mathematical expression."""

    answer: Text


TRUTHS: dict[str, type[Truth]] = {
    "grounding": GroundingTruth,
    "vqa": VqaTruth,
    "mcq": McqTruth,
    "count": CountTruth,
    "math": MathTruth,
}
"""Task -> its ground truth."""


def parse_truth(task: str, text: str) -> Truth:
    """The ground truth in ``text``.

    Raises:
        SampleError: unknown task, no JSON, a key or value that the task does not know.
    """
    if task not in TRUTHS:
        raise SampleError("task", f"task {task!r} is unknown, allowed: {', '.join(TRUTHS)}")
    if len(text) > _MAX_JSON:
        raise SampleError("ground_truth", f"{len(text)} characters long, at most {_MAX_JSON} are allowed")
    try:
        return TRUTHS[task].model_validate(_DECODER.decode(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise SampleError("ground_truth", f"{text[:80]!r} is no JSON text ({error}); {_example(task)}") from error
    except SampleError:
        raise
    except ValueError as error:
        raise explain(error, "ground_truth", _example(task), TRUTHS[task]) from error


def _refuse_constant(name: str) -> None:
    raise SampleError("ground_truth", f"{name} is not a finite number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


_EXAMPLES = {
    "grounding": '{"boxes": [[x1, y1, x2, y2]], "labels": ["person"], "frame": 0, "size": [W, H]}',
    "vqa": '{"answers": ["three", "3"]}',
    "mcq": '{"letter": "B", "text": "Travel", "choices": ["not the same", "Travel"]}',
    "count": '{"value": 3}',
    "math": '{"answer": "1/2"}',
}


def _example(task: str) -> str:
    return f"{task} needs {_EXAMPLES[task]}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
