"""The published formulas, against numbers worked out by hand from the authors' code, and its crashes."""

import json
import math

import pytest

from verl_mars.errors import RowError
from verl_mars.reward import compute_score


def score(task, truth, text):
    return compute_score("d", text, json.dumps(truth), {"task": task, "index": 1}, variant="authors")


def response(*boxes, think="<think>t</think>", label="person"):
    items = json.dumps([{"bbox_2d": box, "label": label} for box in boxes])
    return f"{think}<answer>```json\n{items}\n```</answer>"


ONE = {"boxes": [[0, 0, 10, 10]], "labels": ["person"], "frame": 0, "size": [100, 100]}
NOTHING = {"boxes": [], "labels": [], "frame": 0, "size": [100, 100]}
TWO = {"boxes": [[0, 0, 10, 10], [20, 0, 30, 10]], "labels": ["person", "person"], "frame": 0, "size": [100, 100]}
A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [90, 90, 99, 99]


@pytest.mark.parametrize(
    ("truth", "text", "acc", "form"),
    [
        (ONE, response(A), 1.0, 0.75),
        (ONE, response([0, 0, 10, 5]), 0.5, 0.75),
        (ONE, response([0, 0, 10, 3]), 0.3, 0.75),  # an IoU of 0.3 passes in the authors' single precision
        (ONE, response([0, 0, 10, 2]), 0.0, 0.75),
        (ONE, response(A, label="car"), 1.0, 0.75),  # fault 7: labels are not looked at
        (ONE, response(A, FAR), 0.5, 0.75),  # one in excess: 1 - 0.5
        (ONE, response(A, FAR, FAR), 0.0, 0.75),  # two: 1 - 1
        (TWO, response(A, B), 1 + 0.3 * math.log(2), 0.75),  # fault 12: more than 1
        (TWO, response(A), (1 + 0.3 * math.log(2)) / 2, 0.75),
        (TWO, response(A, B, FAR), 1 + 0.3 * math.log(2) - 0.25, 0.75),
        (NOTHING, response(), 0.0, 0.75),  # fault 9
        (NOTHING, response(A), 0.0, 0.75),
        (ONE, response(A, think=""), 1.0, 0.5),
        (ONE, f"{response(A, think='')}<think>t</think>", 1.0, 0.75),  # fault 11: order does not matter
        (ONE, f"<answer>x</answer>{response(A)}", 0.0, 0.25),  # fault 11: the first answer counts
        (ONE, f"<think>t</think><answer>{json.dumps([{'bbox_2d': A}])}</answer>", 0.0, 0.5),  # fault 8: no fence
        (ONE, f"<think>t</think><answer>```json\n{json.dumps({'bbox_2d': A})}\n```</answer>", 0.0, 0.75),  # fault 8
        (ONE, f"```json\n{json.dumps([{'bbox_2d': A}])}\n```", 1.0, 0.0),  # without tags the whole text is searched
        (ONE, "<think>t</think><answer>```json\n[{'bbox_2d': [0, 0, 10, 10]}]\n```</answer>", 1.0, 0.75),
        (ONE, "<think>t</think><answer>```json\n[{\"bbox_2d\": '[0, 0, 10, 10]'}]\n```</answer>", 1.0, 0.75),
        (ONE, response([0, 0, 10]), 0.0, 0.75),
        (ONE, response(A, [0, 0, 10]), 1.0, 0.75),  # an item without four corners is not in excess
        (ONE, "", 0.0, 0.0),
    ],
)
def test_boxes(truth, text, acc, form):
    result = score("grounding", truth, text)
    assert (result["acc"], result["format"]) == pytest.approx((acc, form), abs=1e-6)
    assert result["score"] == pytest.approx(acc + form, abs=1e-6)


@pytest.mark.parametrize(
    ("truth", "answer", "acc"),
    [
        ("yes", "yes", 1.0),
        ("Yes", "YES, there is", 1.0),
        ("yes", "no", 0.0),
        ("no", "not sure", 1.0),  # fault 2
        ("yes", "e", 1.0),  # fault 2
        ("yes", "", 1.0),  # fault 2: the empty answer
        ("a", "C. Lonely Planet", 1.0),  # fault 3
    ],
)
def test_words(truth, answer, acc):
    result = score("vqa", {"answers": [truth]}, f"<think>t</think><answer>{answer}</answer>")
    assert (result["acc"], result["score"]) == (acc, acc + 0.25 + 0.25 * bool(answer))


def test_alternatives_are_joined_as_the_authors_files_join_them():
    text = "<think>t</think><answer>or</answer>"
    assert score("vqa", {"answers": ["ten", "10"]}, text)["acc"] == 1.0  # fault 2: "or" is in "ten or 10"
    assert score("vqa", {"answers": ["ten", "10"]}, text.replace("or", "there are 10"))["acc"] == 0.0  # fault 4


def test_choices_and_counts_take_the_formula_for_words():
    truth = {"letter": "A", "text": "x", "choices": ["x", "Lonely Planet"]}
    assert score("mcq", truth, "<think>t</think><answer>B. Lonely Planet</answer>")["acc"] == 1.0  # fault 3
    assert score("count", {"value": 13}, "<think>t</think><answer>3</answer>")["acc"] == 1.0


@pytest.mark.parametrize("task", ["grounding", "vqa"])
def test_crashes_of_the_authors_code_are_zeros(task):
    truth = ONE if task == "grounding" else {"answers": ["yes"]}
    for text in ("", "no tags at all", "<answer>", "<think>t</think>"):
        result = score(task, truth, text)  # fault 1: AttributeError
        assert result["acc"] == 0.0 and result["error"]


def test_a_box_of_nan_is_a_zero_and_not_a_nan():
    nan = '<think>t</think><answer>```json\n[{"bbox_2d": [NaN, 0, 10, 10]}]\n```</answer>'  # fault 6
    assert score("grounding", ONE, nan)["score"] == 0.75
    turned = response([20, 0, 10, 10], A)  # its area cancels the true box's: the authors divide 0 by 0
    assert score("grounding", ONE, turned)["score"] == pytest.approx(0.75 + 0.5)


def test_coordinates_are_never_converted():
    info = {"task": "grounding", "coordinates": "qwen3_vl"}
    truth = {**ONE, "size": [100, 100]}
    assert compute_score("d", response(A), json.dumps(truth), info, variant="authors")["acc"] == 1.0


def test_mathematics_has_no_published_formula():
    with pytest.raises(RowError, match=r"index 1.*no formula for task 'math'"):
        score("math", {"answer": "1"}, "<answer>1</answer>")
