"""Task ``mcq``: one of several choices. ``acc`` is 1 for the right choice, else 0.

The choice may be named by its letter ("B", "(b)", "B.", "Option B"), by its whole text ("Travel"), or by both
("B. Travel", "Travel (B)"), which must then agree. Anything else, two letters among it, names no choice. Texts are
compared under the weakest normal form that keeps all choices apart (:func:`verl_mars.tasks.words.weakest_form`).
The authors look for the letter as a substring: "C. Lonely Planet" contains "a", and 60 of the 219 wrong choices of
their OCR-VQA file score as right.
"""

import re

from pydantic import Field, model_validator

from verl_mars.errors import SampleError
from verl_mars.fields import Fields
from verl_mars.tasks import words
from verl_mars.tasks.base import MAX_CHARS, Hints, ScoringSettings, Task, Text, Truth, Verdict

_LETTER = re.compile(r"[(\[<{]?([A-Za-z])[)\]>}]?[.:,;!]?")
_LETTER_FIRST = re.compile(r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])[.):,;/-])[.:,]?\s*(\S.*)", re.DOTALL)
_LETTER_WORD_FIRST = re.compile(r"([A-Zb-z])(?: - |[ \n])(\S.*)", re.DOTALL)  # a small a before a word is an article
_LETTER_LAST = re.compile(r"(.*\S) ?[(\[]([A-Za-z])[)\]]\.?", re.DOTALL)
_IS_RIGHT = re.compile(
    r" ?(?:\u9009?\u9879)?(?:(?:is|\u662f)? ?(?:the )?(?:correct|right|best|\u6b63\u786e\u7684?|\u5bf9\u7684?)"
    r"(?: (?:answer|option|choice|one)|\u7b54\u6848)?|is (?:the|my) (?:final )?(?:answer|choice|one)"
    r"|(?<=\u9879))\.?$",
    re.IGNORECASE,
)
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

    def score(self, answer: str, truth: McqTruth, info: Fields, settings: ScoringSettings) -> Verdict:
        """``pred`` is the letter that the answer names."""
        if len(answer) > MAX_CHARS:
            return Verdict(error=f"an answer of {len(answer)} characters is not a choice")
        texts = [words.tidy(choice) for choice in truth.choices]
        index = _named(words.unwrapped(words.tidy(answer)), texts)
        if index is None:
            return Verdict(error="the answer does not name exactly one choice")
        right = words.literal_form(texts[index]) == words.literal_form(texts[truth.index])
        return Verdict(float(right), chr(ord("A") + index))

    def from_plain(self, value: object, hints: Hints) -> object:
        """A letter; its choices are in the line, or in the text of the question."""
        if not isinstance(value, str):
            return value
        question = hints.question if isinstance(hints.question, str) else ""
        choices = hints.choices if isinstance(hints.choices, list) else choices_in(question)
        position = (
            _named(words.unwrapped(words.tidy(value)), [words.tidy(str(choice)) for choice in choices])
            if choices
            else None
        )
        if position is None:
            raise ValueError(
                f"ground truth {value!r} names none of {len(choices)} choices; give the choices as `choices` in the "
                "line, or the questions with --rows"
            )
        return {"letter": chr(ord("A") + position), "text": choices[position], "choices": choices}

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


def _named(text: str, choices: list[str]) -> int | None:
    """The index of the choice that a tidied answer names, None where it names none or contradicts itself."""
    strict = [words.folded_form(choice) for choice in choices]
    plain = [words.plain_form(choice) for choice in choices]
    form = words.weakest_form(choices)
    if text.endswith("?") and not any(choice.endswith("?") for choice in choices):
        return None  # a guess
    bare = words.without_lead(text)
    for said in dict.fromkeys((text, bare, _IS_RIGHT.sub("", bare))):
        letter = _LETTER.fullmatch(said)
        if letter:
            return _index(letter.group(1), choices)
        if strict.count(words.folded_form(said)) == 1:
            return strict.index(words.folded_form(said))
        if plain.count(words.plain_form(said)) == 1:  # "b >= 3" is a text, not letter b with one
            return plain.index(words.plain_form(said))
        match = _LETTER_FIRST.fullmatch(said) or _LETTER_WORD_FIRST.fullmatch(said)
        if match:
            *letters, rest = match.groups()
        else:
            match = _LETTER_LAST.fullmatch(said)
            rest, *letters = match.groups() if match else ("", None)
        forms = list(map(form, choices))
        if match:
            index = _index(next(filter(None, letters)), choices)
            if index is not None and form(words.unwrapped(rest)) == forms[index]:
                return index
        elif form(said) in forms:
            return forms.index(form(said))
    return None


def _index(letter: str, choices: list[str]) -> int | None:
    index = ord(letter.casefold()) - ord("a")
    return index if index < len(choices) else None
