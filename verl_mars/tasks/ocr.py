"""Task ``ocr``: text that stands in the image, against a list of accepted readings.

``acc`` is the ANLS of the answer (average normalised Levenshtein similarity, arXiv 1907.00490, equation 1)::

    acc = max over readings of s = 1 - NL(answer, reading),    0 where s < 0.5

NL is the edit distance over the length of the longer text. Case and white space are made alike, as in the published
metric; every other sign counts, since what is read may differ in one sign only.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from verl_mars.fields import Fields
from verl_mars.tasks import words
from verl_mars.tasks.base import MAX_CHARS, Hints, Ratio, ScoringSettings, Task, Text, Truth, Verdict, column

THRESHOLD = 0.5
"""A similarity below this is another text, not a misread one."""


class OcrTruth(Truth):
    """Every reading that counts as right."""

    answers: list[Text] = Field(min_length=1)

    def in_words(self) -> str:
        return self.answers[0].strip()


class Ocr(Task[OcrTruth]):
    """Text in the image."""

    name = "ocr"
    truth = OcrTruth
    example = '{"answers": ["Exit 42"]}'
    instruction = "The answer is the text as it stands in the image."

    def score(self, answer: str, truth: OcrTruth, info: Fields, settings: ScoringSettings) -> Verdict:
        """``pred`` is the answer in lower case, spaces made alike."""
        if len(answer) > MAX_CHARS:
            return Verdict(error=f"an answer of {len(answer)} characters; at most {MAX_CHARS} are read")
        readings = {_form(text) for text in truth.answers}
        bare = _form(words.unwrapped(words.tidy(answer)))
        if not bare:
            return Verdict(error="the answer is blank")
        return Verdict(max(similarity(text, reading) for text in {bare, _form(answer)} for reading in readings), bare)

    def metrics(self, results: Sequence[Fields]) -> dict[str, Ratio]:
        """``exact``: share of rows that were read without a mistake; their mean ``acc`` is the ANLS."""
        return {"exact": ((column(results, "acc") == 1.0).astype(np.float64), np.ones(len(results)))}

    def from_plain(self, value: object, hints: Hints) -> object:
        """A text, or a list of texts."""
        return {"answers": value if isinstance(value, list) else [str(value)]}


def _form(text: str) -> str:
    return words.literal_form(words.tidy(text)).casefold()


def similarity(text: str, reading: str) -> float:
    """1 - NL, 0 below the threshold."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(text, reading, score_cutoff=THRESHOLD))
