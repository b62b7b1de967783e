"""Task ``vqa``: a short free answer against a list of accepted answers.

``acc`` is 1 or 0. An answer is right where its normal form (:func:`verl_mars.tasks.words.normal_form`: case,
punctuation, articles and number words made alike) equals that of an accepted answer, with or without a lead-in such as
"the answer is". Two kinds of questions allow a sentence too, because its verdict can be read without guessing:

- yes/no: the answer starts with "yes" or "no" followed by punctuation, or ends with it ("..., so yes"), and its two
  ends do not contradict each other;
- numbers: the answer holds exactly one number (see :mod:`verl_mars.tasks.count`).

Every answer has at most one verdict, so hedging ("yes or no", "3 or 4") never pays. The authors ask whether one string
contains the other, which gives full marks to an empty answer, to "not sure" for "no" and to "3" for "thirteen".
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from verl_mars.tasks import words
from verl_mars.tasks.base import MAX_CHARS, Hints, ScoringSettings, Task, Text, Truth, Verdict
from verl_mars.tasks.count import only_number

_FIRST = re.compile(r"(yes|no)(?=$|[,.;:!])")
_LAST = re.compile(r"(?:^|[,.;:!] |\bso |\bis |\bis: )(yes|no)[.!]?$")


class VqaTruth(Truth):
    """Every text that counts as the right answer."""

    answers: list[Text] = Field(min_length=1)

    def in_words(self) -> str:
        return self.answers[0].strip().lower()


class Vqa(Task[VqaTruth]):
    """A short free answer."""

    name = "vqa"
    truth = VqaTruth
    example = '{"answers": ["three", "3"]}'
    instruction = "The answer is a word or a short phrase."

    def score(self, answer: str, truth: VqaTruth, info: Mapping[str, Any], settings: ScoringSettings) -> Verdict:
        """``pred`` is the answer's normal form. Cost: linear in the answer."""
        if len(answer) > MAX_CHARS:
            return Verdict(error=f"an answer of {len(answer)} characters is not a short answer")
        tidied = words.tidy(answer)
        form = words.normal_form(tidied)
        if not form:
            accepted = {words.tidy(text) for text in truth.answers if not words.normal_form(words.tidy(text))}
            right = tidied in accepted and bool(tidied)
            return Verdict(float(right), tidied, "" if tidied else "the answer is blank")
        forms = {words.normal_form(words.tidy(text)) for text in truth.answers}
        bare = words.normal_form(words.without_lead(tidied))
        if form in forms:
            return Verdict(1.0, form)
        if bare in forms and bare:
            return Verdict(1.0, bare)
        if forms <= {"yes", "no"}:
            verdict = yes_or_no(tidied)
            return Verdict(float(verdict in forms), verdict or form)
        if all(words.as_number(accepted) is not None for accepted in forms):
            number = only_number(tidied)
            right = number is not None and number in {words.as_number(accepted) for accepted in forms}
            return Verdict(float(right), form if number is None else f"{number:g}")
        return Verdict(0.0, bare or form)

    def from_plain(self, value: Any, hints: Hints) -> Any:
        """A text such as "three or 3", or a list of answers."""
        return {"answers": words.alternatives(value) if isinstance(value, str) else value}

    def published(self, truth: VqaTruth) -> str:
        return " or ".join(truth.answers)


def yes_or_no(tidied: str) -> str | None:
    """The verdict of an answer to a yes/no question: "yes", "no" or None."""
    first, last = _FIRST.match(tidied), _LAST.search(tidied)
    verdicts = {match.group(1) for match in (first, last) if match is not None}
    return verdicts.pop() if len(verdicts) == 1 else None
