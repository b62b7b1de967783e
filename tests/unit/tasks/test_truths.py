"""Ground truths: what is allowed, and how each fault is told."""

import json

import pytest

from verl_mars.errors import SampleError
from verl_mars.tasks import task_named
from verl_mars.tasks.count import CountTruth
from verl_mars.tasks.grounding import GroundingTruth
from verl_mars.tasks.mcq import McqTruth
from verl_mars.tasks.vqa import VqaTruth

BOX = {"boxes": [[1, 2, 30, 40]], "labels": ["car"], "frame": 0, "size": [64, 48]}


def parse_truth(task, text):
    return task_named(task).read(text)


@pytest.mark.parametrize(
    ("task", "truth"),
    [
        ("grounding", BOX),
        ("grounding", {**BOX, "boxes": [], "labels": []}),
        ("vqa", {"answers": ["three", "3"]}),
        ("mcq", {"letter": "B", "text": "yard", "choices": ["road", "yard"]}),
        ("count", {"value": 0}),
        ("math", {"answer": "1/2"}),
    ],
)
def test_right_truths_come_back_as_they_were(task, truth):
    parsed = parse_truth(task, json.dumps(truth))
    assert json.loads(parsed.to_json()) == truth
    assert parse_truth(task, parsed.to_json()) == parsed


@pytest.mark.parametrize(
    ("task", "truth", "code", "says"),
    [
        ("grounding", {**BOX, "boxes": [[5, 2, 5, 40]]}, "zero_area", "no area"),
        ("grounding", {**BOX, "boxes": [[30, 2, 1, 40]]}, "box", "x1 < x2"),
        ("grounding", {**BOX, "boxes": [[1, 2, 65, 40]]}, "box", "64 x 48"),
        ("grounding", {**BOX, "boxes": [[-1, 2, 6, 40]]}, "box", "leaves the image"),
        ("grounding", {**BOX, "labels": []}, "box", "1 boxes but 0 labels"),
        ("grounding", {**BOX, "size": [0, 48]}, "ground_truth", "size[0]"),
        ("grounding", {**BOX, "frame": -1}, "ground_truth", "frame"),
        ("grounding", {**BOX, "boxes": [[1, 2, 3]]}, "ground_truth", "boxes[0]"),
        ("vqa", {"answers": []}, "ground_truth", "answers"),
        ("vqa", {"answers": ["  "]}, "answer", "empty"),
        ("vqa", {"answer": "x"}, "ground_truth", "answers"),
        ("mcq", {"letter": "C", "text": "x", "choices": ["x", "y"]}, "choices", "A to B"),
        ("mcq", {"letter": "A", "text": "y", "choices": ["x", "y"]}, "choices", "'x'"),
        ("mcq", {"letter": "a", "text": "x", "choices": ["x", "y"]}, "ground_truth", "letter"),
        ("count", {"value": -1}, "ground_truth", "value"),
        ("count", {"value": "3"}, "ground_truth", "value"),
        ("count", {"value": 3, "more": 1}, "ground_truth", "more"),
        ("detection", {}, "task", "grounding, vqa, mcq, count, math"),
    ],
)
def test_wrong_truths_are_named(task, truth, code, says):
    with pytest.raises(SampleError) as caught:
        parse_truth(task, json.dumps(truth))
    assert caught.value.code == code
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["no", "", "[1, 2", '{"answers": ["a"]', "null", "[" * 100_000])
def test_text_that_is_no_json_object_is_refused(text):
    with pytest.raises(SampleError) as caught:
        parse_truth("vqa", text)
    assert caught.value.code == "ground_truth"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number):
    with pytest.raises(SampleError):
        parse_truth("grounding", f'{{"boxes": [[1, 2, {number}, 4]], "labels": ["a"], "frame": 0, "size": [9, 9]}}')


def test_whole_floats_are_written_as_integers_and_text_as_it_is():
    truth = GroundingTruth(boxes=[(1.0, 2.5, 3.0, 4.0)], labels=["Müll"], frame=0, size=(9, 9))
    assert "[[1, 2.5, 3, 4]]" in truth.to_json() and "Müll" in truth.to_json()


def test_a_truth_cannot_be_changed():
    for truth in (VqaTruth(answers=["a"]), CountTruth(value=1), McqTruth(letter="A", text="x", choices=["x", "y"])):
        with pytest.raises(ValueError, match="frozen"):
            truth.value = 2  # type: ignore[misc]
