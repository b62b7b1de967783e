"""Real Ray and verl: images handled once change nothing but time and memory.

The weights are random, so a reward that looks at letters tells the answers apart.
"""

import pytest
from drift import assert_same
from letters_reward import LETTERS

pytestmark = [pytest.mark.integration, pytest.mark.recipes]

OFF = "+data.images_once.enable=false"
COSTS = ("perf/image_seconds", "perf/image_bytes", "perf/image_bytes_saved")
ONE_PROMPT = 2 * (16 * 1176 * 4 + 3 * 8)
"""Bytes of two pictures of 56 x 56: 16 patches of 1176 values each, and their grid."""


@pytest.fixture(scope="module")
def once(small_run):
    return small_run("toy_mars_grpo", *LETTERS)


def test_a_step_stores_one_copy_a_prompt(once):
    for step in (1, 2):
        seconds, stored, saved = (once.metrics[step][name] for name in COSTS)
        assert stored == 8 * ONE_PROMPT and saved == 8 * 3 * ONE_PROMPT, "8 prompts x 4 rollouts"
        assert 0 < seconds < once.metrics[step]["timing_s/step"]


def test_the_numbers_are_those_of_copies_in_every_row(once, small_run):
    copies = small_run("toy_mars_grpo", *LETTERS, OFF)
    assert_same(once.metrics, copies.metrics)
    assert once.metrics[1]["actor/grad_norm"] > 0 and len(once.metrics[2]) > 50
    assert not set(COSTS) & copies.metrics[1].keys()


CASES = {
    "vogue": ("toy_vogue_grpo",),
    "vogue_exact_released": ("toy_vogue_grpo", "algorithm.vogue.divergence=exact", "algorithm.vogue.variant=released"),
    "pgpo_exact": ("toy_pgpo_grpo", "algorithm.pgpo.divergence=exact"),
    "papo": ("toy_papo_grpo",),
    "dapo": ("toy_mars_dapo",),
    "two_ranks": ("toy_mars_grpo", "trainer.n_gpus_per_node=2"),
    "small_memory": ("toy_mars_grpo", "+data.images_once.max_gib=0.0004"),
}
"""Recipe and overrides; no asynchronous mode, where timing decides which prompts make a batch. The memory of the last
is that of two prompts: others wait, and batches come in pieces."""


@pytest.mark.parametrize("case", CASES)
def test_every_way_to_train_gives_the_same_numbers(case, small_run):
    recipe, *overrides = CASES[case]
    once = small_run(recipe, *LETTERS, *overrides)
    copies = small_run(recipe, *LETTERS, *(part for part in overrides if "images_once" not in part), OFF)
    assert_same(once.metrics, copies.metrics)
    assert once.metrics[2]["actor/grad_norm"] > 0 and once.metrics[2]["perf/image_bytes_saved"] > 0
