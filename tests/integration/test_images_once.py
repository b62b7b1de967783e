"""Real Ray and verl: images handled once change nothing but time and memory, and nothing is left of them."""

import pytest
from drift import assert_same

pytestmark = pytest.mark.integration

OFF = "+data.images_once.enable=false"
COSTS = ("perf/image_seconds", "perf/image_bytes", "perf/image_bytes_saved")


@pytest.fixture(scope="module")
def once(small_run):
    return small_run("toy_mars_grpo")


def test_the_numbers_are_those_of_copies_in_every_row(once, small_run):
    copies = small_run("toy_mars_grpo", OFF)
    assert_same(once.metrics, copies.metrics)
    assert len(once.metrics[2]) > 50  # the second step was trained on what the first one made
    assert not set(COSTS) & copies.metrics[1].keys()


def test_a_step_stores_one_copy_a_prompt(once):
    one = 2 * (16 * 1176 * 4 + 3 * 8)  # two pictures of 56 x 56: 16 patches of 1176 values, and their grid
    for step in (1, 2):
        seconds, stored, saved = (once.metrics[step][name] for name in COSTS)
        assert stored == 8 * one and saved == 8 * 3 * one, "8 prompts x 4 rollouts"
        assert 0 < seconds < once.metrics[step]["timing_s/step"]
