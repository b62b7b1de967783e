"""Views that perturb images or that a given trajectory is scored under."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from verl_mars._compat import define_missing_torchvision_ops
from verl_mars.views import Blind, Noise, Noisy, OtherPixels, Trajectory, with_images

define_missing_torchvision_ops()  # register.py does it in every process of verl's

IMAGE = 9
STILL = Noise(sigma=0, flips=False, rotation_degrees=0, brightness=0, contrast=0)


def trajectory(prompt, response, mask, mrope=True):
    count = len(prompt) + len(response)
    positions = torch.arange(count) + 100
    positions = torch.stack([torch.arange(count), *[positions + 10 * i for i in range(3)]]) if mrope else positions
    return Trajectory(torch.tensor(prompt), torch.tensor(response), torch.tensor(mask), positions, {"pixel_values": 1})


def test_blind_drops_visual_tokens_and_keeps_positions():
    shown = Blind(frozenset({IMAGE, 8})).show(trajectory([1, IMAGE, IMAGE, 2, 8], [3, 4], [1, 1]))
    assert (shown.prompt.tolist(), shown.response.tolist()) == ([1, 2], [3, 4])
    assert shown.position_ids.tolist() == [[0, 1, 2, 3], *[[100 + i, 103 + i, 105 + i, 106 + i] for i in (0, 10, 20)]]


def test_blind_closes_the_gap_in_plain_positions():
    shown = Blind(frozenset({IMAGE})).show(trajectory([1, IMAGE, 2], [3], [1], mrope=False))
    assert shown.position_ids.tolist() == [0, 1, 2]


def test_blind_drops_a_tools_images_but_never_a_sampled_token():
    shown = Blind(frozenset({IMAGE})).show(trajectory([1, 2], [3, IMAGE, IMAGE, 4], [1, 0, 1, 1]))
    assert (shown.response.tolist(), shown.response_mask.tolist()) == ([3, IMAGE, 4], [1, 1, 1])


def test_other_pixels_change_the_pixels_only():
    before = trajectory([1, IMAGE, 2], [3], [1])
    shown = OtherPixels({"pixel_values": 2}).show(before)
    assert shown.visual_inputs == {"pixel_values": 2} and shown.prompt is before.prompt
    assert before.visual_inputs == {"pixel_values": 1}


def picture(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def array(image):
    return np.asarray(image).astype(int)


def test_without_any_noise_the_images_come_back():
    images = [picture(0), picture(1)]
    got = Noisy(STILL, 0).perturb(images, "count")
    assert all(np.array_equal(array(a), array(b)) for a, b in zip(images, got, strict=True))


def test_same_seed_same_images():
    one, again = (Noisy(Noise(), 5).perturb([picture()], "count")[0] for _ in range(2))
    other = Noisy(Noise(), 6).perturb([picture()], "count")[0]
    assert np.array_equal(array(one), array(again)) and not np.array_equal(array(one), array(other))


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    Noisy(Noise(), 5).perturb([picture()], "count")
    assert torch.equal(before, torch.get_rng_state())


def test_every_source_is_perturbed_on_its_own():
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    one, other = Noisy(Noise(), 0).perturb([grey, grey], None)
    assert not np.array_equal(array(one), array(other))


def test_sigma_is_in_pixels_from_zero_to_one():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noise = Noise(sigma=0.1, flips=False, rotation_degrees=0, brightness=0, contrast=0)
    got = array(Noisy(noise, 0).perturb([grey], None)[0])
    assert got.std() == pytest.approx(25.5, rel=0.02) and got.mean() == pytest.approx(128, abs=0.5)


def test_size_stays_and_other_modes_become_rgb():
    for image in (picture(size=(33, 21)), Image.new("L", (33, 21), 7), Image.new("RGBA", (33, 21))):
        got = Noisy(Noise(rotation_degrees=90), 1).perturb([image], "count")[0]
        assert (got.size, got.mode) == ((33, 21), "RGB")


@pytest.mark.parametrize(("task", "turned"), [("count", True), ("math", True), ("grounding", False), (None, False)])
def test_only_tasks_that_stay_right_are_turned(task, turned):
    flips = Noise(sigma=0, flips=True, rotation_degrees=0, brightness=0, contrast=0)
    results = [array(Noisy(flips, seed).perturb([picture()], task)[0]) for seed in range(20)]
    straight = array(picture())
    expected = [straight, straight[:, ::-1], straight[::-1], straight[::-1, ::-1]]
    kinds = [next(k for k, e in enumerate(expected) if np.array_equal(result, e)) for result in results]
    assert set(kinds) == ({0, 1, 2, 3} if turned else {0})


def test_rotation_turns():
    turning = Noise(sigma=0, flips=False, rotation_degrees=10, brightness=0, contrast=0)
    assert not np.array_equal(array(Noisy(turning, 0).perturb([picture()], "count")[0]), array(picture()))
    assert np.array_equal(array(Noisy(turning, 0).perturb([picture()], "vqa")[0]), array(picture()))


def test_jitter_brightens_and_darkens_within_bounds():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    jitter = Noise(sigma=0, flips=False, rotation_degrees=0, brightness=0.15, contrast=0)
    values = [array(Noisy(jitter, seed).perturb([grey], None)[0]).mean() for seed in range(40)]
    assert 84 <= min(values) < 90 and 110 < max(values) <= 116


def test_images_of_a_row_are_exchanged_in_order():
    content = [{"type": "image", "image": "a", "max_pixels": 5}, {"type": "text", "text": "?"}]
    content += [{"type": "image", "image": "b"}]
    row = {"raw_prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": content}], "uid": "u"}
    before = copy.deepcopy(row)
    got = with_images(row, ["x", "y"])["raw_prompt"][1]["content"]
    assert got == [
        {"type": "image", "image": "x", "max_pixels": 5},
        {"type": "text", "text": "?"},
        {"type": "image", "image": "y"},
    ]
    assert row == before
    with pytest.raises(ValueError, match="has 2 images, got 1"):
        with_images(row, ["x"])
