"""Short answers as words: normal forms that keep what carries meaning.

Two spellings of one answer should compare equal, two answers never. So there is not one normal form but a ladder from
strict to weak (:data:`LADDER`), and a task compares under the weakest one that keeps its choices, or a truth and its
negation, apart. No form drops a sign that carries meaning: a relation, a currency, an arrow, the minus of a number.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

from verl_mars.tasks.numbers import SMALL, as_number, plain_number, to_digits

ARTICLES = frozenset({"a", "an", "the"})
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SIGNS = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u300a\u300b\u300c\u300d\u300e\u300f\u2033", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63", "-")
    | {"\u3002": ".", "\u3001": ",", "\u3010": "[", "\u3011": "]", "\u2044": "/", "`": None, "\ufeff": None}
    | dict.fromkeys(code for code in range(32) if chr(code) not in "\t\n\r")
    | _FULL_WIDTH
)
_EMPHASIS = re.compile(
    r"(?<![\w*])\*{1,3}([^*\s](?:[^*]{0,298}[^*\s])?)\*{1,3}(?![\w*])|(?<!\w)__([^_]{1,300})__(?!\w)"
)
_BREAK = re.compile(r"\s*[\r\n]\s*")

_TOKEN = re.compile(
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?P<glued>[^\W_]*)"
    r"|(?P<word>[^\W_]+(?:'[^\W_]+)*)(?P<plus>\+\+(?!\w)|\+(?! ?\w)|\#(?!\w))?"
    r"|(?P<sign>[<>!]=|[^\w\s])"
)
_DROPPED = frozenset(".,;:?!'\"()[]{}\u2026\u2022\u00bf\u00a1_\u00b7")
_UNARY_WORDS = {"minus": "-", "negative": "-", "plus": "+"}
_SAID_SIGNS = {"percent": "%", "percents": "%", "degree": "\u00b0", "degrees": "\u00b0", "&": "and"}
_SAID_SIGNS |= {"<=": "\u2264", ">=": "\u2265", "!=": "\u2260"}

_BEST = r"(?:(?:final|correct|right|best|most likely|most appropriate) )*"
_LEAD = re.compile(
    r"^(?:(?:so|thus|therefore|hence|ok|okay|well)\b[,: ]*)?(?:(?:i|we) (?:think|believe|conclude)(?: that)? )?(?:"
    rf"(?:(?:my|the) )?{_BEST}(?:answer|ans|option|choice|letter)(?: (?:is|would be|should be|must be))?"
    r"(?: (?:option|choice|letter))?(?=[ .:=(\[\n]|$)(?: - (?!\d)| ?[:=]|\.(?= ))?[ \n]?(?:(?:option|choice) (?=\S))?"
    r"|(?:it is|it's|its|it must be|(?:i |i'd |i will |i would )?(?:choose|pick|select|say|go with)) "
    r"(?:(?:option|choice) )?"
    r"|(?:\u56e0\u6b64|\u6240\u4ee5|\u6545|\u7efc\u4e0a)?[,: ]*(?:"
    r"(?:\u6700\u7ec8|\u6b63\u786e)?(?:\u7684)?(?:\u7b54\u6848|\u9009\u9879|\u6570\u91cf|\u603b\u6570|\u4eba\u6570)"
    r"(?:\u5e94\u8be5?)?(?:\u662f|\u4e3a|\u9009\u62e9?)?|\u6211?\u5e94?\u8be5?\u9009\u62e9?)[: ]*)?",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\(?:boxed|fbox|text|mathrm|textbf|mathbf)\s?\{((?:[^{}]|\{[^{}]*\})*)\}")
_HEADING = re.compile(r"^#{1,6} ")
_LATEX_SIGN = re.compile(r"\\(leq?|geq?|neq?|lt|gt|times|div|pm|rightarrow|leftarrow|to|degree|%|\$|&|#)(?![a-zA-Z])")
_LATEX_SIGNS = {"le": "\u2264", "leq": "\u2264", "ge": "\u2265", "geq": "\u2265", "ne": "\u2260", "neq": "\u2260"}
_LATEX_SIGNS |= {"lt": "<", "gt": ">", "times": "\u00d7", "div": "\u00f7", "pm": "\u00b1", "degree": "\u00b0"}
_LATEX_SIGNS |= {"rightarrow": "\u2192", "to": "\u2192", "leftarrow": "\u2190"} | dict(zip("%$&#", "%$&#", strict=True))
_WRAPPINGS = (('"', '"'), ("'", "'"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("<", ">"))


def alternatives(text: str) -> list[str]:
    """A text such as "three or 3" as two answers, as the published files mean it.

    It is cut where the parts are one answer in two spellings (the same number, the same letters) or a list of three or
    more words; "Trick or Treat" is one answer.
    """
    parts = [part.strip() for part in text.split(" or ") if part.strip()]
    if len(parts) < 2:
        return [text]
    numbers = {as_number(weak_form(tidy(part))) for part in parts}
    letters = {"".join(sorted(filter(str.isalnum, part.casefold()))) for part in parts}
    listed = len(parts) > 2 and not any(" " in part for part in parts)
    return parts if numbers != {None} and len(numbers) == 1 or len(letters) == 1 or listed else [text]


def tidy(text: str) -> str:
    """One form for Unicode spellings, quotes, dashes, white space and fractions; Markdown emphasis is dropped.

    Superscripts stay: NFKC would make 22 of 2\u00b2. Case stays too, and line breaks become one ``\\n`` each.
    """
    text = unicodedata.normalize("NFC", text).translate(_SIGNS)
    if not text.isascii():
        text = "".join(map(_plain_sign, text))
    if "*" in text or "__" in text:
        text = _EMPHASIS.sub(r"\1\2", text)
    return "\n".join(" ".join(line.split()) for line in _BREAK.split(text.strip()))


def _plain_sign(sign: str) -> str:
    """A digit of any script as an ASCII digit, a vulgar fraction as "1/2", a space as a space."""
    if sign.isascii():
        return sign
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    kind = unicodedata.category(sign)
    if kind == "No" and "\u2044" in unicodedata.normalize("NFKC", sign):
        return " " + unicodedata.normalize("NFKC", sign).replace("\u2044", "/")
    return " " if kind == "Zs" else "" if kind == "Cf" else sign


def unwrapped(text: str) -> str:
    """A tidied answer without what people wrap it in: one ``\\boxed{}``, dollars of LaTeX, quotes, a heading's "#"."""
    if text.startswith("#"):
        text = _HEADING.sub("", text)
    if "\\" in text:
        text = _LATEX_SIGN.sub(lambda match: _LATEX_SIGNS[match.group(1)], text)
    for _ in range(3):
        if text.startswith("\\"):
            match = _BOXED.fullmatch(text.rstrip(".").strip())
            text = match.group(1).strip() if match else text
        for left, right in _WRAPPINGS:
            if len(text) > len(left + right) and text.startswith(left) and text.endswith((right, right + ".")):
                inside = text[len(left) : len(text.removesuffix(".")) - len(right)]
                text = inside.strip() if left not in inside and right not in inside else text
    return text


def without_lead(text: str) -> str:
    """A tidied text less a lead-in such as "The answer is"; what it wraps is unwrapped."""
    rest = _LEAD.sub("", text, count=1).strip()
    return unwrapped(rest) if rest != text else text


# ---------------------------------------------------------------- normal forms


def literal_form(text: str) -> str:
    """A tidied text, white space as single spaces."""
    return " ".join(text.split())


def folded_form(text: str) -> str:
    """Case made alike; full stops at the end go."""
    return literal_form(text).casefold().rstrip(".").rstrip() or literal_form(text)


def plain_form(text: str) -> str:
    """Words, numbers and meaningful signs; punctuation between them goes, numbers in words become digits."""
    return " ".join(tokens(text)) or folded_form(text)


def weak_form(text: str) -> str:
    """:func:`plain_form` less articles that stand before a word; a capital A inside a text is no article."""
    kept = [token for token, name in zip(*_tokens_and_names(text), strict=True) if not name]
    return " ".join(kept) or plain_form(text)


LADDER: tuple[Callable[[str], str], ...] = (weak_form, plain_form, folded_form, literal_form)
"""Normal forms of tidied texts, weakest first."""


def weakest_form(texts: Iterable[str]) -> Callable[[str], str]:
    """The weakest normal form under which tidied texts that differ stay different."""
    distinct = set(map(literal_form, texts))
    return next((form for form in LADDER if len(set(map(form, distinct))) == len(distinct)), literal_form)


def tokens(text: str) -> list[str]:
    """Words, numbers and meaningful signs of a tidied text in lower case; "twenty-one" is "21", "-5" is one token."""
    return _tokens_and_names(text)[0]


def _tokens_and_names(text: str) -> tuple[list[str], list[bool]]:
    """The tokens, and which of them are articles."""
    return _cached_tokens(text) if len(text) < 80 else _read_tokens(text)


def _read_tokens(text: str) -> tuple[list[str], list[bool]]:
    words: list[str] = []
    articles: list[bool] = []
    matches = list(_TOKEN.finditer(text))
    unary = ""
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        before = text[match.start() - 1] if match.start() else " "
        article = False
        if match.group("number"):
            glued = match.group("glued").casefold()
            token = match.group("number") + glued if glued else plain_number(match.group("number"))
            token, unary = _signed(token, unary), ""
        elif match.group("word"):
            word = match.group("word").casefold()
            last = words[-1] if words else ""
            starts = last in _VERBS or not last[-1:].isalnum()
            if word in _UNARY_WORDS and starts and following is not None and _starts_number(following):
                unary = _UNARY_WORDS[word]
                continue
            if word == "cent" and last == "per":
                words[-1] = "%"
                continue
            article = word in ARTICLES and _is_article(text, match, following, first=not words)
            token = _SAID_SIGNS.get(word, word) + (match.group("plus") or "")
            token, unary = _signed(str(SMALL[word]) if unary and word in SMALL else token, unary), ""
        else:
            sign = match.group("sign")
            if sign == "-" or (sign == "+" and following is not None and _starts_number(following)):
                kind = _dash(text, match, following, words, before)
                unary = sign if kind == "unary" else ""
                if kind != "operator":
                    continue
            elif sign in _DROPPED and not _carries_meaning(sign, text, match, before):
                continue
            token = _SAID_SIGNS.get(sign, sign)
        words.append(token)
        articles.append(article)
    return to_digits(words, articles)


def _is_article(text: str, match: re.Match[str], following: re.Match[str] | None, *, first: bool) -> bool:
    """Whether an "a", "an" or "the" stands before a word; a capital A inside a text is a name, as in "vitamin A"."""
    if following is None or len(following.group("word") or "") < 2:
        return False
    return text[match.end() : following.start()].isspace() and (first or match.group() != "A")


_cached_tokens = lru_cache(maxsize=8192)(_read_tokens)
_VERBS = frozenset({"is", "are", "be", "=", "was", "equals"})


def _signed(token: str, unary: str) -> str:
    return f"-{token}" if unary == "-" and token != "0" else token


def _starts_number(match: re.Match[str]) -> bool:
    return bool(match.group("number")) or (match.group("word") or "").casefold() in SMALL


def _dash(text: str, match: re.Match[str], following: re.Match[str] | None, raw: list[str], before: str) -> str:
    """What a "-" or "+" is: the sign of a number, a hyphen or dash between words, or an operator."""
    after = text[match.end()] if match.end() < len(text) else " "
    if following is None or not _has_word(following):
        return "hyphen" if match.group() == "-" and not raw and after.isspace() else "operator"
    last = raw[-1] if raw else ""
    operand = bool(last) and (last[-1:].isalnum() or last[-1:] in "%\u00b0!)")
    spaced_out = before.isspace() and not after.isspace()
    if _starts_number(following):
        if not operand or last in _VERBS:
            return "unary"
        if spaced_out and len(last) > 1 and last.isalpha():
            return "unary"  # "about -5"
    if match.group() == "+":
        return "operator"
    first = (following.group("word") or following.group("number") or "").casefold()
    glued = not before.isspace() and not after.isspace()
    if len(last) > 1 and last[-1:].isalpha() and (not _starts_number(following) or glued):
        return "hyphen"
    if glued and len(first) > 1 and first.isalpha():
        return "hyphen"
    return "hyphen" if after.isspace() and len(first) > 1 and before.isspace() else "operator"


def _has_word(match: re.Match[str]) -> bool:
    return bool(match.group("word") or match.group("number"))


def _carries_meaning(sign: str, text: str, match: re.Match[str], before: str) -> bool:
    """A colon between numbers, a prime after a number, a factorial."""
    after = text[match.end()] if match.end() < len(text) else " "
    if sign == ":":
        left, right = text[: match.start()][-2:].strip(), text[match.end() : match.end() + 2].strip()
        return before.isspace() == after.isspace() and left[-1:].isdigit() and right[:1].isdigit()
    if sign in "'\"":  # feet, inches, minutes of arc
        return before.isdigit() and text.count(sign) == 1
    if sign == "!":
        letters = text[: match.start()]
        alone = len(letters) == 1 or not letters[-2:-1].isalnum()
        return before.isdigit() or before == ")" or (before.isalpha() and alone)
    return False
