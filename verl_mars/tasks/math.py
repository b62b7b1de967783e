"""Task ``math``: a mathematical expression. ``acc`` is 1 where it equals the true one, else 0.

Equal text and equal numbers are settled here. Everything else is asked of math-verify (extra ``math``), which knows
LaTeX, sets, intervals, units. It runs in a process of its own with a limit of time and memory, because what a model
writes can keep a computer algebra system busy for ever ("9^{9^{9^9}}"), and its own limits need signals, which only the
main thread of a process gets: verl's reward loop scores in others. An expression over the limit is wrong and says so.

The answer is what stands in ``<answer>``; without one, the last ``\\boxed{...}`` after the thought. The whole answer is
one expression: "2 or 3" is a set of two numbers and not equal to 3.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from verl_mars.tasks import math_process, words
from verl_mars.tasks.base import Hints, ScoringSettings, Task, Text, Truth, Verdict

MAX_CHARS = 500
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{")
_BRACE = re.compile(r"\\[{}]|[{}]")
_NUMBER = re.compile(r"[-+]?\d{1,40}(?:\.\d{1,40})?")
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{(\d{1,40})\}\{(\d{1,40})\}|([-+]?)(\d{1,40})/(\d{1,40})")
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


class MathTruth(Truth):
    """A mathematical expression."""

    answer: Text

    def in_words(self) -> str:
        return self.answer


class Math(Task[MathTruth]):
    """A mathematical expression."""

    name = "math"
    truth = MathTruth
    example = '{"answer": "1/2"}'
    instruction = "The answer is a mathematical expression."

    def score(self, answer: str, truth: MathTruth, info: Mapping[str, Any], settings: ScoringSettings) -> Verdict:
        """``pred`` is the expression.

        Raises:
            ModuleNotFoundError: math-verify is needed and not installed.
        """
        expression, gold = bare(answer), bare(truth.answer)
        if len(expression) > MAX_CHARS:
            return Verdict(error=f"an expression of {len(expression)} characters; at most {MAX_CHARS} are read")
        if not expression:
            return Verdict(error="the answer is blank")
        settled = _settle(expression, gold)
        if settled is not None:
            return Verdict(float(settled), expression)
        right, problem = math_process.ask(gold, expression, settings.math_timeout_seconds)
        return Verdict(float(right), expression, problem)

    def untagged(self, text: str) -> tuple[str | None, bool]:
        """The last ``\\boxed{...}``; the form is kept if it is the only one."""
        found = _boxes(text)
        return (found[-1], len(found) == 1) if found else (None, False)

    def from_plain(self, value: Any, hints: Hints) -> Any:
        """An expression."""
        return {"answer": value}


def bare(expression: str) -> str:
    """An expression without ``\\boxed``, math delimiters, and a full stop at its end."""
    text = expression.strip()
    for _ in range(2):  # a box in a box is met; a thousand of them are not unpacked one by one
        boxes = _boxes(text)
        text = boxes[-1].strip() if boxes else text
    for _ in range(2):
        text = text.removesuffix(".").strip()
        for left, right in _DELIMITERS:
            if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
                text = text[len(left) : len(text) - len(right)].strip()
                break
    return text


def _boxes(text: str) -> list[str]:
    """What stands in each ``\\boxed{...}`` whose braces close, in order. One inside another is part of it. Linear."""
    found: list[str] = []
    start = _BOXED.search(text)
    while start is not None:
        depth, position = 1, start.end()
        while depth:
            brace = _BRACE.search(text, position)
            if brace is None:
                return found
            position = brace.end()
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        found.append(text[start.end() : position - 1])
        start = _BOXED.search(text, position)
    return found


def _settle(expression: str, gold: str) -> bool | None:
    """True or False where text or plain numbers decide, None where math-verify must."""
    if "".join(expression.split()) == "".join(gold.split()):
        return True
    one, other = _rational(expression), _rational(gold)
    if one is not None and other is not None:
        if one == other:
            return True
        if one.denominator == other.denominator == 1:
            return False
    form = words.normal_form(words.tidy(expression))
    return True if form and form == words.normal_form(words.tidy(gold)) and form.isalnum() else None


def _rational(text: str) -> Fraction | None:
    """The number that a plain number, fraction or percentage is, exactly; None for anything else."""
    text = text.replace(" ", "")
    if text.endswith("%") and not text.endswith("%%"):
        share = _rational(text.removesuffix("%").removesuffix("\\"))
        return None if share is None else share / 100
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    fraction = _FRACTION.fullmatch(text)
    if fraction is None:
        return None
    sign, top, bottom = fraction.group(1, 2, 3) if fraction.group(2) else fraction.group(4, 5, 6)
    return None if int(bottom) == 0 else Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)
