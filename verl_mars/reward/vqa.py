"""Task ``vqa``: a short free answer against a list of accepted answers.

``acc`` is 1 or 0. An answer is right where its normal form (:func:`verl_mars.reward.words.normal_form`: case,
punctuation, articles and number words made alike) equals that of an accepted answer, with or without a lead-in such as
"the answer is". Two kinds of questions allow a sentence too, because its verdict can be read without guessing:

- yes/no: the answer starts with "yes" or "no" followed by punctuation, or ends with it ("..., so yes"), and its two
  ends do not contradict each other;
- numbers: the answer holds exactly one number (see :mod:`verl_mars.reward.count`).

Every answer has at most one verdict, so hedging ("yes or no", "3 or 4") never pays. The authors ask whether one string
contains the other, which gives full marks to an empty answer, to "not sure" for "no" and to "3" for "thirteen".
"""

import re
from typing import Any

from verl_mars.reward import count, words
from verl_mars.reward.settings import RewardSettings
from verl_mars.reward.truth import Row, read_answers
from verl_mars.reward.verdict import Verdict

_FIRST = re.compile(r"(yes|no)(?=$|[,.;:!])")
_LAST = re.compile(r"(?:^|[,.;:!] |\bso |\bis |\bis: )(yes|no)[.!]?$")


def score(answer: str | None, ground_truth: Any, row: Row, settings: RewardSettings) -> Verdict:
    """Verdict on an answer; ``pred`` is its normal form."""
    answers = read_answers(ground_truth, row)
    if answer is None:
        return Verdict(pred="")
    right, form, problem = judge(answer, answers)
    return Verdict(float(right), form, problem)


def judge(answer: str, answers: list[str]) -> tuple[bool, str, str]:
    """Whether ``answer`` is one of ``answers``; its normal form; what was wrong with it as an answer ("" for nothing).

    Cost: linear in the answer, which is refused above :data:`verl_mars.reward.words.MAX_CHARS`.
    """
    if len(answer) > words.MAX_CHARS:
        return False, "", f"an answer of {len(answer)} characters is not a short answer"
    tidied = words.tidy(answer)
    form = words.normal_form(tidied)
    if not form:
        accepted = {words.tidy(text) for text in answers if not words.normal_form(words.tidy(text))}
        return tidied in accepted and bool(tidied), tidied, "" if tidied else "the answer is blank"
    forms = {words.normal_form(words.tidy(text)) for text in answers}
    bare = words.normal_form(words.without_lead(tidied))
    if form in forms:
        return True, form, ""
    if bare in forms and bare:
        return True, bare, ""
    if forms <= {"yes", "no"}:
        verdict = yes_or_no(tidied)
        return verdict in forms, verdict or form, ""
    if all(words.as_number(accepted) is not None for accepted in forms):
        number = count.only_number(tidied)
        right = number is not None and number in {words.as_number(accepted) for accepted in forms}
        return right, form if number is None else f"{number:g}", ""
    return False, bare or form, ""


def yes_or_no(tidied: str) -> str | None:
    """The verdict of an answer to a yes/no question: "yes", "no" or None."""
    first, last = _FIRST.match(tidied), _LAST.search(tidied)
    said = {match.group(1) for match in (first, last) if match is not None}
    return said.pop() if len(said) == 1 else None
