"""Task ``count``: how many. ``acc`` is 1 for the exact number, else 0; ``abs_error`` is the distance to it.

The answer must name exactly one number, in digits or words, and may be a sentence ("There are three."). "None" and
"there are no ..." are 0. "3 or 4", "between 2 and 5", "more than 3" and "many" name no single number and are wrong.
"""

import re
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from verl_mars.fields import Fields
from verl_mars.tasks import words
from verl_mars.tasks.base import MAX_CHARS, Hints, Ratio, ScoringSettings, Task, Truth, Verdict, column
from verl_mars.tasks.numbers import as_number, chinese_number

_CHANGERS = frozenset(
    # bounds
    "more less fewer greater smaller least most over under above below up maximum minimum max min between within from "
    "until beyond exceed exceeds exceeding or almost nearly about around approximately roughly circa approx some "
    "another other additional near nowhere upwards excess close something hardly barely scarcely besides further extra "
    # negation
    "not no non never none neither nor without except excluding isn't aren't wasn't weren't don't doesn't can't cannot "
    "n't wrong incorrect false "
    # parts and multiples
    "dozen dozens score hundred hundreds thousand thousands million millions billion billions trillion pair pairs "
    "couple couples trio double triple twice thrice times fold half halves third thirds quarter quarters tenth "
    "tenths fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths hundredth "
    "squared cubed power root k m bn minus negative plus tens scores gross lakh lakhs crore crores ish odd "
    # hedges
    "maybe perhaps possibly probably might could may either unsure unclear unknown uncertain guess likely if but "
    "instead rather although however".split()
)
_AT_LEAST = re.compile(r"\b(?:at (?:least|most)|up to|or so|and (?:more|up|above|counting))\b")
_MARKED = re.compile(r"\d(?:'|\"|\?| ?-ish\b)|\?$|\d ?[x\u00d7*] ?\d|\d,\d(?!\d\d(?!\d))|\bone of\b")
"""A number in feet or minutes of arc, one in doubt, a product, two around a comma, one of several."""
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

    def score(self, answer: str, truth: CountTruth, info: Fields, settings: ScoringSettings) -> Verdict:
        """``pred`` is the number that the answer names."""
        if len(answer) > MAX_CHARS:
            return Verdict(error=f"an answer of {len(answer)} characters is not a number")
        number = only_number(words.without_lead(words.unwrapped(words.tidy(answer))))
        if number is None:
            return Verdict(error="the answer does not name exactly one number")
        return Verdict(float(number == truth.value), f"{number:g}", details={"abs_error": abs(number - truth.value)})

    def metrics(self, results: Sequence[Fields]) -> dict[str, Ratio]:
        """``mean abs error`` over the rows with a number."""
        named = np.array([result["abs_error"] is not None for result in results], dtype=np.float64)
        return {"mean abs error": (column(results, "abs_error"), named)}

    def from_plain(self, value: object, hints: Hints) -> object:
        """A number, or text such as "three or 3"."""
        numbers: set[object] = {value}
        if isinstance(value, str):
            numbers = {only_number(words.unwrapped(words.tidy(part))) for part in words.alternatives(value)}
        number = numbers.pop() if len(numbers) == 1 else None
        if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
            raise ValueError(f"ground truth {value!r} is not one whole number")
        return {"value": int(number)}

    def published(self, truth: CountTruth) -> str:
        return str(truth.value)


def only_number(text: str) -> float | None:
    """The one number that a tidied answer names and nothing changes; None where there is none.

    Bounds, negations, multiples, hedges and signs beside a number change it: "more than 3", "not 3", "3 dozen", "3%".
    "None" and "there are no ..." are 0.
    """
    flat = " ".join(text.split()).casefold()
    if not flat.isascii():
        chinese = chinese_number(flat)
        if chinese is not None:
            return chinese
    tokens = words.tokens(text)
    numbers = {number for number in map(as_number, tokens) if number is not None}
    if not numbers:
        zero = _ZERO.match(flat)
        return 0.0 if zero and not _hedged(words.tokens(flat[zero.end() :])) else None
    signs = any(not word[-1:].isalnum() and word != "=" for word in tokens)
    digits = any(word[:1].isdigit() and as_number(word) is None for word in tokens)
    if len(numbers) > 1 or signs or digits or _MARKED.search(flat) or _hedged(tokens) or _AT_LEAST.search(flat):
        return None
    return numbers.pop()


def _hedged(tokens: list[str]) -> bool:
    return any(word in _CHANGERS or word.endswith("n't") for word in tokens)
