"""Answers as raw data sets write them, split into aliases and choices when the data are converted."""

import re

from verl_mars.errors import SampleError
from verl_mars.tasks.mcq import McqTruth
from verl_mars.tasks.vqa import VqaTruth

_MAX_TEXT = 20_000
_CHOICE_LIST = "Choice list"
_LETTER = re.compile(r"(?:^|, ?)([A-Z])\. ?")


def split_aliases(answer: str) -> VqaTruth:
    """``"three or 3"`` as its aliases ``three`` and ``3``; brackets around an alias go.

    Raises:
        SampleError: no answer.
    """
    parts = [part.strip() for part in answer.split(" or ")]
    parts = [part[1:-1].strip() if part.startswith("(") and part.endswith(")") else part for part in parts]
    aliases = list(dict.fromkeys(part for part in parts if part))
    if not aliases:
        raise SampleError("answer", "the answer is empty")
    return VqaTruth(answers=aliases)


def split_choices(text: str) -> tuple[str, list[str]]:
    """The question and the choices of ``"... Choice list : [A. Travel, B. Arts, Crafts & Home, ...]"``.

    A comma inside a choice stays: a new choice begins only at the next letter in order.

    Raises:
        SampleError: no choice list, or letters that are not A, B, C, ... in order.
    """
    if len(text) > _MAX_TEXT:
        raise SampleError("choices", f"{len(text)} characters, at most {_MAX_TEXT} are read")
    question, found, rest = text.rpartition(_CHOICE_LIST)
    start, end = rest.find("["), rest.rfind("]")
    if not found or start < 0 or end < start:
        raise SampleError("choices", f"no 'Choice list : [A. ..., B. ...]' in {text[-80:]!r}")
    listed = rest[start + 1 : end]
    starts: list[re.Match[str]] = []
    for match in _LETTER.finditer(listed):
        if match.group(1) == chr(ord("A") + len(starts)):
            starts.append(match)
    if len(starts) < 2 or starts[0].start() != 0:
        raise SampleError("choices", f"choices A., B., ... expected in {listed[:80]!r}")
    ends = [match.start() for match in starts[1:]] + [len(listed)]
    choices = [listed[match.end() : stop].strip() for match, stop in zip(starts, ends, strict=True)]
    return question.strip(), choices


def choice_truth(letter: str, choices: list[str]) -> McqTruth:
    """A choice by its letter.

    Raises:
        SampleError: no such choice.
    """
    letter = letter.strip().rstrip(".").upper()
    position = ord(letter) - ord("A") if len(letter) == 1 else -1
    if not 0 <= position < len(choices):
        raise SampleError("choices", f"answer {letter!r} is none of {len(choices)} choices")
    return McqTruth(letter=letter, text=choices[position], choices=choices)


def list_choices(choices: list[str]) -> str:
    """Choices as a prompt lists them, a line each."""
    return "\n".join(f"{chr(ord('A') + number)}. {choice}" for number, choice in enumerate(choices))
