"""Task ``mcq``: one of several choices. ``acc`` is 1 for the right choice, else 0.

The choice may be named by its letter ("B", "(b)", "B.", "Option B"), by its whole text ("Travel"), or by both
("B. Travel", "Travel (B)"), which must then agree. Anything else, two letters among it, names no choice.
The authors look for the letter as a substring: "C. Lonely Planet" contains "a", and 60 of the 219 wrong choices of
their OCR-VQA file score as right.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from verl_mars.errors import SampleError
from verl_mars.tasks import words
from verl_mars.tasks.base import MAX_CHARS, Hints, ScoringSettings, Task, Text, Truth, Verdict

_LETTER = re.compile(r"\(?([a-z])\)?[.:]?|\[([a-z])\]")
_LETTER_FIRST = re.compile(r"\(?([a-z])[.):]\)?[.:]?\s*(\S.*)", re.DOTALL)
_LETTER_WORD_FIRST = re.compile(r"([a-z]) (\S.*)", re.DOTALL)
_LETTER_LAST = re.compile(r"(.*\S) ?\(([a-z])\)\.?", re.DOTALL)
_CHOICES = re.compile(r"\[([^\[\]]{1,2000})\]")
_LETTERED = re.compile(r"(?:^|, ?)([A-Z])\. ?")


class McqTruth(Truth):
    """A choice by letter and by text; ``choices`` in the order of their letters A, B, C, ..."""

    letter: str = Field(pattern="^[A-Z]$")
    text: Text
    choices: list[Text] = Field(min_length=2, max_length=26)

    @model_validator(mode="after")
    def _letter_names_text(self) -> "McqTruth":
        if self.index >= len(self.choices):
            last = chr(ord("A") + len(self.choices) - 1)
            raise SampleError("choices", f"letter {self.letter!r} is none of the choices' A to {last}")
        if self.choices[self.index] != self.text:
            raise SampleError(
                "choices", f"choice {self.letter} is {self.choices[self.index]!r}, but text is {self.text!r}"
            )
        return self

    @property
    def index(self) -> int:
        """Position of the right choice."""
        return ord(self.letter) - ord("A")

    def in_words(self) -> str:
        return self.letter


class Mcq(Task[McqTruth]):
    """One of several choices."""

    name = "mcq"
    truth = McqTruth
    example = '{"letter": "B", "text": "Travel", "choices": ["not the same", "Travel"]}'
    instruction = "The answer is the letter of one choice."

    def score(self, answer: str, truth: McqTruth, info: Mapping[str, Any], settings: ScoringSettings) -> Verdict:
        """``pred`` is the letter that the answer names."""
        if len(answer) > MAX_CHARS:
            return Verdict(error=f"an answer of {len(answer)} characters is not a choice")
        forms = [words.normal_form(words.tidy(choice)) or words.tidy(choice) for choice in truth.choices]
        index = _named(words.without_lead(words.tidy(answer)), forms)
        if index is None:
            return Verdict(error="the answer does not name exactly one choice")
        return Verdict(float(forms[index] == forms[truth.index]), chr(ord("A") + index))

    def from_plain(self, value: Any, hints: Hints) -> Any:
        """A letter; its choices are in the line, or in the text of the question."""
        if not isinstance(value, str):
            return value
        question = hints.question if isinstance(hints.question, str) else ""
        choices = hints.choices if isinstance(hints.choices, list) else choices_in(question)
        letter = value.strip().strip("().").upper()
        position = ord(letter) - ord("A") if len(letter) == 1 else -1
        if not 0 <= position < len(choices):
            raise ValueError(
                f"ground truth {value!r} names none of {len(choices)} choices; give the choices as `choices` in the "
                "line, or the questions with --rows"
            )
        return {"letter": letter, "text": choices[position], "choices": choices}

    def published(self, truth: McqTruth) -> str:
        return truth.letter


def choices_in(question: str) -> list[str]:
    """The choices of "... [A. not the same, B. Travel, ...]"; empty where there is no such list from A on."""
    for match in reversed(list(_CHOICES.finditer(question))):
        inside = match.group(1)
        marks = list(_LETTERED.finditer(inside))
        if [mark.group(1) for mark in marks] == [chr(ord("A") + i) for i in range(len(marks))] and len(marks) > 1:
            ends = [mark.start() for mark in marks[1:]] + [len(inside)]
            return [inside[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    return []


def _named(text: str, forms: list[str]) -> int | None:
    """The index of the choice that a tidied answer names, None where it names none or contradicts itself."""
    letter = _LETTER.fullmatch(text)
    if letter:
        return _index(letter.group(1) or letter.group(2), forms)
    whole = words.normal_form(text) or text
    if whole in forms:
        return forms.index(whole)
    for pattern, letter_group, text_group in (
        (_LETTER_FIRST, 1, 2),
        (_LETTER_WORD_FIRST, 1, 2),
        (_LETTER_LAST, 2, 1),
    ):
        match = pattern.fullmatch(text)
        if match:
            index = _index(match.group(letter_group), forms)
            rest = match.group(text_group)
            return index if index is not None and (words.normal_form(rest) or rest) == forms[index] else None
    return None


def _index(letter: str, forms: list[str]) -> int | None:
    index = ord(letter) - ord("a")
    return index if index < len(forms) else None
