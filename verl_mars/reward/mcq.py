"""Task ``mcq``: one of several choices. ``acc`` is 1 for the right choice, else 0.

The choice may be named by its letter ("B", "(b)", "B.", "Option B"), by its whole text ("Travel"), or by both
("B. Travel", "Travel (B)"), which must then agree. Anything else, two letters among it, names no choice.
The authors look for the letter as a substring: "C. Lonely Planet" contains "a", and 60 of the 219 wrong choices of
their OCR-VQA file score as right.
"""

import re
from typing import Any

from verl_mars.reward import words
from verl_mars.reward.settings import RewardSettings
from verl_mars.reward.truth import Choice, Row, read_choice
from verl_mars.reward.verdict import Verdict

_LETTER = re.compile(r"\(?([a-z])\)?[.:]?|\[([a-z])\]")
_LETTER_FIRST = re.compile(r"\(?([a-z])[.):]\)?[.:]?\s*(\S.*)", re.DOTALL)
_LETTER_WORD_FIRST = re.compile(r"([a-z]) (\S.*)", re.DOTALL)
_LETTER_LAST = re.compile(r"(.*\S) ?\(([a-z])\)\.?", re.DOTALL)


def score(answer: str | None, ground_truth: Any, row: Row, settings: RewardSettings) -> Verdict:
    """Verdict on an answer; ``pred`` is the letter it names."""
    choice = read_choice(ground_truth, row)
    if answer is None:
        return Verdict(pred="")
    right, letter, problem = judge(answer, choice)
    return Verdict(float(right), letter, problem)


def judge(answer: str, truth: Choice) -> tuple[bool, str, str]:
    """Whether ``answer`` names the right choice; the letter it names ("" for none); what was wrong with it."""
    if len(answer) > words.MAX_CHARS:
        return False, "", f"an answer of {len(answer)} characters is not a choice"
    forms = [words.normal_form(words.tidy(choice)) or words.tidy(choice) for choice in truth.choices]
    index = _named(words.without_lead(words.tidy(answer)), forms)
    if index is None:
        return False, "", "the answer does not name exactly one choice"
    return forms[index] == forms[ord(truth.letter) - ord("A")], chr(ord("A") + index), ""


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
