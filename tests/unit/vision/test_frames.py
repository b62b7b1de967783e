"""Frames of boxes. What verl's real path does to an image is checked in tests/contract/test_reward_contract.py."""

import json

import pytest

from verl_mars.errors import SampleError
from verl_mars.reward import compute_score
from verl_mars.vision.checkpoint import read_family, read_limits
from verl_mars.vision.families import FAMILIES, IMAGE_LIMITS, frame_named
from verl_mars.vision.resize import ImageLimits, limits_of, seen_size, visual_tokens

PUBLISHED = ImageLimits()
SMALL = ImageLimits(max_pixels=28 * 28 * 1280)


def test_pixels_stay_pixels():
    assert frame_named("pixel").scale((9, 9), PUBLISHED) == (1.0, 1.0)


def test_thousandths_of_the_image():
    assert frame_named("qwen3_vl").scale((1280, 1024), PUBLISHED) == (1.28, 1.024)


@pytest.mark.parametrize(
    ("size", "limits", "seen"),
    [
        ((1280, 1024), PUBLISHED, (1288, 1036)),  # one rounding to multiples of 28
        ((1280, 1024), SMALL, (1092, 896)),  # and a second resize from there, not from 1280 x 1024 (1120 x 896)
        ((56, 56), PUBLISHED, (56, 56)),
        ((10, 10), PUBLISHED, (56, 56)),  # up to the least number of pixels
        ((640, 512), PUBLISHED, (644, 504)),
        ((1900, 10), PUBLISHED, (1904, 28)),  # the first resize keeps a side of 10 at one patch; rounding alone gives 0
        ((8000, 6000), ImageLimits(patch_size=14, max_pixels=10**6), (1148, 840)),
    ],
)
def test_the_image_as_the_model_sees_it(size, limits, seen):
    assert seen_size(size, limits) == seen


def test_each_side_has_its_own_scale():
    x, y = frame_named("qwen2_5_vl").scale((1280, 1024), SMALL)
    assert (x, y) == (1280 / 1092, 1024 / 896) and x != y


def test_a_row_may_say_how_its_image_was_seen():
    assert frame_named("qwen2_5_vl").scale((100, 50), PUBLISHED, (50, 25)) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("size", "limits", "says"),
    [
        ((4000, 10), {}, "4000 x 10 pixels: sides differ by more than 200 times"),
        ((1900, 10), {"min_pixels": 784, "max_pixels": 1000}, "1900 x 10 pixels: a side has no pixel left"),
        ((5969, 37), {"min_pixels": 784, "max_pixels": 170_000}, "5969 x 37 pixels becomes .* too narrow"),
        ((64, 48), {"min_pixels": 9999, "max_pixels": 1000}, "min_pixels 9999 is more than max_pixels 1000"),
    ],
)
def test_an_image_that_no_processor_takes_is_refused(size, limits, says):
    with pytest.raises(SampleError, match=says):
        seen_size(size, PUBLISHED, **limits)


def test_lengths_of_known_images():
    qwen2, qwen3 = FAMILIES["qwen2_5_vl"].limits, FAMILIES["qwen3_vl"].limits
    assert visual_tokens((1280, 1024), qwen2) == 1702 + 2 and visual_tokens((1280, 1024), qwen3) == 1280 + 2
    assert visual_tokens((1600, 900), qwen2) == 1824 + 2 and visual_tokens((640, 512), qwen2) == 414 + 2
    assert visual_tokens((1600, 900), qwen2, None, 500_000) < 640


# ---------------------------------------------------------------- a model's own files


def write_model(folder, model_type, **processor):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if processor:
        name, content = processor.popitem()
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("family", "box"),
    [
        ("pixel", [10, 20, 110, 220]),
        ("qwen2_vl", [10, 40, 110, 440]),
        ("qwen2_5_vl", [10.08, 20.16, 110.88, 221.76]),  # 1000 x 500 is seen as 1008 x 504
        ("qwen3_vl_moe", [10, 40, 110, 440]),
        ("qwen3_5", [10, 40, 110, 440]),
        ("glm4v_moe", [10, 40, 110, 440]),
        ("internvl", [10, 40, 110, 440]),
        ("kimi_vl", [0.01, 0.04, 0.11, 0.44]),
        ("gemma4", [40, 10, 440, 110]),
        ("thousandths_yx", [40, 10, 440, 110]),
    ],
)
def test_each_family_answers_in_its_frame(family, box):
    truth = {"boxes": [[10, 20, 110, 220]], "labels": ["person"], "frame": 0, "size": [1000, 500]}
    text = f'<think>a</think><answer>[{{"bbox_2d": {box}, "label": "person"}}]</answer>'
    result = compute_score("d", text, truth, {"task": "grounding", "coordinates": family})
    assert result["acc"] == pytest.approx(1.0)
    other = "pixel" if family != "pixel" else "thousandths"
    assert compute_score("d", text, truth, {"task": "grounding", "coordinates": other})["acc"] < 0.99


def test_every_family_says_where_its_frame_is_documented():
    assert all(family.source for family in FAMILIES.values())
    assert {family.limits for family in FAMILIES.values()} - {None} == set(IMAGE_LIMITS.values())


def test_the_family_is_the_model_type_and_an_unknown_one_is_refused(tmp_path):
    assert read_family(write_model(tmp_path, "qwen3_vl_moe")) == "qwen3_vl_moe"
    with pytest.raises(ValueError, match="'llava' gives boxes is unknown.*reward.reward_kwargs.coordinates.*allowed"):
        read_family(write_model(tmp_path, "llava"))


def test_limits_come_from_the_models_image_processor(tmp_path):
    content = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "patch_size": 14, "merge_size": 2}
    old = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2}
    for number, (name, text) in enumerate(
        [
            ("preprocessor_config", content),
            ("preprocessor_config", old),
            ("processor_config", {"image_processor": content, "processor_class": "Qwen2_5_VLProcessor"}),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert read_limits(write_model(folder, "qwen2_5_vl", **{name: text})) == ImageLimits()


def test_the_run_may_change_the_limits():
    own = {"size": {"shortest_edge": 3136, "longest_edge": 10**6}, "patch_size": 16, "merge_size": 2}
    assert limits_of(own) == ImageLimits(patch_size=16, max_pixels=10**6)
    pair = {"min_pixels": 5000, "max_pixels": 6000}
    assert limits_of(own, pair) == ImageLimits(patch_size=16, min_pixels=5000, max_pixels=6000)
    assert limits_of(own, {"images_kwargs": pair}) == limits_of(own, pair)
    size = {"size": {"shortest_edge": 5000, "longest_edge": 6000}}
    assert limits_of(own, size) == limits_of(own, pair)
    assert limits_of(own, {"max_pixels": 6000}) == limits_of(own), "one without the other is ignored by transformers"
    with pytest.raises(ValueError, match="do_resize=False"):
        limits_of(own | {"do_resize": False})


def test_a_model_without_files_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="Set reward.reward_kwargs.coordinates"):
        read_family(str(tmp_path))
    with pytest.raises(ValueError, match="image processor at .*Set reward.reward_kwargs"):
        read_limits(write_model(tmp_path, "qwen2_5_vl"))
