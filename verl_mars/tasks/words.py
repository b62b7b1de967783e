"""Short answers as words: one spelling for case, punctuation, articles and numbers."""

import re
import unicodedata

ARTICLES = frozenset({"a", "an", "the"})
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_LARGEST = 1e15
# A number with what is glued to it ("3d" is no number), or a word with an apostrophe inside and signs behind ("c++").
_WORD = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?[^\W_]*|[^\W_]+(?:'[^\W_]+)*(?:\+\+?|#)?")
_LEAD = re.compile(
    r"^(?:(?:so|thus|therefore|hence)[, ]+)?(?:(?:my|the) )?(?:final |correct |right )?"
    r"(?:answer|option|choice)(?: (?:is|would be|should be|must be)(?: option| choice)?)? ?:? |^(?:it is|it's|its) "
)


def alternatives(text: str) -> list[str]:
    """ "three or 3" as two answers, as the published files mean it."""
    return [part.strip() for part in text.split(" or ") if part.strip()] or [text]


def tidy(text: str) -> str:
    """One form for compatibility characters (NFKC), apostrophes, white space and case; Markdown emphasis is dropped."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2018", "'").replace("\u2212", "-")
    text = re.sub(r"[*`]|__", "", text)
    return " ".join(text.casefold().split())


def without_lead(text: str) -> str:
    """``text`` (tidied) less a lead-in such as "the answer is"."""
    return _LEAD.sub("", text, count=1).strip()


def tokens(text: str) -> list[str]:
    """Words and numbers of a tidied text; numbers, also those in words, become digits ("twenty-one" is "21")."""
    return _numbers_to_digits([_plain_number(word) for word in _WORD.findall(text)])


def normal_form(text: str) -> str:
    """What two spellings of one answer have in common: tidied words less articles, numbers as digits.

    An answer that is nothing but an article ("A") stays as it is.
    """
    words = tokens(text)
    kept = [word for word in words if word not in ARTICLES]
    return " ".join(kept or words)


def as_number(form: str) -> float | None:
    """The number a normal form is, None where it is none, or one beyond 1e15."""
    if len(form) > 40 or not _NUMBER.fullmatch(form):
        return None
    number = float(form.replace(",", ""))
    return number if abs(number) <= _LARGEST else None


def numbers_in(words: list[str]) -> list[float]:
    """The numbers among normalised words, each as often as it stands there."""
    return [number for number in map(as_number, words) if number is not None]


def _plain_number(word: str) -> str:
    """A number without thousands separators, leading zeros and a fraction of zeros; other words unchanged."""
    if not (word[0].isdigit() or word[0] in "+-"):
        return word
    if len(word) > 40 or not _NUMBER.fullmatch(word):
        return word.rstrip(",")
    sign = "-" if word[0] == "-" else ""
    whole, _, fraction = word.lstrip("+-").replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    whole = whole.lstrip("0") or "0"
    return (sign if whole != "0" or fraction else "") + whole + (f".{fraction}" if fraction else "")


def _numbers_to_digits(words: list[str]) -> list[str]:
    """Runs of number words as digits: "one hundred and five" is "105", "twenty one" is "21", "two three" stays two."""
    result: list[str] = []
    index = 0
    while index < len(words):
        value, length = _read_number(words, index)
        if length:
            result.append(str(value))
            index += length
        else:
            result.append(words[index])
            index += 1
    return result


def _read_number(words: list[str], start: int) -> tuple[int, int]:
    """The number that starts at ``start`` in words and how many words it takes; (0, 0) where none starts."""
    total = current = 0
    index = start
    last = 0  # the least value the next word must stay under to belong to this number
    while index < len(words):
        word = words[index]
        if word in _SMALL:
            value = _SMALL[word]
            if index > start and not (last >= 20 and last % 10 == 0 and 0 < value < min(last, 100)):
                break
            if last in range(20, 100, 10) and value >= 10:
                break
            current += value
            last = value
        elif word == "hundred" and index > start and 0 < current < 10:
            current *= 100
            last = 100
        elif word in ("thousand", "million") and index > start and current:
            total += current * _SCALES[word]
            current = 0
            last = _SCALES[word]
            if total >= 10**12:
                break
        elif word == "and" and last in (100, 1000, 1_000_000) and index + 1 < len(words) and words[index + 1] in _SMALL:
            pass
        else:
            break
        index += 1
    return total + current, index - start
