"""The authors' evaluation, written anew: its figures by hand, and its cleaning against the published expressions."""

import json
import random
import re

import pytest

from verl_mars.reward import authors_metric

BOXES = [[10, 10, 50, 50], [60, 60, 90, 90]]


def tagged(answer):
    return f"<think>a</think><answer>{answer}</answer>"


def boxes_answer(*boxes):
    items = json.dumps([{"bbox_2d": box, "label": "person"} for box in boxes])
    return tagged(f"```json\n{items}\n```")


def published_cleaning(text):
    """The substitutions of their script, in their order."""
    text = text.replace("-", " ")
    for pattern, by in (
        (r"(?<!\w):(?=\w)", " "),
        (r"(?<=\w):(?!\w)", " "),
        (r"(?<!\w)[^\w\s:]+(?=\w)", ""),
        (r"(?<=\w)[^\w\s:]+(?!\w)", ""),
        (r"\s+", " "),
    ):
        text = re.sub(pattern, by, text)
    return text.strip()


def test_cleaning_equals_the_published_expressions_but_in_linear_time():
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choice("ab1_ -:!?.,'\t\u00e9(") for _ in range(rng.randint(0, 14)))
        assert authors_metric._cleaned(text) == published_cleaning(text), text
    assert authors_metric._cleaned("!" * 200_000) == "!" * 200_000


def test_their_grounding_metric():
    rows = [
        (boxes_answer(*BOXES), BOXES),
        (boxes_answer(BOXES[0]), BOXES),  # mean IoU 0.5 is not above 0.5
        (boxes_answer(BOXES[0], [0, 0, 9, 9], BOXES[1]), BOXES),  # an excess box costs nothing
        (tagged(json.dumps(BOXES)), BOXES),  # no fence: left out
        ("", BOXES),  # left out
        (boxes_answer([10, 10, 50.5, 50], BOXES[1]), BOXES),  # a box of both kinds of numbers is lost
    ]
    metric = authors_metric.grounding_metric(rows)
    assert (metric.rows, metric.counted, metric.correct) == (6, 4, 2)
    assert metric.miou == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    assert metric.accuracy == 0.5 and metric.accuracy_of_all == pytest.approx(2 / 6)
    flat = authors_metric.grounding_metric([(boxes_answer([5, 5, 5, 5]), [[5, 5, 5, 5]])])
    assert (flat.crashed, flat.miou) == (1, 0.0)
    assert authors_metric.grounding_metric([("", BOXES)]).accuracy is None


@pytest.mark.parametrize(
    ("output", "truth", "right"),
    [
        ("", "yes", 1),
        ("yes or no", "no", 1),
        ("<think>a book</think><answer>B</answer>", "A", 1),
        (tagged("3"), "three or 3", 0),
        ("3", "three or 3", 1),
        (tagged("eyes"), "yes", 0),
        ("(" * 100_000, "yes", 0),
    ],
)
def test_their_metric_of_words(output, truth, right):
    assert authors_metric.words_metric([(output, truth)]).correct == right
