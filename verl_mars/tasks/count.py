"""Task ``count``: how many. ``acc`` is 1 for the exact number, else 0; ``abs_error`` is the distance to it.

The answer must name exactly one number, in digits or words, and may be a sentence ("There are three."). "None" and
"there are no ..." are 0. "3 or 4", "between 2 and 5" and "many" name no single number and are wrong.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from verl_mars.tasks import words
from verl_mars.tasks.base import MAX_CHARS, Hints, Ratio, ScoringSettings, Task, Truth, Verdict, column

_ZERO = re.compile(r"^(?:(?:none|nothing)\b|(?:there )?(?:is|are) (?:no|none|not any)\b)")


class CountTruth(Truth):
    """A number of things."""

    value: int = Field(ge=0, strict=True)

    def in_words(self) -> str:
        return str(self.value)


class Count(Task[CountTruth]):
    """How many."""

    name = "count"
    truth = CountTruth
    example = '{"value": 3}'
    instruction = "The answer is a whole number."
    keys = ("abs_error",)

    def score(self, answer: str, truth: CountTruth, info: Mapping[str, Any], settings: ScoringSettings) -> Verdict:
        """``pred`` is the number that the answer names."""
        if len(answer) > MAX_CHARS:
            return Verdict(error=f"an answer of {len(answer)} characters is not a number")
        number = only_number(words.tidy(answer))
        if number is None:
            return Verdict(error="the answer does not name exactly one number")
        return Verdict(float(number == truth.value), f"{number:g}", details={"abs_error": abs(number - truth.value)})

    def metrics(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        """``mean abs error`` over the rows with a number."""
        named = np.array([result["abs_error"] is not None for result in results], dtype=np.float64)
        return {"mean abs error": (column(results, "abs_error"), named)}

    def from_plain(self, value: Any, hints: Hints) -> Any:
        """A number, or text such as "three or 3"."""
        if isinstance(value, str):
            numbers = {words.as_number(words.normal_form(words.tidy(part))) for part in words.alternatives(value)}
            number = numbers.pop() if len(numbers) == 1 else None
            if number is None or number != int(number):
                raise ValueError(f"ground truth {value!r} is not one whole number")
            value = int(number)
        return {"value": value}

    def published(self, truth: CountTruth) -> str:
        return str(truth.value)


def only_number(tidied: str) -> float | None:
    """The one number that a tidied answer names; None where it names none, or two that differ."""
    found = set(words.numbers_in(words.tokens(tidied)))
    if not found and _ZERO.match(tidied):
        return 0.0
    return found.pop() if len(found) == 1 else None
