"""Answers as raw data sets write them, split into aliases and choices when the data are converted."""

import re

from verl_mars.data.sample import Findings
from verl_mars.errors import SampleError
from verl_mars.tasks.mcq import McqTruth
from verl_mars.tasks.vqa import VqaTruth

_MAX_TEXT = 20_000
_CHOICE_LIST = "Choice list"
_LETTER = re.compile(r"(?:^|, ?)([A-Z])\. ?")
_LETTERED = re.compile(r"^[ \t]*\(?([A-Z])[).:\u3001\uff0e] ?(.*)$", re.MULTILINE)
_OWN_LETTER = re.compile(r"^\s*\(?([A-Za-z])\)?[).:\u3001\uff0e]\s*(?=\S)|^\s*\(([A-Za-z])\)\s*(?=\S)")
_ONE_LETTER = re.compile(r"^\(?([A-Za-z])\)?[).:]?$")
_LETTER_AND_TEXT = re.compile(r"^\(?([A-Z])[).:\u3001\uff0e]\s*(.+)$", re.DOTALL)
_HEADING = re.compile(r"\s*(?:choices|options|candidates)\s*:?\s*$", re.IGNORECASE)
_ANSWER = re.compile(r"<(answer|ans)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_STRAY_TAG = re.compile(r"</?(?:answer|ans)>", re.IGNORECASE)
_FINAL = re.compile(r"^\s*(?:####|(?:the )?(?:final )?answer(?: is|:)) *(?=\S)", re.IGNORECASE)
_MATH = re.compile(r"\$\$?([^$]+)\$\$?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


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


def letter_of(answer: str) -> str | None:
    """The letter of ``B``, ``(B)``, ``B.`` or ``B. Cooking``; None if the answer does not begin with one."""
    match = _ONE_LETTER.match(answer.strip()) or _LETTER_AND_TEXT.match(answer.strip())
    return match[1].upper() if match else None


def without_letters(choices: list[str]) -> list[str]:
    """``["A. Travel", "(B) Cooking"]`` without their letters, if all choices carry their own in order."""
    matches = [_OWN_LETTER.match(choice) for choice in choices]
    for number, match in enumerate(matches):
        if match is None or (match[1] or match[2]).upper() != chr(ord("A") + number):
            return choices
    return [choice[match.end() :].strip() for choice, match in zip(choices, matches, strict=True) if match]


def split_lettered(question: str) -> tuple[str, list[str] | None]:
    """The question and its choices, if it ends in lines ``A. ...``, ``(B) ...``; else the question and None."""
    starts: list[re.Match[str]] = []
    for match in _LETTERED.finditer(question):
        if match[1] == chr(ord("A") + len(starts)):
            starts.append(match)
    if len(starts) < 2 or len(question) > _MAX_TEXT:
        return question, None
    ends = [match.start() for match in starts[1:]] + [len(question)]
    choices = [question[match.start(2) : stop].strip() for match, stop in zip(starts, ends, strict=True)]
    asked = _HEADING.sub("", question[: starts[0].start()]).strip()
    return (asked, choices) if asked and all(choices) else (question, None)


def named_choice(answer: str, choices: list[str]) -> McqTruth:
    """A choice by its letter, by letter and text, or by its text alone.

    Raises:
        SampleError: no such choice, or an answer that names two.
    """
    bare = answer.strip()
    letter = _ONE_LETTER.match(bare) or _LETTER_AND_TEXT.match(bare)
    position = ord(letter[1].upper()) - ord("A") if letter else -1
    by_text = [number for number, choice in enumerate(choices) if choice.strip().casefold() == bare.casefold()]
    if len(by_text) == 1 and (not 0 <= position < len(choices) or by_text == [position]):
        return choice_truth(chr(ord("A") + by_text[0]), choices)
    if by_text:
        raise SampleError("choices", f"answer {bare[:60]!r} is the text of one choice and names another")
    if letter is None or not 0 <= position < len(choices):
        raise SampleError("choices", f"answer {bare[:60]!r} is none of {len(choices)} choices")
    if letter.re is _LETTER_AND_TEXT and letter[2].strip().casefold() != choices[position].strip().casefold():
        message = f"answer {bare[:60]!r}, but choice {letter[1]} is {choices[position][:60]!r}"
        raise SampleError("choices", message)
    return choice_truth(letter[1], choices)


def bare_answer(answer: str, findings: Findings) -> str:
    """The answer without ``<answer>`` tags, "The answer is", ``$..$`` and ``\\boxed{}``, each removal counted."""
    inside = list(_ANSWER.finditer(answer))
    if inside:
        findings.counts["answers whose <answer> tags were removed"] += 1
        answer = inside[-1].group(2)
    elif _STRAY_TAG.search(answer):
        findings.counts["answers whose <answer> tags were removed"] += 1
        answer = _STRAY_TAG.sub("", answer)
    final = _FINAL.match(answer)
    if final:
        findings.counts["answers whose lead-in was removed"] += 1
        answer = answer[final.end() :]
    math = _MATH.fullmatch(answer.strip())
    if math:
        findings.counts["answers whose dollars of LaTeX were removed"] += 1
        answer = math[1]
    boxed = _BOXED.fullmatch(answer.strip())
    if boxed:
        findings.counts["answers whose \\boxed{} was removed"] += 1
        answer = boxed[1]
    return answer.strip()


def list_choices(choices: list[str]) -> str:
    """Choices as a prompt lists them, a line each."""
    return "\n".join(f"{chr(ord('A') + number)}. {choice}" for number, choice in enumerate(choices))
