"""Task ``math``: a mathematical expression. ``acc`` is 1 where it equals the true one, else 0.

Equal text, plain numbers, units, infinities and what math-verify is known to drop (relations, unknown signs, digits
apart) are settled here. Everything else is asked of math-verify (extra ``math``), which knows LaTeX, sets, intervals.
It runs in a process with a limit of time and memory, because what a model writes can keep a computer algebra system
busy without end ("9^{9^{9^9}}"), and its own limits need signals, which only the main thread of a process gets: verl's
reward loop scores in others. An expression over the limit is wrong, with an error.

The answer is what stands in ``<answer>``; without one, the last ``\\boxed{...}`` after the thought. The whole answer is
one expression: "2 or 3" is no number, and two boxes that differ are no answer.
"""

import re
from fractions import Fraction

from verl_mars.fields import Fields
from verl_mars.tasks import math_process, words
from verl_mars.tasks.base import Hints, ScoringSettings, Task, Text, Truth, Verdict
from verl_mars.tasks.numbers import as_number

MAX_CHARS = 500
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{")
_BRACE = re.compile(r"\\[{}]|[{}]")
_NUMBER = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})")
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{?(\d{1,40})\}?\{?(\d{1,40})\}?|([-+]?)(\d{1,40})/(\d{1,40})")
_MIXED = re.compile(r"([-+]?)(\d{1,20})(?: (\d{1,20})/(\d{1,20})| ?\\[dt]?frac\{(\d{1,20})\}\{(\d{1,20})\})")
_POWER = re.compile(r"(?:([-+]?[\d.]{1,20}) ?(?:\\times|\\cdot|\*) ?)?(\d{1,6})\^(?:\{([-+]?\d{1,4})\}|(\d))")
_SCIENTIFIC = re.compile(r"[-+]?\d{1,20}(?:\.\d{1,20})?[eE][-+]?\d{1,3}")
_INFINITY = re.compile(r"(?:([-+])|(?:(minus|negative)|plus|positive) )? ?(?:\\infty|infinity|inf)", re.IGNORECASE)
_SPACING = re.compile(r"\\[,;:! ]|(?<=[\w}])~|\\q?quad|\\left(?![a-z])|\\right(?![a-z])")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?!\d)|(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_SAME = [
    (re.compile(r"\^\{?\\circ\}?|\\degrees?(?![a-zA-Z])"), " \u00b0"),
    (re.compile(r"\^(?:\((-?\d{1,9})\)|(-\d{1,9}))"), r"^{\1\2}"),
    (re.compile(r"\^(?:\{0?\.5\}|0?\.5(?!\d))"), "^{1/2}"),
    (re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r" ?\bper ?cent\b"), "%"),
    (re.compile(r"\|[-+]?([\d.]+)\|"), r"\1"),
    (re.compile(r"\\lt(?![a-zA-Z]) ?"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z]) ?"), ">"),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r" != ?|(?<![\w)\]])!="), r"\\ne "),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"^\s*\{([^{}]*,[^{}]*)\}\s*$"), r"\\{\1\\}"),  # a set, as people write it
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\([lgn]e)q(?![a-zA-Z])"), r"\\\1"),
]
_DIGITS_APART = re.compile(r"\d \d")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textrm|textbf|mathbf|rm)\s?\{([^{}]*)\}")
_UNIT = re.compile(
    r"(.*[\d)}\]\u03c0])\s*([a-zA-Z\u00b0\u00b5\u03a9%][a-zA-Z\u00b0\u00b5\u03a9/^{} 0-9]{0,30})", re.DOTALL
)
_UNITS = frozenset(
    "mm cm dm km nm inch inches ft feet yd mile miles mg kg gram grams lb lbs oz ton tons ml cl liter liters litre "
    "litres ms sec second seconds minute minutes hour hours hr day days week weeks month months year years mph kmh "
    "km/h m/s hz khz mhz kw kwh mw ohm volt volts watt watts joule joules newton newtons pa kpa deg degree degrees "
    "\u00b0 dollar dollars usd eur euro euros cent cents unit units square cubic cm^2 m^2 km^2 cm^3 m^3 ft^2 in^2 "
    "meter meters metre metres people person apples m g s h l min".split()
) | {"$", "\u20ac", "\u00a3", "\u00a5"}
_SAME_UNIT = {
    name: unit
    for unit, names in {
        "\u00b0": "degree deg",
        "inch": "inche in",
        "ft": "feet foot",
        "l": "liter litre",
        "m": "meter metre",
        "cm": "centimeter centimetre",
        "mm": "millimeter millimetre",
        "km": "kilometer kilometre",
        "g": "gram",
        "kg": "kilogram",
        "lb": "lbs pound",
        "h": "hour hr",
        "min": "minute",
        "s": "sec second",
        "km/h": "kmh kph",
        "$": "dollar usd",
        "\u20ac": "euro eur",
    }.items()
    for name in names.split()
}
_CURRENCY = re.compile("([-+]?)([$\u20ac\u00a3\u00a5]) ?(.+)", re.DOTALL)
_UNIT_SIGNS = {"\u00b0", "\u00b5", "\u03a9", "$", "\u20ac", "\u00a3", "\u00a5"}
_CHANGES = re.compile(
    r"\b(?:or|and|not|about|around|approximately|roughly|at least|at most|more|less|than|over|under|nearly|almost|maybe"
    r"|hundred|thousand|million|billion|trillion|dozen|percent|per cent|no|never|neither|between|up to)\b",
    re.IGNORECASE,
)
_RELATION = re.compile(
    r"<|>|\\(?:le|ge|leq|geq|ne|neq|lt|gt|approx|sim|pm|mp|neg|lnot|in|notin)(?![a-zA-Z])|!=|[~|']"
    r"|\^\{?T\}?"
)
"""What math-verify drops: relations, negations, bars, primes, transposition."""
_PAIR = re.compile(r"([(\[]).*,.*([)\]])", re.DOTALL)
"""A point or an interval: its brackets say which, and whether the ends belong to it."""
_BASE = re.compile(r"\d_(?:\{(\d+)\}|(\d))")
_NAMED = re.compile(r"^[a-zA-Z](?:_\w)?(?:\([a-z]\))? ?= ?(?=[^=])")
_ENDS_OPEN = re.compile(r"[-+*/^=<>_]$|\\(?:times|cdot|div|pm)$|^[*/^=<>]|[^\d)\]}a-zA-Z'!]!$")
_UNICODE = {
    "\u00d7": "\\times ",
    "\u00f7": "/",
    "\u00b7": "\\cdot ",
    "\u22c5": "\\cdot ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2260": "\\ne ",
    "\u2248": "\\approx ",
    "\u221e": "\\infty ",
    "\u03c0": "\\pi ",
    "\u00b1": "\\pm ",
    "\u2213": "\\mp ",
    "\u2208": "\\in ",
    "\u222a": "\\cup ",
    "\u2229": "\\cap ",
    "\u03b8": "\\theta ",
    "\u03b1": "\\alpha ",
    "\u03b2": "\\beta ",
    "\u00b0": "^\\circ",
    "\u00ba": "^\\circ",
    "\u2220": "\\angle ",
    "\u2205": "\\emptyset ",
}
_ROOT = re.compile("([\u221a\u221b\u221c]) ?(?:\\(([^()]*)\\)|\\{([^{}]*)\\}|(\\w+))")
_ROOTS = {"\u221a": "\\sqrt{", "\u221b": "\\sqrt[3]{", "\u221c": "\\sqrt[4]{"}
_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a", "0123456789-+"
)
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b\u207a]+")
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

    def score(self, answer: str, truth: MathTruth, info: Fields, settings: ScoringSettings) -> Verdict:
        """``pred`` is the expression.

        Raises:
            ModuleNotFoundError: math-verify is needed and not installed.
        """
        expression, gold = bare(answer), bare(truth.answer)
        if len(expression) > MAX_CHARS:
            return Verdict(error=f"an expression of {len(expression)} characters; at most {MAX_CHARS} are read")
        if not expression:
            return Verdict(error="the answer is blank")
        said, true = plain_latex(expression), plain_latex(gold)
        right = settle(said, true)
        if right is not None:
            return Verdict(float(right), expression)
        units = _without_units(said, true)
        if units is None:
            return Verdict(0.0, expression)
        right = settle(*units) if units != (said, true) else None
        problem = ""
        if right is None:
            right, problem = math_process.ask(units[1], units[0], settings.math_timeout_seconds)
        return Verdict(float(right), expression, problem)

    def untagged(self, text: str) -> tuple[str | None, bool]:
        """The last ``\\boxed{...}``; the form is kept if it is the only one."""
        found = _boxes(text)
        return (found[-1], len(found) == 1) if found else (None, False)

    def from_plain(self, value: object, hints: Hints) -> object:
        """An expression, or a number."""
        return {"answer": str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value}


def bare(expression: str) -> str:
    """An expression without ``\\boxed``, math delimiters, and a full stop at its end; all of it if boxes differ."""
    text = expression.strip()
    for _ in range(2):  # a box in a box is met; a thousand of them are not unpacked one by one
        boxes = {box.strip() for box in _boxes(text)}
        text = boxes.pop() if len(boxes) == 1 else text
    for _ in range(2):
        text = text.removesuffix(".").strip()
        for left, right in _DELIMITERS:
            if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
                text = text[len(left) : len(text) - len(right)].strip()
                break
    return text


def plain_latex(text: str) -> str:
    """Unicode signs as LaTeX, dashes as minus, thousands together, spaces only where they keep two things apart."""
    text = _RAISED.sub(lambda match: "^{" + match.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _ROOT.sub(lambda match: _ROOTS[match.group(1)] + (match.group(match.lastindex or 4)) + "}", words.tidy(text))
    text = "".join(_UNICODE.get(sign, sign) for sign in text)
    text = _SPACING.sub(lambda match: "" if "\\l" in match.group() or "\\r" in match.group() else " ", text)
    text = _TEXT.sub(lambda match: match.group(1) if match.group(1).strip().isdigit() else f" {match.group(1)} ", text)
    for pattern, plain in _SAME:
        text = pattern.sub(plain, text)
    text = _THOUSANDS.sub(lambda match: match.group().replace(" ", "").replace(",", ""), text)
    return re.sub(r"(?<![\w}]) | (?![\w\\])", "", " ".join(text.split())).strip()


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


def settle(said: str, true: str) -> bool | None:
    """True or False where text or plain numbers decide, None where math-verify must.

    False where math-verify would drop what makes the difference: a relation, a sign it does not know, a word.
    """
    if said == true or said.replace(" ", "") == true.replace(" ", "") and not _DIGITS_APART.search(said + "|" + true):
        return True
    if _NAMED.match(said) and not _NAMED.match(true):
        said = _NAMED.sub("", said, count=1)
    one, other = _infinite(said), _infinite(true)
    if one or other:
        return one == other if one is not None and other is not None else None
    one_number, other_number = _rational(said), _rational(true)
    if one_number is not None and other_number is not None:
        return _equal(one_number, other_number)
    if said.casefold() == true.casefold():  # a word, or variables that math-verify does not tell apart
        return said.replace(" ", "").isalpha() and len(true) > 2
    pairs = _PAIR.fullmatch(said), _PAIR.fullmatch(true)
    if pairs[0] and pairs[1] and pairs[0].groups() != pairs[1].groups():
        return False
    for pattern in (_RELATION, _CHANGES, _DIGITS_APART, _ENDS_OPEN):
        if sorted(pattern.findall(said)) != sorted(pattern.findall(true)):
            return False
    if _BASE.findall(said) not in ([], _BASE.findall(true)):
        return False
    strange = {sign for sign in said + true if not sign.isascii()} - _UNIT_SIGNS
    return False if strange else None


def _equal(said: Fraction, true: Fraction) -> bool:
    """Exactly, or as a decimal rounded to at least six places and five digits."""
    if said == true or said.denominator == true.denominator == 1:
        return said == true
    difference = abs(said - true)
    return difference <= Fraction(1, 2_000_000) and difference <= abs(true) / 100_000


def _infinite(text: str) -> str | None:
    """The sign of an infinity, "" for another expression; None where infinity is a part of it."""
    match = _INFINITY.fullmatch(text)
    if match:
        return "-" if match.group(1) == "-" or match.group(2) else "+"
    return None if "\\infty" in text else ""


def _without_units(said: str, true: str) -> tuple[str, str] | None:
    """Both without a unit that both have, or one leaves out; None where their units differ."""
    (said_rest, said_unit), (true_rest, true_unit) = _split_unit(said), _split_unit(true)
    if said_unit == true_unit:
        return said_rest, true_rest
    if said_unit and true_unit:
        return None
    unit = said_unit or true_unit
    spelled_out = bool(true_unit) and len(true_unit) > 1
    if unit == "%" or not (unit in _UNITS or unit in _SAME_UNIT.values() or spelled_out):
        return said, true
    return said_rest, true_rest


def _split_unit(text: str) -> tuple[str, str]:
    """An expression and the unit at its end: words of two letters and more, known ones, or a degree sign."""
    currency = _CURRENCY.fullmatch(text)
    if currency is not None:
        return currency.group(1) + currency.group(3), currency.group(2)
    match = _UNIT.fullmatch(text)
    if match is None:
        return text, ""
    *power, unit = match.group(2).strip().casefold().replace("{", "").replace("}", "").rsplit(" ", 1)
    single = unit.rstrip("s") if len(unit) > 3 else unit
    unit = " ".join([*power, _SAME_UNIT.get(single, single)])
    for word, exponent in (("square ", "^2"), ("cubic ", "^3")):
        if unit.startswith(word) and len(unit) > len(word):
            unit = unit.removeprefix(word) + exponent
    plain = text[match.end(1) :].startswith(" ") and unit.replace(" ", "").isalpha()
    if unit in _UNITS or match.group(2).strip().casefold() in _UNITS or plain or unit == "%":
        return match.group(1), unit
    return text, ""


def _rational(text: str) -> Fraction | None:
    """The number that a plain number, fraction, power or percentage is, exactly; None for anything else."""
    text = text.strip()
    if text.endswith("%") and not text.endswith("%%"):
        share = _rational(text.removesuffix("%"))
        return None if share is None else share / 100
    if _NUMBER.fullmatch(text) or _SCIENTIFIC.fullmatch(text):
        return Fraction(text)
    mixed = _MIXED.fullmatch(text)
    if mixed is not None:
        sign, whole, *parts = mixed.groups()
        top, bottom = (int(part) for part in parts if part)
        return None if not bottom else (int(whole) + Fraction(top, bottom)) * (-1 if sign == "-" else 1)
    power = _POWER.fullmatch(text)
    if power is not None:
        factor, base, exponent = power.group(1) or "1", int(power.group(2)), int(power.group(3) or power.group(4))
        if not _NUMBER.fullmatch(factor) or (base == 0 and exponent < 0) or abs(exponent) * base.bit_length() > 20_000:
            return None
        return Fraction(factor) * Fraction(base) ** exponent
    fraction = _FRACTION.fullmatch(text)
    if fraction is not None:
        sign, *sides = fraction.group(1, 2, 3) if fraction.group(2) else fraction.group(4, 5, 6)
        top, bottom = map(int, sides)
        return None if bottom == 0 else Fraction(top, bottom) * (-1 if sign == "-" else 1)
    if text.replace(" ", "").replace("-", "").isalpha():
        number = as_number(words.plain_form(text))
        return None if number is None else Fraction(number)
    return None
