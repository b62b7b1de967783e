"""A row at fault is the user's fault: a clear error that names the row. So are settings."""

import json
import os
import subprocess
import sys

import pytest

from verl_mars.data.row_checks import RowRules
from verl_mars.errors import RowError
from verl_mars.reward import compute_score
from verl_mars.reward.settings import RewardSettings
from verl_mars.tasks import TASKS
from verl_mars.vision.resize import ImageLimits

ANSWER = "<think>a</think><answer>x</answer>"
BOX = {"boxes": [[1, 2, 3, 4]], "labels": ["person"], "frame": 0, "size": [100, 100]}
CHOICE = {"letter": "A", "text": "x", "choices": ["x", "y"]}


def score(task, truth, info=None, **settings):
    info = {"index": 41, "split": "train", "sample_id": "s9", "task": task, **(info or {})}
    text = truth if isinstance(truth, str) else json.dumps(truth)
    return compute_score("books", ANSWER, text, info, **settings)


BAD_TRUTHS = [
    ("vqa", "red", "'red' is no JSON text"),
    ("vqa", "[" * 100_000, "is no JSON text"),
    ("vqa", '"red"', "Input should be an object with answers"),
    ("vqa", {"answer": "red"}, "answer: unknown key; did you mean 'answers'"),
    ("vqa", {"answers": "red"}, "answers: Input should be a valid list, given 'red'; vqa needs"),
    ("vqa", {"answers": []}, "answers: List should have at least 1 item"),
    ("vqa", {"answers": ["red", 3]}, r"answers\[1\]: Input should be a valid string, given 3"),
    ("vqa", {"answers": [" "]}, r"answers\[0\]: an answer is empty"),
    ("vqa", {"answers": ["red"], "choices": ["red", "blue"]}, "choices: unknown key"),
    ("vqa", '{"answers": ["red"], "answers": ["blue"]}', "the key 'answers' is given twice"),
    ("count", {"value": "3"}, "value: Input should be a valid integer, given '3'"),
    ("count", {"value": True}, "value: Input should be a valid integer, given True"),
    ("count", {"value": -1}, "value: Input should be greater than or equal to 0, given -1"),
    ("count", {"value": 2.5}, "value: Input should be a valid integer"),
    ("math", {"answer": 4}, "answer: Input should be a valid string, given 4"),
    ("mcq", {"letter": "A", "text": "x"}, "choices: is missing"),
    ("mcq", CHOICE | {"letter": "C"}, "letter 'C' is none of the choices' A to B"),
    ("mcq", CHOICE | {"letter": "a"}, "letter: String should match pattern"),
    ("mcq", CHOICE | {"letter": 1}, "letter: Input should be a valid string, given 1"),
    ("mcq", CHOICE | {"text": "y"}, "choice A is 'x', but text is 'y'"),
    ("mcq", CHOICE | {"text": "X"}, "choice A is 'x', but text is 'X'"),
    ("mcq", CHOICE | {"choices": ["x"]}, "choices: List should have at least 2 items"),
    ("mcq", CHOICE | {"choices": ["x", ""]}, r"choices\[1\]: an answer is empty"),
    ("grounding", {"boxes": []}, "labels: is missing"),
    ("grounding", {"boxes": [[1, 2, 3, 4]], "labels": ["a"]}, "frame: is missing"),
    ("grounding", BOX | {"labels": []}, "1 boxes but 0 labels"),
    ("grounding", BOX | {"boxes": [[1, 2, 3]]}, r"boxes\[0\]\[3\]: is missing"),
    ("grounding", BOX | {"boxes": [["1", 2, 3, 4]]}, r"boxes\[0\]\[0\]: a number is needed, given '1'"),
    ("grounding", json.dumps(BOX).replace("[1,", "[NaN,"), "NaN is not a finite number"),
    ("grounding", BOX | {"boxes": [[1, 2, 1, 4]]}, r"box 0 \[1.0, 2.0, 1.0, 4.0\] has no area"),
    ("grounding", BOX | {"labels": [""]}, r"labels\[0\]: an answer is empty"),
    ("grounding", BOX | {"frame": -1}, "frame: Input should be greater than or equal to 0"),
    ("grounding", BOX | {"frame": "0"}, "frame: a number is needed, given '0'"),
    ("grounding", BOX | {"size": [10]}, r"size\[1\]: is missing"),
    ("grounding", BOX | {"size": [10, 0]}, r"size\[1\]: Input should be greater than 0"),
    ("grounding", BOX | {"size": ["a", 5]}, r"size\[0\]: a number is needed, given 'a'"),
    ("grounding", BOX | {"size": [3, 3]}, r"box 0 \[1.0, 2.0, 3.0, 4.0\] leaves the image of 3 x 3 pixels"),
]


@pytest.mark.parametrize(("task", "truth", "says"), BAD_TRUTHS)
@pytest.mark.parametrize("variant", ["mars", "authors"])
def test_a_bad_ground_truth_names_its_row(task, truth, says, variant):
    with pytest.raises(RowError, match=says) as caught:
        score(task, truth, variant=variant)
    assert "row (data source 'books', split 'train', index 41, sample_id 's9'): " in str(caught.value)


@pytest.mark.parametrize(("task", "truth", "says"), BAD_TRUTHS)
def test_the_data_check_refuses_it_with_the_same_sentence(task, truth, says):
    text = truth if isinstance(truth, str) else json.dumps(truth)
    row = {"extra_info": {"task": task, "index": 41}, "reward_model": {"ground_truth": text}, "images": ["/a.png"]}
    (problem,) = (found for found in RowRules().problems(row) if found.key.startswith("reward_model.ground_truth"))
    with pytest.raises(RowError) as caught:
        score(task, truth)
    assert str(caught.value).endswith(f": {problem.key}: {problem.message}")


def test_the_data_check_refuses_an_unknown_frame_of_boxes():
    row = {"extra_info": {"task": "grounding", "index": 41, "coordinates": "qwen"}}
    (problem,) = (found for found in RowRules().problems(row) if found.code == "coordinates")
    with pytest.raises(RowError) as caught:
        score("grounding", BOX, {"coordinates": "qwen"})
    assert str(caught.value).endswith(problem.message)


@pytest.mark.parametrize("response", ["", "<think>a", ANSWER, "<think>a</think><answer></answer>"])
def test_a_bad_ground_truth_is_found_whatever_the_model_wrote(response):
    for task in TASKS:
        with pytest.raises(RowError, match="index 3"):
            compute_score("d", response, "{}", {"task": task, "index": 3})


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (None, "no index.*extra_info.task: None is no task; allowed: grounding, vqa, mcq, count, math"),
        ({"index": 5}, "index 5.*extra_info.task: None"),
        ({"index": 5, "task": "detection"}, "index 5.*extra_info.task: 'detection' is no task; allowed: grounding"),
        ({"index": 5, "task": ["vqa"]}, r"\['vqa'\] is no task"),
    ],
)
def test_a_missing_task_is_named(info, says):
    with pytest.raises(RowError, match=says):
        compute_score("d", ANSWER, json.dumps({"answers": ["x"]}), info)


@pytest.mark.parametrize(
    ("info", "truth", "says"),
    [
        ({"coordinates": "qwen"}, BOX, "'qwen' is no frame of boxes; allowed: pixel, .*qwen2_5_vl"),
        ({"image_sizes": [[9, 9]]}, BOX | {"frame": 1}, r"image_sizes: \[\[9, 9\]\] has no .* for image 1"),
        ({"image_sizes": [[9, 9]]}, BOX | {"size": [9, 8]}, "the ground truth says 9 x 8, .*image_sizes 9 x 9"),
        ({"image_sizes": 7}, BOX, "image_sizes: 7 has no .* for image 0"),
        ({"image_sizes": [[9, "b"]]}, BOX, "has no .width, height. in pixels"),
        ({"coordinates": "qwen2_5_vl", "seen_sizes": []}, BOX, "seen_sizes: .* has no .* for image 0"),
        ({"coordinates": "qwen2_5_vl"}, BOX | {"size": [9000, 9]}, "9000 x 9 pixels: sides differ"),
    ],
)
def test_a_wrong_size_is_named(info, truth, says):
    with pytest.raises(RowError, match=says) as caught:
        score("grounding", truth, info)
    assert "index 41" in str(caught.value)


def test_sizes_may_be_lists_tuples_or_numpy_rows():
    import numpy as np

    text = '<think>a</think><answer>[{"bbox_2d": [100, 200, 300, 400], "label": "person"}]</answer>'
    for sizes in ([[10, 10]], ((10, 10),), np.array([[10, 10]]), [np.array([10.0, 10.0])]):
        info = {"task": "grounding", "coordinates": "qwen3_vl", "image_sizes": sizes}
        assert compute_score("d", text, json.dumps(BOX | {"size": [10, 10]}), info)["acc"] == 1.0


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
        ({"weight": 1}, "reward.reward_kwargs.weight: unknown key; .*allowed: .*accuracy_weight"),
        ({"variant": "paper"}, "reward.reward_kwargs.variant = 'paper': .*'mars' or 'authors'"),
        ({"accuracy_weight": -1, "format_weight": 0}, "accuracy_weight = -1: .*greater than or equal to 0"),
        ({"accuracy_weight": float("nan"), "format_weight": 0}, "accuracy_weight = nan: .*finite"),
        ({"accuracy_weight": "much", "format_weight": 0}, "accuracy_weight = 'much'"),
        ({"accuracy_weight": 1}, "accuracy_weight and format_weight go together"),
        ({"accuracy_weight": 0, "format_weight": 0}, "every score would be 0"),
        ({"variant": "authors", "accuracy_weight": 1, "format_weight": 1}, "has the published weights"),
        ({"coordinates": "qwen3"}, "coordinates = 'qwen3': .*no frame of boxes"),
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
    accuracy, form = TASKS[task].weights
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
        "r.compute_score('d', '<answer>[]</answer>', {'boxes': [], 'labels': [], 'frame': 0, "
        "'size': [9, 9]}, {'task': 'grounding'})\n"
        "print(early, [m for m in ('verl', 'torch', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert run.stdout.strip() == "[] []", run.stderr
