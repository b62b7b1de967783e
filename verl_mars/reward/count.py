"""Task ``count``: how many. ``acc`` is 1 for the exact number, else 0; ``abs_error`` is the distance to it.

The answer must name exactly one number, in digits or words, and may be a sentence ("There are three."). "None" and
"there are no ..." are 0. "3 or 4", "between 2 and 5" and "many" name no single number and are wrong.
"""

import re
from typing import Any

from verl_mars.reward import words
from verl_mars.reward.settings import RewardSettings
from verl_mars.reward.truth import Row, read_count
from verl_mars.reward.verdict import Verdict

_ZERO = re.compile(r"^(?:(?:none|nothing)\b|(?:there )?(?:is|are) (?:no|none|not any)\b)")


def score(answer: str | None, ground_truth: Any, row: Row, settings: RewardSettings) -> Verdict:
    """Verdict on an answer; ``pred`` is the number it names."""
    value = read_count(ground_truth, row)
    if answer is None:
        return Verdict(pred="", extra={"abs_error": None})
    right, said, distance, problem = judge(answer, value)
    return Verdict(float(right), said, problem, extra={"abs_error": distance})


def judge(answer: str, value: int) -> tuple[bool, str, float | None, str]:
    """Whether ``answer`` says ``value``; the number it says; its distance (None without a number); what was wrong."""
    if len(answer) > words.MAX_CHARS:
        return False, "", None, f"an answer of {len(answer)} characters is not a number"
    number = only_number(words.tidy(answer))
    if number is None:
        return False, "", None, "the answer does not name exactly one number"
    return number == value, f"{number:g}", abs(number - value), ""


def only_number(tidied: str) -> float | None:
    """The one number that a tidied answer names; None where it names none, or two that differ."""
    found = set(words.numbers_in(words.tokens(tidied)))
    if not found and _ZERO.match(tidied):
        return 0.0
    return found.pop() if len(found) == 1 else None
