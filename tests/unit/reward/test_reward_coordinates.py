"""Frames of boxes. What verl's real path does to an image is checked in tests/contract/test_reward_contract.py."""

import json

import pytest

from verl_mars.reward.coordinates import scale_to_original, seen_size
from verl_mars.reward.model_frame import limits_of, read_model_frame
from verl_mars.reward.settings import ImageLimits

PUBLISHED = ImageLimits()
SMALL = ImageLimits(max_pixels=28 * 28 * 1280)


def test_pixels_stay_pixels():
    assert scale_to_original("pixel", None, PUBLISHED) == (1.0, 1.0)


def test_thousandths_of_the_image():
    assert scale_to_original("qwen3_vl", (1280, 1024), PUBLISHED) == (1.28, 1.024)


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
    assert seen_size(*size, limits) == seen


def test_each_side_has_its_own_scale():
    x, y = scale_to_original("qwen2_5_vl", (1280, 1024), SMALL)
    assert (x, y) == (1280 / 1092, 1024 / 896) and x != y


def test_a_row_may_say_how_its_image_was_seen():
    assert scale_to_original("qwen2_5_vl", (100, 50), PUBLISHED, (50, 25)) == (2.0, 2.0)


def test_a_frame_that_needs_the_size_says_so():
    with pytest.raises(ValueError, match="'qwen3_vl' need the size"):
        scale_to_original("qwen3_vl", None, PUBLISHED)


def test_too_narrow_an_image_is_refused():
    with pytest.raises(ValueError, match="4000 x 10 pixels is too narrow"):
        seen_size(4000, 10, PUBLISHED)


# ---------------------------------------------------------------- a model's own files


def write_model(folder, model_type, **processor):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if processor:
        name, content = processor.popitem()
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "frame"),
    [("qwen3_vl", "qwen3_vl"), ("qwen3_vl_moe", "qwen3_vl"), ("llava", "pixel"), ("internvl", "pixel")],
)
def test_the_frame_follows_the_model_type(tmp_path, model_type, frame):
    assert read_model_frame(write_model(tmp_path, model_type))[0] == frame


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
        assert read_model_frame(write_model(folder, "qwen2_5_vl", **{name: text})) == ("qwen2_5_vl", ImageLimits())


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
        read_model_frame(str(tmp_path))
    with pytest.raises(ValueError, match="image processor at .*Set reward.reward_kwargs"):
        read_model_frame(write_model(tmp_path, "qwen2_5_vl"))
