"""Our readers against public ones: json-repair, the VQA metric, math-verify, edit distances. Differences are listed."""

import json
import random
import re

import pytest

from verl_mars.reward import compute_score
from verl_mars.reward.settings import RewardSettings
from verl_mars.tasks import TASKS
from verl_mars.tasks.boxes import read_boxes
from verl_mars.tasks.words import tidy, weak_form

# ---------------------------------------------------------------- boxes: json-repair


def broken(text, rng):
    """One thing that models do to JSON."""
    kind = rng.randrange(6)
    if kind == 0:
        return re.sub(r"([}\]])(?=[}\]])", r"\1,", text, count=1)
    if kind == 1:
        return text.replace('"', "'")
    if kind == 2:
        return f"```json\n{text}\n```"
    if kind == 3:
        return text.rstrip("]") if text.count("}") > 0 else text
    if kind == 4:
        return f"Here they are: {text}"
    return text.replace('"bbox_2d"', "\u201cbbox_2d\u201d").replace(", ", ",\n")


def test_boxes_of_nearly_json_are_those_of_json_repair():
    repair = pytest.importorskip("json_repair").repair_json
    rng = random.Random(0)
    compared = 0
    for _ in range(2_000):
        items = [
            {"bbox_2d": [rng.randint(0, 900) for _ in range(4)], "label": rng.choice(["person", "traffic light"])}
            for _ in range(rng.randint(1, 4))
        ]
        text = broken(json.dumps(items), rng)
        theirs = repair(text.removeprefix("Here they are: "), return_objects=True)
        if not isinstance(theirs, list) or not all(isinstance(item, dict) for item in theirs):
            continue  # json-repair reads a fence or prose as something else
        ours = [(list(box.corners or ()), box.label) for box in read_boxes(text).boxes]
        assert ours == [([float(n) for n in item["bbox_2d"]], item["label"]) for item in theirs], text
        compared += 1
    assert compared > 1_500


# ---------------------------------------------------------------- words: the public VQA rule

_VQA_ARTICLES = {"a", "an", "the"}
_VQA_NUMBERS = {"none": "0"} | {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_VQA_SIGNS = ';/[]"{}()=+\\_-><@`,?!'


def vqa_form(answer):
    """The normal form of the VQA evaluation (github.com/GT-Vision-Lab/VQA), written from its description."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    for sign in _VQA_SIGNS:
        spaced = f"{sign} " in text or f" {sign}" in text or re.search(r"\d,\d", text)
        text = text.replace(sign, "" if spaced else " ")
    text = re.sub(r"(?<!\d)\.(?!\d)", "", text)
    words = [_VQA_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(word for word in words if word not in _VQA_ARTICLES)


PAIRS = [
    ("red", "Red."), ("the cat", "a cat"), ("two", "2"), ("t-shirt", "t shirt"), ("black and white", "Black and white"),
    ("1,000", "1000"), ("top left", "left"), ("yes", "no"), ("3", "13"), ("on the left", "on left"),
    ("stop sign", "stop"),
    ("men's", "mens"), ("baseball bat", "baseball  bat"), ("an apple", "apple"), ("U.S.", "US"), ("5 cm", "5 km"),
]  # fmt: skip
DIFFERENT = {
    "x > 3|x < 3": "a relation is no punctuation: the rule calls both x 3",
    "-5|5": "a minus is no punctuation",
    "3+|3": "a bound is no punctuation",
    "1/2|1 2": "a fraction is no punctuation",
    "none|0": "a short answer 'none' need not be a number; a count of none is 0",
    "vitamin A|vitamin": "a capital A inside a text is a name",
    "C++|C": "signs that belong to a word",
    "0.50|0.5": "one number",
    "twenty-one|21": "the rule knows the numbers to ten",
    "U.S.|US": "a full stop inside a word: ours keeps letters apart",
}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_normal_form_agrees_with_the_vqa_rule(one, other):
    ours = weak_form(tidy(one)) == weak_form(tidy(other))
    theirs = vqa_form(one) == vqa_form(other)
    if f"{one}|{other}" in DIFFERENT:
        assert ours != theirs
    else:
        assert ours == theirs, (vqa_form(one), vqa_form(other))


@pytest.mark.parametrize("pair", sorted(DIFFERENT))
def test_each_listed_difference_is_one(pair):
    one, other = pair.split("|")
    assert (weak_form(tidy(one)) == weak_form(tidy(other))) != (vqa_form(one) == vqa_form(other)), DIFFERENT[pair]


# ---------------------------------------------------------------- mathematics: math-verify


@pytest.mark.slow
def test_what_is_settled_here_agrees_with_math_verify():
    """Random rationals, decimals and powers in many spellings; the listed differences are math-verify's roundings."""
    math_verify = pytest.importorskip("math_verify")
    from verl_mars.tasks.math import plain_latex, settle

    rng = random.Random(0)
    compared = 0
    for _ in range(400):
        top, bottom = rng.randint(1, 40), rng.choice([1, 2, 4, 5, 8, 10])
        spellings = [f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"{top / bottom}", f"-{top / bottom}"]
        one, other = rng.choice(spellings), rng.choice(spellings)
        ours = settle(plain_latex(one), plain_latex(other))
        theirs = math_verify.verify(math_verify.parse(f"${other}$"), math_verify.parse(f"${one}$"))
        if ours is not None:
            assert ours == theirs, (one, other)
            compared += 1
    assert compared > 300


# ---------------------------------------------------------------- ocr: a slow edit distance


def edits(one, other):
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, last = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(row[-1] + 1, last[j] + 1, last[j - 1] + (a != b)))
    return row[-1]


def test_anls_is_that_of_a_slow_edit_distance():
    pytest.importorskip("rapidfuzz")
    rng = random.Random(0)
    task = TASKS["ocr"]
    for _ in range(300):
        truth = "".join(rng.choice("abc 12") for _ in range(rng.randint(1, 12))).strip() or "a"
        answer = "".join(rng.choice(truth + "xyz ") for _ in range(rng.randint(1, 12))).strip() or "b"
        one, other = " ".join(truth.split()), " ".join(answer.split())
        similarity = 1 - edits(one, other) / max(len(one), len(other))
        acc = task.score(answer, task.read({"answers": [truth]}), {}, RewardSettings()).acc
        assert acc == pytest.approx(similarity if similarity >= 0.5 else 0.0)


@pytest.mark.parametrize(
    ("answer", "acc"),
    [
        ("Exit 42", 1.0), ("exit  42", 1.0), ("\\boxed{Exit 42}", 1.0), ("Exit 43", 6 / 7), ("Exit", 4 / 7),
        ("Ex", 0.0), ("Sortie", 0.0), ("", 0.0), ("Salida 9", 1.0),
    ],
)  # fmt: skip
def test_hand_worked_anls(answer, acc):
    pytest.importorskip("rapidfuzz")
    truth = {"answers": ["Exit 42", "Salida 9"]}
    result = compute_score("d", f"<think>a</think><answer>{answer}</answer>", truth, {"task": "ocr"})
    assert result["acc"] == pytest.approx(acc)
