"""The evaluation files that the MARS authors publish: perfect, junk, empty and one-answer predictors."""

import json
import os
import random
from pathlib import Path

import pytest

from verl_mars.reward import compute_score
from verl_mars.reward.authors_metric import grounding_metric, words_metric
from verl_mars.tasks.mcq import choices_in
from verl_mars.tasks.words import alternatives
from verl_mars.vision.families import frame_named
from verl_mars.vision.resize import ImageLimits

ROOT = os.environ.get("VERL_MARS_REAL_DATA")
pytestmark = pytest.mark.skipif(not ROOT, reason="VERL_MARS_REAL_DATA does not name a folder with the real samples")
SIZE = [1280, 1024]
LIMITS = {"as published": ImageLimits(), "1.0 million pixels": ImageLimits(max_pixels=28 * 28 * 1280)}


def items(name):
    rows = json.loads((Path(ROOT) / "mars_eval" / name).read_text(encoding="utf-8"))
    assert rows
    return [(row["content"][-1]["text"], row["ground_truth"]) for row in rows]


def tagged(answer):
    return f"<think>I look at every source.</think><answer>{answer}</answer>"


# ---------------------------------------------------------------- LLVIP: 3,463 rows


def llvip():
    return [boxes for _, boxes in items("llvip_eval.json")]


def in_frame(boxes, frame, limits, digits=None):
    """A perfect predictor's answer in a family's own coordinates; ``digits=0`` writes whole numbers."""
    x, y = frame_named(frame).scale(tuple(SIZE), limits)
    shown = [[value / scale for value, scale in zip(box, (x, y, x, y), strict=True)] for box in boxes]
    if digits is not None:
        shown = [[int(round(value)) for value in box] for box in shown]
    return "```json\n" + json.dumps([{"bbox_2d": box, "label": "person"} for box in shown]) + "\n```"


def acc(boxes, answer, frame, limits):
    truth = json.dumps({"boxes": boxes, "labels": ["person"] * len(boxes), "frame": 0, "size": SIZE})
    info = {"task": "grounding", "coordinates": frame, "image_sizes": [SIZE, SIZE]}
    return compute_score("llvip", tagged(answer), truth, info, image_processor=limits)


@pytest.mark.parametrize(
    ("frame", "limits"),
    [("pixel", "as published"), ("qwen3_vl", "as published"), *[("qwen2_5_vl", name) for name in LIMITS]],
)
def test_a_perfect_predictor_scores_one_in_its_own_frame(frame, limits):
    rows, limits = llvip(), LIMITS[limits]
    assert len(rows) == 3463 and sum(map(len, rows)) == 8302
    for boxes in rows:
        result = acc(boxes, in_frame(boxes, frame, limits), frame, limits)
        assert result["acc"] == pytest.approx(1.0, abs=1e-9) and result["format"] == 1.0


@pytest.mark.parametrize(("frame", "least"), [("pixel", 1.0), ("qwen2_5_vl", 0.985), ("qwen3_vl", 0.98)])
def test_whole_numbers_cost_little(frame, least):
    limits, rows = LIMITS["as published"], llvip()[::5]
    scores = [acc(boxes, in_frame(boxes, frame, limits, 0), frame, limits)["acc"] for boxes in rows]
    assert least <= sum(scores) / len(scores) <= 1.0


@pytest.mark.parametrize(
    ("frame", "limits", "miou", "accuracy"),
    [
        ("pixel", "as published", 1.0, 1.0),
        ("qwen2_5_vl", "as published", 0.868, 1.0),
        ("qwen2_5_vl", "1.0 million pixels", 0.127, 0.017),
        ("qwen3_vl", "as published", 0.142, 0.040),
    ],
)
def test_a_perfect_answer_looks_bad_where_nothing_is_converted(frame, limits, miou, accuracy):
    """Fault 15, in the authors' metric: the figures of docs/rewards.md."""
    rows = llvip()
    theirs = grounding_metric((tagged(in_frame(boxes, frame, LIMITS[limits], 0)), boxes) for boxes in rows)
    assert theirs.miou == pytest.approx(miou, abs=0.002)
    assert theirs.accuracy == pytest.approx(accuracy, abs=0.002)


def test_junk_scores_nothing():
    rng = random.Random(0)
    for boxes in llvip()[:500]:
        words = " ".join(rng.choice(["person", "at", "[", "12", ",", "}", "the", "box"]) for _ in range(30))
        result = compute_score(
            "llvip",
            words,
            {"boxes": boxes, "labels": ["person"] * len(boxes), "frame": 0, "size": SIZE},
            {"task": "grounding"},
        )
        assert result["score"] == 0.0
        far = [{"bbox_2d": [0, 0, 1 + rng.random(), 1], "label": "person"} for _ in range(5)]
        assert acc(boxes, json.dumps(far), "pixel", ImageLimits())["acc"] == 0.0


def test_a_hundred_boxes_of_junk_beside_a_perfect_answer():
    """Fault 17: 1.0 in the authors' metric."""
    rows = llvip()[:100]
    junk = [[1, 1, 3, 3]] * 100
    theirs = grounding_metric((tagged(in_frame([*boxes, *junk], "pixel", ImageLimits(), 0)), boxes) for boxes in rows)
    assert theirs.miou == pytest.approx(1.0) and theirs.accuracy == 1.0
    ours = [acc(boxes, in_frame([*boxes, *junk], "pixel", ImageLimits()), "pixel", ImageLimits()) for boxes in rows]
    assert max(result["acc"] for result in ours) < 0.2


def test_answers_that_cannot_be_read_are_counted():
    """Fault 16: dropped from the authors' denominator."""
    rows = llvip()[:100]
    outputs = [
        tagged(in_frame(b, "pixel", ImageLimits(), 0)) if i < 10 else "I see nobody." for i, b in enumerate(rows)
    ]
    theirs = grounding_metric(zip(outputs, rows, strict=True))
    assert (theirs.accuracy, theirs.counted, theirs.accuracy_of_all) == (1.0, 10, 0.1)


# ---------------------------------------------------------------- answers in words


def vqa_rows(name):
    return [({"answers": alternatives(truth)}, truth) for _, truth in items(name)]


def mcq_rows():
    rows = []
    for question, letter in items("OCR-VQA_eval.json"):
        choices = choices_in(question)
        assert len(choices) in (3, 4), question
        rows.append(({"letter": letter, "text": choices[ord(letter) - ord("A")], "choices": choices}, letter))
    return rows


FILES = {
    "OCR-VQA": ("mcq", mcq_rows, 73),
    "SpatialBench": ("vqa", lambda: vqa_rows("spatialqa_eval.json"), 80),
    "nuScenes": ("vqa", lambda: vqa_rows("nuscenes_eval.json"), 100),
}


def right(name, answer):
    """How many rows of a file a predictor gets right; ``answer`` is a text or makes one of a truth."""
    task, rows, number = FILES[name]
    rows = rows()
    assert len(rows) == number
    said = answer if callable(answer) else lambda truth: tagged(answer)
    return sum(compute_score(name, said(truth), json.dumps(truth), {"task": task})["acc"] for truth, _ in rows)


@pytest.mark.parametrize(
    ("name", "answer", "number"),
    [
        ("OCR-VQA", "A", 18),
        ("OCR-VQA", "B", 22),
        ("OCR-VQA", "C", 17),
        ("OCR-VQA", "D", 16),
        ("OCR-VQA", "A or B or C or D", 0),
        ("OCR-VQA", "not the same", 0),  # right in none of the rows: one cover gives the answer
        ("SpatialBench", "B", 0),
        ("SpatialBench", "Yes", 41),
        ("SpatialBench", "No", 39),
        ("SpatialBench", "yes or no", 0),
        ("nuScenes", "B", 0),
        ("nuScenes", "not sure", 0),
    ],
)
def test_a_predictor_of_one_answer_gets_what_it_deserves(name, answer, number):
    assert right(name, answer) == number


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("output", ["", tagged(""), tagged(" "), tagged("?"), "Yes. B. 3. no"])
def test_an_empty_predictor_gets_nothing(name, output):
    assert right(name, lambda truth: output) == 0


def perfect(truth):
    return [truth["letter"], truth["text"]] if "letter" in truth else truth["answers"]


@pytest.mark.parametrize("name", FILES)
def test_a_perfect_predictor_gets_everything_in_every_form(name):
    forms = ["{}", "{}.", "The answer is {}.", "**{}**"]
    for form in forms:
        for pick in (0, -1):
            said = right(name, lambda truth, form=form, pick=pick: tagged(form.format(perfect(truth)[pick])))
            assert said == FILES[name][2], (form, pick)


def test_wrong_choices_are_wrong():
    """Fault 3: 60 of the 219 wrong choices score as right with the authors, as written with letter and text."""
    theirs = ours = wrong = 0
    for truth, letter in mcq_rows():
        for index, text in enumerate(truth["choices"]):
            other = "ABCD"[index]
            if other == letter:
                continue
            wrong += 1
            answer = tagged(f"{other}. {text}")
            ours += compute_score("d", answer, truth, {"task": "mcq"})["acc"]
            theirs += compute_score("d", answer, truth, {"task": "mcq"}, variant="authors")["acc"]
    assert (wrong, theirs, ours) == (219, 60, 0)


# ---------------------------------------------------------------- what the authors' evaluation makes of them (fault 19)


def their_accuracy(name, output):
    metric = words_metric((output, text) for _, text in FILES[name][1]())
    return metric.correct


@pytest.mark.parametrize("name", FILES)
def test_their_metric_takes_the_empty_output_for_right(name):
    assert their_accuracy(name, "") == FILES[name][2]


def test_their_metric_takes_an_article_for_the_choice_a():
    assert their_accuracy("OCR-VQA", "<think>This is a book cover.</think><answer>B</answer>") == 40
    assert right("OCR-VQA", lambda truth: "<think>This is a book cover.</think><answer>B</answer>") == 22


def test_their_metric_takes_hedging_for_right():
    assert their_accuracy("SpatialBench", "yes or no") == 80


def test_their_metric_does_not_know_alternatives():
    rows = [(truth, text) for truth, text in FILES["nuScenes"][1]() if " or " in text]
    assert len(rows) == 32
    assert words_metric((tagged(truth["answers"][0]), text) for truth, text in rows).correct == 0
