"""The order of a batch's rows: drawn, the same for the same rows, and no slice of the data file."""

import random

import pytest
import torch

pytest.importorskip("verl")

from verl_mars.rollout.replay_buffer import drawn_order  # noqa: E402

PROMPTS, SESSIONS = 32, 4


def rows(chance):
    """Rows of 32 prompts in order of arrival: (index, response, key), under random uids."""
    made = []
    for index in range(PROMPTS):
        uid = f"uid{chance.random()}"
        made += [(index, torch.tensor([index, s, 7]), f"{uid}_{s}_0") for s in range(SESSIONS)]
    chance.shuffle(made)
    return made


def ordered(made, seed=0, step=1):
    index, responses, keys = zip(*made, strict=True)
    return [(index[i], responses[i].tolist()) for i in drawn_order(seed, step, index, responses, keys)]


def test_it_does_not_depend_on_arrival_or_uids():
    assert ordered(rows(random.Random(0))) == ordered(rows(random.Random(1)))


def test_each_seed_and_step_has_its_own():
    made = rows(random.Random(0))
    assert len({str(ordered(made, *key)) for key in ((0, 1), (0, 2), (1, 1))}) == 3


def test_no_mini_batch_is_a_slice_of_the_data_file():
    # sorted by index, the four mini-batches had means 3.5, 11.5, 19.5 and 27.5
    order = [index for index, _ in ordered(rows(random.Random(0)))]
    quarter = PROMPTS * SESSIONS // 4
    for number in range(4):
        part = order[number * quarter : (number + 1) * quarter]
        assert abs(sum(part) / quarter - 15.5) < 6 and len(set(part)) > PROMPTS // 2


def test_with_verls_own_worker_it_depends_on_chance_which_session_got_which_response():
    made = rows(random.Random(0))
    swapped = [(i, r, f"{k.rsplit('_', 2)[0]}_{(int(k.rsplit('_', 2)[1]) + 1) % SESSIONS}_0") for i, r, k in made]
    assert ordered(swapped) == ordered(made)


def test_equal_responses_of_a_prompt_stand_by_session_and_output():
    keys = ["u_10_0", "u_2_1", "u_2_0"]
    assert drawn_order(0, 1, [5] * 3, [torch.tensor([1])] * 3, keys) == [2, 1, 0]
