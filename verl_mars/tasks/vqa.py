"""Task ``vqa``: a short free answer against a list of accepted answers.

``acc`` is 1 or 0. An answer is right where its normal form (:func:`verl_mars.tasks.words.weak_form`: case, articles,
number words and punctuation made alike, signs that carry meaning kept) equals that of an accepted answer, with or
without a lead-in such as "the answer is". Two kinds of questions allow a sentence too, because its verdict can be read
without guessing:

- yes/no: the answer starts with "yes" or "no" followed by punctuation or a line break, or ends with it ("..., so yes"),
  and nothing in it contradicts or hedges the verdict;
- numbers: the answer holds exactly one number and no word that changes it (:func:`verl_mars.tasks.count.only_number`).

Every answer has at most one verdict, so hedging ("yes or no", "3 or 4") never pays. The authors ask whether one string
contains the other, which gives full marks to an empty answer, to "not sure" for "no" and to "3" for "thirteen".
"""

import re

from pydantic import Field

from verl_mars.fields import Fields
from verl_mars.tasks import words
from verl_mars.tasks.base import MAX_CHARS, Hints, ScoringSettings, Task, Text, Truth, Verdict
from verl_mars.tasks.count import only_number
from verl_mars.tasks.numbers import as_number, chinese_number

_FIRST = re.compile(
    r"(yes|no)(?=$|[,.;:!]|\n| [(\[]| --? | (?:there|it|he|she|they|i|we|this|that|these|those) )"
    r"|(yeah|yep|yup|\u662f\u7684?|\u5bf9\u7684?|\u6709)(?=$|[,.!])|(nope|nah|\u4e0d\u662f?|\u5426|\u6ca1\u6709|\u65e0)(?=$|[,.!])"
)
_LAST = re.compile(r"(?:^|[,.;:!] |\n|\bso |\bis |\bis: )(yes|no)[.!]?$")
_CHINESE_AGAINST = {
    "yes": re.compile("[\u4e0d\u6ca1\u5426\u65e0\u6216]|\u53ef\u80fd|\u4e5f\u8bb8"),
    "no": re.compile("[\u662f\u6216]\u7684|\u53ef\u80fd|\u4e5f\u8bb8|(?<!\u6ca1)\u6709"),
}
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_YES, _NO = frozenset({"yes", "yeah", "yep", "yup"}), frozenset({"no", "nope", "nah"})
_NOT = frozenset(
    "not never none nothing nobody nowhere neither nor cannot without isn't aren't wasn't weren't don't doesn't didn't "
    "can't couldn't won't wouldn't".split()
)
_HEDGES = frozenset(
    "or but maybe perhaps possibly probably might could may unsure uncertain unclear unknown either sometimes partly "
    "depends depending guess mean actually wait however although though unless if rather likely unlikely hardly barely "
    "scarcely doubt doubtful".split()
)


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

    def score(self, answer: str, truth: VqaTruth, info: Fields, settings: ScoringSettings) -> Verdict:
        """``pred`` is the answer's normal form. Cost: linear in the answer."""
        if len(answer) > MAX_CHARS:
            return Verdict(error=f"an answer of {len(answer)} characters is not a short answer")
        tidied = words.unwrapped(words.tidy(answer))
        if not tidied:
            return Verdict(error="the answer is blank")
        bare = words.without_lead(tidied) or tidied
        forms = {form(words.tidy(text)): form for text in truth.answers for form in (words.plain_form, words.weak_form)}
        for text in (tidied, bare):
            for form in (words.weak_form, words.plain_form):
                said = form(text)
                if said in forms:
                    return Verdict(1.0, said)
        if forms.keys() <= {"yes", "no"}:
            verdict = yes_or_no(bare)
            return Verdict(float(verdict in forms), verdict or words.weak_form(bare))
        numbers = {number_in(accepted) for accepted in forms}
        number = None if None in numbers else only_number(bare)
        if number is not None:
            return Verdict(float(number in numbers), f"{number:g}")
        return Verdict(0.0, words.weak_form(bare))

    def from_plain(self, value: object, hints: Hints) -> object:
        """A text such as "three or 3", a number, or a list of answers."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:g}"
        if isinstance(value, str) and value.lstrip().startswith("\\"):
            value = words.unwrapped(value.strip())
        return {"answers": words.alternatives(value) if isinstance(value, str) else value}

    def published(self, truth: VqaTruth) -> str:
        return " or ".join(truth.answers)


def number_in(form: str) -> float | None:
    """The number that an accepted answer is, in digits or in Chinese with its counter."""
    return as_number(form) if form.isascii() else chinese_number(form)


def yes_or_no(tidied: str) -> str | None:
    """The verdict of an answer to a yes/no question: "yes", "no" or None.

    None also for an answer that hedges, names the other verdict too, or says yes and denies something.
    """
    text = tidied.casefold()
    first, last = _FIRST.match(text), _LAST.search(text)
    verdicts = {_verdict(match) for match in (first, last) if match is not None}
    said = set(_WORD.findall(text))
    if len(verdicts) != 1 or said & _HEDGES:
        return None
    verdict = verdicts.pop()
    against = _NO | _NOT if verdict == "yes" else _YES
    if said & against or not text.isascii() and _CHINESE_AGAINST[verdict].search(text, first.end() if first else 0):
        return None
    return verdict


def _verdict(match: re.Match[str]) -> str:
    return match.group(1) or ("yes" if match.group(2) else "no")
