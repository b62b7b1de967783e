"""A row at fault is the user's fault: a clear error that names the row. So are settings."""

import json
import os
import subprocess
import sys

import pytest

from verl_mars.reward import compute_score
from verl_mars.reward.settings import ImageLimits, RewardSettings
from verl_mars.reward.truth import RowError

ANSWER = "<think>a</think><answer>x</answer>"
BOX = {"boxes": [[1, 2, 3, 4]], "labels": ["person"]}
CHOICE = {"letter": "A", "text": "x", "choices": ["x", "y"]}


def score(task, truth, info=None, **settings):
    info = {"index": 41, "split": "train", "sample_id": "s9", "task": task, **(info or {})}
    text = truth if isinstance(truth, str) else json.dumps(truth)
    return compute_score("books", ANSWER, text, info, **settings)


@pytest.mark.parametrize(
    ("task", "truth", "says"),
    [
        ("vqa", "red", "ground_truth is not JSON"),
        ("vqa", "[" * 100_000, "ground_truth is not JSON"),
        ("vqa", '"red"', "must be a JSON object with answers"),
        ("vqa", {"answer": "red"}, "has no 'answers'; task 'vqa' needs answers"),
        ("vqa", {"answers": "red"}, "answers = 'red' is not a list"),
        ("vqa", {"answers": []}, "is not a list of at least one answer"),
        ("vqa", {"answers": ["red", 3]}, r"answers\[1\] = 3 is not text"),
        ("vqa", {"answers": [" "]}, r"answers\[0\] = ' ' is not text"),
        ("count", {"value": "3"}, "value = '3' is not a whole number from 0"),
        ("count", {"value": True}, "value = True is not a whole number from 0"),
        ("count", {"value": -1}, "value = -1 is not a whole number from 0"),
        ("count", {"value": 2.5}, "value = 2.5 is not a whole number from 0"),
        ("math", {"answer": 4}, "answer = 4 is not an expression"),
        ("mcq", {"letter": "A", "text": "x"}, "has no 'choices'"),
        ("mcq", CHOICE | {"letter": "C"}, "letter = 'C'; 2 choices have A, B"),
        ("mcq", CHOICE | {"letter": 1}, "letter = 1; 2 choices have A, B"),
        ("mcq", CHOICE | {"text": "y"}, "text = 'y', but choice A is 'x'"),
        ("mcq", CHOICE | {"choices": ["x"]}, "is not a list of 2 to 26 texts"),
        ("mcq", CHOICE | {"choices": ["x", ""]}, "is not a list of 2 to 26 texts"),
        ("grounding", {"boxes": []}, "has no 'labels'; task 'grounding' needs boxes, labels"),
        ("grounding", BOX | {"labels": []}, "must be lists of one length"),
        ("grounding", BOX | {"boxes": [[1, 2, 3]]}, r"boxes\[0\] = \[1, 2, 3\] is not four finite numbers"),
        ("grounding", '{"boxes": [[NaN, 2, 3, 4]], "labels": ["a"]}', r"boxes\[0\] .* is not four finite numbers"),
        ("grounding", BOX | {"boxes": [[1, 2, 1, 4]]}, "has no area; wanted x1 < x2 and y1 < y2"),
        ("grounding", BOX | {"labels": [""]}, r"labels\[0\] = '' is not a word"),
        ("grounding", BOX | {"frame": -1}, "frame = -1 is not the index of an image"),
        ("grounding", BOX | {"frame": "0"}, "frame = '0' is not the index of an image"),
        ("grounding", BOX | {"size": [10]}, r"size = \[10\] is not \[width, height\]"),
        ("grounding", BOX | {"size": [10, 0]}, r"size = \[10, 0\] is not \[width, height\]"),
        ("grounding", BOX | {"size": ["a", 5]}, "is not .width, height. in pixels"),
        ("grounding", BOX | {"size": [3, 3]}, r"boxes\[0\] = \[1, 2, 3, 4\] leaves the image of 3 x 3 pixels"),
    ],
)
@pytest.mark.parametrize("variant", ["mars", "authors"])
def test_a_bad_ground_truth_names_its_row(task, truth, says, variant):
    if (task, variant) == ("math", "authors"):
        pytest.skip("the authors have no formula for it")
    with pytest.raises(RowError, match=says) as caught:
        score(task, truth, variant=variant)
    assert "row (data source 'books', split 'train', index 41, sample_id 's9'): " in str(caught.value)


@pytest.mark.parametrize("response", ["", "<think>a", ANSWER, "<think>a</think><answer></answer>"])
def test_a_bad_ground_truth_is_found_whatever_the_model_wrote(response):
    for task in ("grounding", "vqa", "mcq", "count", "math"):
        with pytest.raises(RowError, match="index 3"):
            compute_score("d", response, "{}", {"task": task, "index": 3})


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (None, "no index.*extra_info has no 'task'; allowed: grounding, vqa, mcq, count, math"),
        ({"index": 5}, "index 5.*extra_info has no 'task'"),
        ({"index": 5, "task": "detection"}, "index 5.*extra_info has task 'detection'; allowed: grounding"),
        ({"index": 5, "task": ["vqa"]}, r"has task \['vqa'\]"),
    ],
)
def test_a_missing_task_is_named(info, says):
    with pytest.raises(RowError, match=says):
        compute_score("d", ANSWER, json.dumps({"answers": ["x"]}), info)


@pytest.mark.parametrize(
    ("info", "truth", "says"),
    [
        ({"coordinates": "qwen"}, BOX, "coordinates = 'qwen'; allowed: pixel, qwen2_5_vl, qwen3_vl"),
        ({"coordinates": "qwen3_vl"}, BOX, "need the size of image 0: 'size' in the ground truth or 'image_sizes'"),
        ({"coordinates": "qwen3_vl", "image_sizes": [[9, 9]]}, BOX | {"frame": 1}, "has no size for image 1"),
        (
            {"image_sizes": [[9, 9]]},
            BOX | {"size": [9, 8]},
            r"size = \[9, 8\], but extra_info image_sizes\[0\] = \[9, 9\]",
        ),
        ({"image_sizes": 7}, BOX, "image_sizes = 7 has no size for image 0"),
        ({"image_sizes": [[9, "b"]]}, BOX, "is not .width, height. in pixels"),
        (
            {"coordinates": "qwen2_5_vl", "seen_sizes": []},
            BOX | {"size": [9, 9]},
            "seen_sizes = .* has no size for image 0",
        ),
        ({"coordinates": "qwen2_5_vl"}, BOX | {"size": [9000, 9]}, "9000 x 9 pixels is too narrow"),
    ],
)
def test_a_missing_size_is_named(info, truth, says):
    with pytest.raises(RowError, match=says) as caught:
        score("grounding", truth, info)
    assert "index 41" in str(caught.value)


def test_sizes_may_be_lists_tuples_or_numpy_rows():
    import numpy as np

    text = '<think>a</think><answer>[{"bbox_2d": [100, 200, 300, 400], "label": "person"}]</answer>'
    for sizes in ([[10, 10]], ((10, 10),), np.array([[10, 10]]), [np.array([10.0, 10.0])]):
        info = {"task": "grounding", "coordinates": "qwen3_vl", "image_sizes": sizes}
        assert compute_score("d", text, json.dumps(BOX), info)["acc"] == 1.0


def test_a_ground_truth_may_be_a_mapping():
    assert compute_score("d", ANSWER, {"answers": ["x"]}, {"task": "vqa"})["acc"] == 1.0


def test_the_row_is_left_as_it_is():
    info = {"task": "vqa", "index": 1}
    compute_score("d", ANSWER, {"answers": ["x"]}, info)
    assert info == {"task": "vqa", "index": 1}


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"weight": 1}, "reward.reward_kwargs.weight: unknown key; .*allowed: variant, accuracy_weight"),
        ({"variant": "paper"}, "reward.reward_kwargs.variant = 'paper': .*'mars' or 'authors'"),
        ({"accuracy_weight": -1, "format_weight": 0}, "accuracy_weight = -1: .*greater than or equal to 0"),
        ({"accuracy_weight": float("nan"), "format_weight": 0}, "accuracy_weight = nan: .*finite"),
        ({"accuracy_weight": "much", "format_weight": 0}, "accuracy_weight = 'much'"),
        ({"accuracy_weight": 1}, "accuracy_weight and format_weight go together"),
        ({"accuracy_weight": 0, "format_weight": 0}, "every score would be 0"),
        ({"variant": "authors", "accuracy_weight": 1, "format_weight": 1}, "has the published weights"),
        ({"coordinates": "qwen3"}, "coordinates = 'qwen3'"),
        ({"iou_threshold": 1.0}, "iou_threshold = 1.0"),
        ({"answer_tags": "none"}, "answer_tags = 'none'"),
        ({"math_timeout_seconds": 0}, "math_timeout_seconds = 0"),
        ({"image_processor": {"min_pixels": 10, "max_pixels": 5}}, r"min_pixels \(10\) is above max_pixels \(5\)"),
        ({"image_processor": {"size": 5}}, "image_processor.size: unknown key"),
        ({"overlong_buffer_cfg": {"enable": True, "len": 0}, "max_resp_len": 9}, "len must be above 0"),
        ({"overlong_buffer_cfg": {"enable": True, "len": 5}}, "max_resp_len is needed"),
        ({"overlong_buffer_cfg": {"enable": True, "len": 5}, "max_resp_len": 4}, "is below overlong_buffer_cfg.len"),
        ({"overlong_buffer_cfg": {"length": 5}}, "overlong_buffer_cfg.length: unknown key; did you mean 'len'"),
    ],
)
def test_impossible_settings_are_refused_by_name(section, says):
    with pytest.raises(ValueError, match=says):
        RewardSettings.read(section)


def test_an_unknown_argument_of_compute_score_is_refused():
    for arguments in ({"weight": 1}, {"image_processor": {"size": 3}}):
        with pytest.raises(ValueError, match=r"compute_score\.\S+: unknown key"):
            compute_score("d", ANSWER, {"answers": ["x"]}, {"task": "vqa"}, **arguments)


def test_what_verls_managers_pass_is_accepted():
    extra = {"reward_router_address": "host:1", "reward_model_tokenizer": object()}
    assert compute_score("d", ANSWER, {"answers": ["x"]}, {"task": "vqa"}, **extra)["score"] == 1.0


@pytest.mark.parametrize(
    ("task", "form_alone"), [("grounding", 3 / 7), ("vqa", 1 / 3), ("mcq", 1 / 3), ("count", 1 / 3)]
)
def test_default_weights_are_the_authors_proportions_with_a_perfect_score_of_one(task, form_alone):
    from verl_mars.reward.score import weights

    accuracy, form = weights(task, RewardSettings())
    assert accuracy + form == pytest.approx(1.0)
    assert form == pytest.approx(form_alone)
    assert form / accuracy == pytest.approx(0.75 if task == "grounding" else 0.5)


def test_settings_from_any_form_are_equal():
    plain = {"image_processor": {"max_pixels": 500_000}, "iou_threshold": 0.5}
    assert RewardSettings.read(plain).image_processor == ImageLimits(max_pixels=500_000)
    assert RewardSettings.read({}) == RewardSettings.read(None) == RewardSettings()


# ---------------------------------------------------------------- imports


def test_the_package_is_cheap_to_import_and_needs_no_verl():
    code = (
        "import sys, verl_mars.reward as r\n"
        "early = [m for m in ('verl', 'torch', 'transformers', 'numpy', 'scipy', 'pydantic') if m in sys.modules]\n"
        "r.compute_score('d', '<answer>[]</answer>', {'boxes': [], 'labels': []}, {'task': 'grounding'})\n"
        "print(early, [m for m in ('verl', 'torch', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert run.stdout.strip() == "[] []", run.stderr
