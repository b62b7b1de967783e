"""Numbers in digits, in English words and in Chinese numerals."""

import re

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
LARGEST = 10**15

_NUMBER = re.compile(r"-?(?:\d{1,40})(?:\.\d{1,40})?")
_DIGITS = "\u96f6\u3007\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d"
_CHINESE = re.compile(
    rf"(?:\u6211?(?:\u53ef\u4ee5)?\u770b[\u5230\u89c1]\u4e86?)?(?:\u56fe\u4e2d|\u753b\u9762\u4e2d|\u56fe\u7247\u4e2d)?(?:\u4e00\u5171|\u603b\u5171|\u5171)?[\u6709\u662f]?"
    rf"(\d{{1,12}}|[{_DIGITS}\u4e24\u5169\u5341\u767e\u5343\u4e07]{{1,12}})"
    r"(?:[\u4e2a\u500b\u4eba\u53ea\u8f86\u5f20\u6761\u4f4d\u672c\u68f5\u5ea7\u6735\u53f0\u628a\u4ef6\u53ea\u67b6\u8258\u5339"
    r"\u5934\u540d\u6240\u5bb6\u68f5\u680b\u5757\u7247\u8282\u6839\u652f\u53ea\u526f\u76cf\u6247\u9762]"
    r"[^\W\d_]{0,4}?)?"
)
_CHINESE_CHANGERS = re.compile(
    "[\u4ee5\u591a\u4f59\u7ea6\u5de6\u53f3\u4e0d\u51e0\u534a\u5927\u5c0f\u6216\u81f3\u8d85\u8fd1\u4e07\u5343\u767e]$"
    "|[\u4ee5\u591a\u4f59\u7ea6\u4e0d\u51e0\u534a\u6216\u8d85\u8fd1]"
)


def plain_number(text: str) -> str:
    """A number without thousands separators, leading zeros and a fraction of zeros."""
    whole, _, fraction = text.replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    whole = whole.lstrip("0") or "0"
    return whole + (f".{fraction}" if fraction else "")


def as_number(form: str) -> float | None:
    """The number that a normal form is; None where it is none, or one beyond 1e15."""
    if len(form) > 40 or not _NUMBER.fullmatch(form):
        return None
    number = float(form)
    return number if abs(number) <= LARGEST else None


def to_digits(words: list[str], articles: list[bool]) -> tuple[list[str], list[bool]]:
    """Runs of number words as digits: "one hundred and five" is "105", "two three" stays two. Articles go along."""
    result: list[str] = []
    names: list[bool] = []
    index = 0
    while index < len(words):
        value, length = _read_number(words, index)
        result.append(str(value) if length else words[index])
        names.append(articles[index] and not length)
        index += length or 1
    return result, names


def _read_number(words: list[str], start: int) -> tuple[int, int]:
    """The number that starts at ``start`` in words and how many words it takes; (0, 0) where none starts.

    A number in digits belongs to it only before a scale: "3 million", "1.5 million", "a dozen", "half a dozen".
    """
    total, current = 0, 0
    index, last = start, 0  # last: the least value the next word must stay under to belong to this number
    first = words[start]
    if first not in SMALL:
        if first == "half" and words[start + 1 : start + 3] == ["a", "dozen"]:
            return 6, 3
        following = words[start + 1] if start + 1 < len(words) else ""
        if following not in _SCALES:
            return 0, 0
        amount = 1.0 if first in ("a", "an") else as_number(first)
        if amount is None or not (amount * _SCALES[following]).is_integer() or abs(amount) > LARGEST:
            return 0, 0
        current, index, last = int(amount * _SCALES[following]), start + 2, min(_SCALES[following], 100)
        if _SCALES[following] >= 1000:
            total, current = current, 0
    while index < len(words):
        word = words[index]
        if word in SMALL:
            value = SMALL[word]
            if index > start and not (last >= 20 and last % 10 == 0 and 0 < value < min(last, 100)):
                break
            if last in range(20, 100, 10) and value >= 10:
                break
            current += value
            last = value
        elif word == "hundred" and index > start and 0 < current < 100:
            current *= 100
            last = 100
        elif word == "dozen" and index > start and current:
            return total + current * 12, index - start + 1
        elif word in ("thousand", "million", "billion") and index > start and current:
            total += current * _SCALES[word]
            current = 0
            last = _SCALES[word]
            if total >= LARGEST:
                break
        elif (
            word == "and"
            and last in (100, 1000, 10**6, 10**9)
            and words[index + 1 : index + 2]
            and (words[index + 1] in SMALL)
        ):
            pass
        else:
            break
        index += 1
    return total + current, index - start


def chinese_number(text: str) -> float | None:
    """The number of a Chinese answer such as "3\u4e2a" or "\u4e09\u4e2a\u4eba"; None for any other text."""
    text = text.replace(" ", "").rstrip(".")
    match = _CHINESE.fullmatch(text)
    if match is None or _CHINESE_CHANGERS.search(text[match.end(1) :]) or len(text) > 40:
        return None
    said = match.group(1)
    if said.isascii():
        return float(said)
    if len(said) > 1 and not set(said) & set("\u5341\u767e\u5343\u4e07"):
        return None  # digits in a row: a label, or a mistake
    total, section, digit, scale = 0, 0, 0, 10
    scales = {"\u5341": 10, "\u767e": 100, "\u5343": 1000}
    for sign in said:
        if sign in scales:
            section += (digit or 1) * scales[sign]
            digit, scale = 0, scales[sign]
        elif sign == "\u4e07":
            total, section, digit, scale = (section + digit) * 10_000, 0, 0, 10_000
        else:
            digit = 2 if sign in "\u4e24\u5169" else max(0, _DIGITS.index(sign) - 1)
            scale = scale if digit else 10
    if scale > 10:  # "\u4e00\u767e\u4e94" is 150: a last digit counts in the next scale, but after a zero
        digit *= scale // 10
    return float(total + section + digit)
