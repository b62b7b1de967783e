"""The score of boxes: hand-worked numbers, a slow twin, and what must hold for any boxes."""

import itertools
import json
import random

import numpy as np
import pytest

from verl_mars.reward import compute_score
from verl_mars.tasks.boxes import Box
from verl_mars.tasks.grounding import GroundingTruth, best_match, iou_matrix, judge


def truth(boxes, labels=None, size=(1000, 1000)):
    return GroundingTruth(boxes=boxes, labels=labels or ["person"] * len(boxes), frame=0, size=size)


def said(*boxes, label="person"):
    return [Box(tuple(map(float, box)), label) for box in boxes]


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0 or a[2] <= a[0] or a[3] <= a[1]:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def slow_acc(boxes, true, threshold):
    """Every one-to-one matching tried in turn."""
    gain = [
        [
            iou if (iou := slow_iou(box.corners, wanted)) > threshold and box.label == label else 0.0
            for wanted, label in zip(true.boxes, true.labels, strict=True)
        ]
        for box in boxes
    ]
    slots = [*range(len(true.boxes)), *[None] * len(boxes)]
    best = max(
        (
            sum(gain[row][column] for row, column in enumerate(chosen) if column is not None)
            for chosen in set(itertools.permutations(slots, len(boxes)))
        ),
        default=0.0,
    )
    return 2 * best / (len(boxes) + len(true.boxes))


def test_equals_a_slow_twin_that_tries_every_matching():
    rng = random.Random(0)
    partial = 0
    for _ in range(300):
        corners = [rng.randint(0, 40) for _ in range(8)]
        boxes = [
            [x, y, x + rng.randint(5, 40), y + rng.randint(5, 40)]
            for x, y in zip(corners[:4], corners[4:], strict=True)
        ]
        boxes = [[x1, y1, min(x2, 100), min(y2, 100)] for x1, y1, x2, y2 in boxes]
        kept = boxes[: rng.randint(1, 3)]
        true = truth(kept, [rng.choice(["person", "car"]) for _ in kept], size=(100, 100))
        answer = [
            Box(
                tuple(float(min(v + rng.choice([0, 0, 3, -3]), 100)) for v in rng.choice(boxes)),
                rng.choice(["person", "car"]),
            )
            for _ in range(rng.randint(1, 3))
        ]
        answer = [Box(tuple(max(0.0, v) for v in box.corners), box.label) for box in answer]
        acc, _ = judge(answer, true, (1.0, 1.0), 0.3)
        assert acc == pytest.approx(slow_acc(answer, true, 0.3), abs=1e-12)
        partial += 0 < acc < 1
    assert partial > 100, "too few cases in between to compare anything"


def test_hand_worked_metrics():
    true = truth([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    answer = said([0, 0, 10, 10], [20, 0, 30, 4], [70, 0, 80, 10])  # IoU 1, 0.4, none
    acc, details = judge(answer, true, (1.0, 1.0), 0.3)
    assert acc == pytest.approx(2 * 1.4 / 6)
    third = 1 / 3
    assert details == pytest.approx(
        {"iou": 1.4 / 3, "precision": third, "recall": third, "f1": third, "boxes_predicted": 3, "boxes_true": 3}
    )


def test_the_threshold_gates_the_score_and_not_the_iou():
    acc, details = judge(said([0, 0, 10, 2]), truth([[0, 0, 10, 10]]), (1.0, 1.0), 0.3)
    assert (acc, details["iou"]) == (0.0, pytest.approx(0.2))


def test_the_matching_is_the_best_and_not_the_greedy_one():
    # Greedy takes (0, 0) at 0.9 and leaves nothing for the second; the best takes 0.8 + 0.8.
    rows, columns = best_match(np.array([[0.9, 0.8], [0.8, 0.0]]))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_rows_and_columns_without_value_do_not_change_the_matching():
    rng = np.random.default_rng(0)
    for _ in range(50):
        core = rng.random((4, 3))
        padded = np.zeros((9, 8))
        rows, columns = np.sort(rng.choice(9, 4, replace=False)), np.sort(rng.choice(8, 3, replace=False))
        padded[np.ix_(rows, columns)] = core
        assert padded[best_match(padded)].sum() == pytest.approx(core[best_match(core)].sum())


def test_iou_of_boxes_without_area_is_zero_and_warns_nobody():
    boxes = np.array([[0, 0, 0, 0], [5, 5, 1, 1], [0, 0, 4, 4]], dtype=float)
    with np.errstate(all="raise"):
        matrix = iou_matrix(boxes, boxes)
    assert matrix.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_scores_stay_in_bounds_and_only_the_perfect_answer_earns_one():
    rng = random.Random(1)
    for _ in range(300):
        true = truth([[x, x, x + 30, x + 30] for x in range(0, 40 * rng.randint(1, 5), 40)])
        perfect = said(*true.boxes)
        assert judge(perfect, true, (1.0, 1.0), 0.3)[0] == 1.0
        for worse in (perfect[1:], [*perfect, *said([900, 900, 950, 950])], [*perfect, perfect[0]]):
            assert 0.0 <= judge(worse, true, (1.0, 1.0), 0.3)[0] < 1.0


def test_more_junk_never_earns_more():
    true = truth([[0, 0, 10, 10], [100, 100, 110, 110]])
    scores = [
        judge([*said([0, 0, 10, 10]), *said(*[[500 + i, 500, 510 + i, 510] for i in range(n)])], true, (1, 1), 0.3)[0]
        for n in range(20)
    ]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]


def test_a_picture_can_be_larger_than_the_answer_allows():
    """Boxes are cut at the edges of the image, so that one that leaves it still matches what is inside."""
    answer = '<think>a</think><answer>[{"bbox_2d": [90, 90, 150, 150], "label": "person"}]</answer>'
    row = {"boxes": [[90, 90, 100, 100]], "labels": ["person"], "frame": 0, "size": [100, 100]}
    assert compute_score("d", answer, json.dumps(row), {"task": "grounding"})["acc"] == 1.0
