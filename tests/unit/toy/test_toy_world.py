from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.toy import world


@pytest.fixture(scope="module")
def many() -> world.Scenes:
    return world.make_scenes(400, 3)


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (world.make_scenes(30, seed) for seed in (4, 4, 5))
    for field in fields(world.Scenes):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not (first.images == other.images).all(axis=(1, 2, 3, 4)).any()


def test_the_first_scenes_do_not_depend_on_how_many_are_made() -> None:
    np.testing.assert_array_equal(world.make_scenes(7, 4).images, world.make_scenes(210, 4).images[:7])


def test_seeds_of_several_numbers_are_different_worlds() -> None:
    assert (world.make_scenes(5, [1, 2]).images != world.make_scenes(5, [2, 1]).images).any()


@pytest.mark.parametrize("mix", [world.UNIFORM, world.TRAINING])
def test_every_block_holds_the_mix_exactly(mix: dict[str, float]) -> None:
    scenes = world.make_scenes(2 * world.BLOCK, 0, mix)
    for block in (scenes[: world.BLOCK], scenes[world.BLOCK :]):
        counts = np.bincount(block.regime, minlength=4)
        assert counts.tolist() == [round(mix[regime] * world.BLOCK) for regime in world.REGIMES]


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any))
def test_any_mix_is_held_to_a_scene(parts: list[int]) -> None:
    shares = {regime: part / sum(parts) for regime, part in zip(world.REGIMES, parts, strict=True)}
    counts = np.bincount(world.make_scenes(world.BLOCK, 1, shares).regime, minlength=4)
    assert abs(counts - np.array(parts) * world.BLOCK / sum(parts)).max() <= 1


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"complementary": 0.5}, "sum to 1"),
        ({"complementary": 1.5, "redundant": -0.5}, "at least 0"),
        ({"conflict": 1.0}, r"unknown regimes \['conflict'\].*conflicting"),
    ],
)
def test_impossible_mixes_are_refused(mix: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.make_scenes(4, 0, mix)


def test_an_empty_world_is_refused() -> None:
    with pytest.raises(ValueError, match="count=0"):
        world.make_scenes(0, 0)


def test_what_the_regimes_promise(many: world.Scenes) -> None:
    for row in range(len(many)):
        rgb, auxiliary = many.source_names(row)
        assert many.present[row, many.target[row]] and many.present[row, many.decoy[row]]
        assert many.target[row] != many.decoy[row]
        assert 2 <= many.present[row].sum() <= 4
        regime, cue = many.regime_name(row), many.cue[row]
        if regime == "complementary":
            assert cue == -1 and many.sufficient(row) == ()
            assert many.answer(row) == world.COLORS[many.color[row, many.target[row]]]
            continue
        assert many.answer(row) == many.thought(row) == world.QUADRANTS[many.target[row]]
        if regime == "redundant":
            assert cue == many.target[row] and many.sufficient(row) == (rgb, auxiliary)
        elif regime == "conflicting":
            assert cue == many.decoy[row] and many.sufficient(row) == (auxiliary,)
        else:
            assert many.night[row] != many.off[row]
            assert many.sufficient(row) == ((auxiliary,) if many.night[row] else (rgb,))


def test_questions_name_what_the_auxiliary_sensor_measures(many: world.Scenes) -> None:
    for row in range(len(many)):
        word = {"infrared": "hot", "depth": "near"}[many.source_names(row)[1]]
        assert f" {word} object?" in many.question(row)


def _cells(images: np.ndarray) -> np.ndarray:
    """(N, 56, 56, 3) -> (N, 4, 28, 28, 3)."""
    grid = images.astype(float).reshape(-1, 2, 28, 2, 28, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, 4, 28, 28, 3)


def test_the_auxiliary_picture_shows_the_target_and_only_there(many: world.Scenes) -> None:
    seen = np.flatnonzero(~many.off)
    middle = _cells(many.images[seen, 1])[:, :, 11:18, 11:18].mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(middle.argmax(axis=1), many.target[seen])


def test_rgb_shows_the_color_of_every_object(many: world.Scenes) -> None:
    paint = np.array([[220, 40, 40], [40, 200, 60], [50, 80, 230], [230, 220, 50]])
    day = np.flatnonzero(~many.night)
    middle = _cells(many.images[day, 0])[:, :, 12:16, 12:16].mean(axis=(2, 3))
    nearest = ((middle[:, :, None] - paint) ** 2).sum(-1).argmin(-1)
    present = many.present[day]
    np.testing.assert_array_equal(nearest[present], many.color[day][present])


def test_the_cue_glows_in_infrared_scenes_and_is_larger_in_depth_scenes(many: world.Scenes) -> None:
    rows = np.flatnonzero((many.cue >= 0) & ~many.night)
    cells = _cells(many.images[rows, 0])
    glow = (np.abs(cells - np.array([255, 150, 60])).max(axis=-1) < 45).sum(axis=(2, 3))
    lit = cells[:, :, 2:26, 2:26].max(axis=-1)  # without the cross; the ground is at most 90, and its noise
    area = (lit > 140).sum(axis=(2, 3))
    for number, row in enumerate(rows):
        shown = glow[number] if many.auxiliary[row] == 0 else area[number]
        others = np.delete(shown, many.cue[row])
        assert shown[many.cue[row]] > 100 + others.max() * (many.auxiliary[row] == 1) / 2
        if many.auxiliary[row] == 0:
            assert others.max() < 40
        else:
            assert glow[number].max() < 40


def test_rgb_without_a_cue_does_not_tell_the_target(many: world.Scenes) -> None:
    """Whatever a cell's brightness or spread in RGB, it is the target no more often than another object."""
    rows = np.flatnonzero((many.regime == 0) & (many.present.sum(axis=1) == 2))
    cells = _cells(many.images[rows, 0])
    for statistic in (cells.mean(axis=(2, 3, 4)), cells.std(axis=(2, 3, 4))):
        at_target, at_decoy = (np.take_along_axis(statistic, c[rows, None], 1) for c in (many.target, many.decoy))
        assert 0.2 < (at_target > at_decoy).mean() < 0.8  # 33 rows: a fair coin stays inside


def test_night_is_dark_and_an_idle_sensor_gives_static(many: world.Scenes) -> None:
    assert many.images[many.night, 0].mean() < 30  # the cross is brighter
    assert many.images[many.off, 1].std() > 60


def test_slices_and_row_lists_keep_all_fields_together(many: world.Scenes) -> None:
    picked = many[np.array([5, 2])]
    assert [picked.question(0), picked.answer(1)] == [many.question(5), many.answer(2)]
    np.testing.assert_array_equal(picked.images[1], many.images[2])


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>top left</think><answer>red</answer>", "red"),
        ("<think>top left</think><answer> red </answer>", "red"),
        ("<think>a</think><answer>bottom right</answer>", "bottom right"),
        ("<think></think><answer>red</answer>", None),
        ("<think>a</think><answer></answer>", None),
        ("<answer>red</answer>", None),
        ("<think>a</think><answer>red</answer> really", None),
        (" <think>a</think><answer>red</answer>", None),
        ("<think>a</think> <answer>red</answer>", None),
        ("<think>a</think><answer>red", None),
        ("<think>a</think><answer>red</answer><answer>blue</answer>", None),
        ("<think>a<think>b</think><answer>red</answer>", None),
        ("red", None),
        ("", None),
    ],
)
def test_only_the_exact_format_has_an_answer(response: str, answer: str | None) -> None:
    assert world.parse_answer(response) == answer
