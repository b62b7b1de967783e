"""What sentences say of the study, on its page and elsewhere, against the page's tables."""

import re
from collections.abc import Iterator

import pytest
from study.page import PAGE

DOCS = PAGE.parent
ROOT = DOCS.parent
METHODS = tuple(DOCS / "algorithms" / f"{name}.md" for name in ("mars", "pgpo", "vogue", "papo", "vppo"))
BEFORE = 100
"""Characters before an interval in which its mean stands."""

Interval = tuple[float, float, float]


def paragraphs(text: str) -> list[str]:
    """Each on one line. A row of a table and an item of a list count as paragraphs."""
    parts = re.split(r"\n\s*\n|\n(?=\||- )", text.replace("（", "(").replace("）", ")"))
    return [" ".join(part.split()) for part in parts]


def intervals_of_tables(page: str) -> set[Interval]:
    found = re.findall(r"([+-]\d+\.\d) \[([+-]\d+\.\d), ([+-]\d+\.\d)\]", page)
    return {(float(mean), float(low), float(high)) for mean, low, high in found}


def claims(paragraph: str) -> Iterator[tuple[str, float, float]]:
    """Each interval in parentheses, as ``-0.9 to 1.3``, with the text before it."""
    for group in re.finditer(r"\([^()]*\)", paragraph):
        for found in re.finditer(r"(-?\d+\.\d) (?:to|至) (-?\d+\.\d)", group[0]):
            end = group.start() + found.start()
            yield paragraph[max(0, end - BEFORE) : end], float(found[1]), float(found[2])


def is_of(before: str, low: float, high: float, intervals: set[Interval]) -> bool:
    """Whether a table has this interval, or the same with the other sign ("behind by"), and the text its mean."""
    return any(
        f"{abs(mean):.1f}" in before
        for mean, *ends in intervals
        if [low, high] in (ends, [-end for end in reversed(ends)])
    )


def of_the_study(file) -> list[str]:
    """The paragraphs that speak of it; on a method's page only they have intervals."""
    text = file.read_text(encoding="utf-8")
    if file == PAGE:
        text = re.sub(r"<!-- (\S+) -->.*?<!-- /\1 -->", "", text.partition("## Results")[2], flags=re.DOTALL)
        return paragraphs(text)
    if file.parent == ROOT:
        return [each for each in paragraphs(text) if each.startswith("| [") and "arxiv.org" in each]
    return paragraphs(text)


@pytest.mark.parametrize(
    "file", [PAGE, ROOT / "README.md", ROOT / "README_zh.md", *METHODS], ids=lambda file: file.name
)
def test_every_interval_in_a_sentence_is_one_of_a_table(file):
    known = intervals_of_tables(PAGE.read_text(encoding="utf-8"))
    found = [claim for paragraph in of_the_study(file) for claim in claims(paragraph)]
    wrong = [f"...{before}({low} to {high})" for before, low, high in found if not is_of(before, low, high, known)]
    assert found and not wrong, f"{file}: no table of docs/study.md has " + "; ".join(wrong)


def test_a_sentence_that_is_not_true_is_found():
    known = intervals_of_tables("| +1.3 [+0.2, +2.5] | -2.5 [-3.5, -1.5] |")
    for sentence, right in (
        ("ahead by 1.3 points (0.2 to 2.5)", True),
        ("behind by 2.5 (1.5 to 3.5)", True),
        ("-2.5 at equal steps (three seeds, -3.5 to -1.5)", True),
        ("ahead by 1.4 points (0.2 to 2.5)", False),
        ("ahead by 1.3 points (0.2 to 2.6)", False),
        ("ahead by 1.3 points (-0.2 to 2.5)", False),
    ):
        ((before, low, high),) = claims(sentence)
        assert is_of(before, low, high, known) == right, sentence
