"""The advantage of MARS: hand-worked numbers, a slow readable twin, invariants."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.algos.mars import group_statistics, mono_anchored_advantage

NAN = math.nan


def advantage(scores, groups, anchors, **options):
    return mono_anchored_advantage(torch.tensor(scores), groups, torch.tensor(anchors), **options)


def slow_twin(scores, groups, anchors, normalize=True):
    """One row at a time, in plain Python: U = fused rewards of the row's group and its finite anchors."""
    result = []
    for score, group, row_anchors in zip(scores, groups, anchors, strict=True):
        union = [s for s, g in zip(scores, groups, strict=True) if g == group]
        union += [a for a in row_anchors if math.isfinite(a)]
        mean = sum(union) / len(union) if len(union) > 1 else 0.0
        std = math.sqrt(sum((u - mean) ** 2 for u in union) / (len(union) - 1)) if len(union) > 1 else 1.0
        result.append((score - mean) / (std + 1e-6) if normalize else score - mean)
    return torch.tensor(result)


def test_hand_worked_group():
    # U = {1, 0, 1} + {0, 1}: mean 3/5, squares (2 x .16 + .36) + (.36 + .16) = 1.2, std sqrt(1.2 / 4) = .5477226
    got = advantage([1.0, 0.0, 1.0], ["a", "a", "a"], [[0.0, 1.0]] * 3)
    torch.testing.assert_close(got, torch.tensor([0.4, -0.6, 0.4]) / (0.3**0.5 + 1e-6), atol=1e-6, rtol=0)


def test_interference_pushes_a_right_and_a_wrong_rollout_down():
    # every rollout wrong, one source alone right: U = {0 x 8, 1, 0}, mean .1, std .3162278
    got = advantage([0.0] * 8, ["a"] * 8, [[1.0, 0.0]] * 8)
    torch.testing.assert_close(got, torch.full((8,), -0.1 / (0.1**0.5 + 1e-6)), atol=1e-6, rtol=0)


def test_gain_pushes_a_solved_group_up():
    # all right, both sources alone wrong: U = {1 x 8, 0, 0}, mean .8, squares 8 x .04 + 2 x .64 = 1.6, std sqrt(1.6/9)
    got = advantage([1.0] * 8, ["a"] * 8, [[0.0, 0.0]] * 8)
    torch.testing.assert_close(got, torch.full((8,), 0.2 / ((1.6 / 9) ** 0.5 + 1e-6)), atol=1e-6, rtol=0)


def test_without_division_the_shift_is_the_weighted_information_gain():
    # A_i = (r_i - mean r) + K / (G + K) x (mean r - mean m): G = 2, K = 2, gain .5 - .25
    got = advantage([1.0, 0.0], ["a", "a"], [[0.5, 0.0]] * 2, normalize=False)
    torch.testing.assert_close(got, torch.tensor([0.5 + 0.125, -0.5 + 0.125]))


def test_one_rollout_is_compared_with_its_anchors():
    # U = {1, 0}: mean .5, std .7071068
    torch.testing.assert_close(advantage([1.0], ["a"], [[0.0]]), torch.tensor([0.5 / (0.5**0.5 + 1e-6)]))


def test_one_rollout_without_anchors_is_its_bare_reward_as_in_verl():
    torch.testing.assert_close(advantage([0.7], ["a"], [[NAN]]), torch.tensor([0.7 / (1 + 1e-6)]))


def test_all_equal_gives_zero_even_for_a_reward_that_binary_cannot_hold():
    assert advantage([0.1] * 8, ["a"] * 8, [[0.1, 0.1]] * 8).abs().max() < 1e-9


def test_number_of_anchors_differs_per_group():
    anchors = [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, NAN, NAN], [1.0, NAN, NAN], [NAN] * 3, [NAN] * 3]
    groups, scores = ["a", "a", "b", "b", "c", "c"], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    torch.testing.assert_close(advantage(scores, groups, anchors), slow_twin(scores, groups, anchors))


def test_infinite_anchors_are_no_anchors():
    torch.testing.assert_close(
        advantage([1.0, 0.0], ["a"] * 2, [[math.inf, 0.5]] * 2), advantage([1.0, 0.0], ["a"] * 2, [[NAN, 0.5]] * 2)
    )


def test_no_anchor_column_at_all_is_grpo():
    got = mono_anchored_advantage(torch.tensor([1.0, 0.0]), ["a", "a"], torch.zeros(2, 0))
    torch.testing.assert_close(got, torch.tensor([0.5, -0.5]) / (0.5**0.5 + 1e-6))


def test_empty_batch():
    assert mono_anchored_advantage(torch.zeros(0), [], torch.zeros(0, 2)).shape == (0,)


def test_a_session_of_several_outputs_counts_once():
    # rows 0 and 1 are two outputs of one session, so U = {1, 0} + {0}
    counted = torch.tensor([False, True, True])
    got = advantage([1.0, 1.0, 0.0], ["a"] * 3, [[0.0]] * 3, counted=counted)
    once = advantage([1.0, 0.0], ["a"] * 2, [[0.0]] * 2)
    torch.testing.assert_close(got, once[[0, 0, 1]])


def test_padding_rows_touch_no_group_and_get_nothing():
    real = advantage([1.0, 0.0], ["a", "a"], [[1.0, 0.0]] * 2)
    counted = torch.tensor([True, True, False, False])
    got = advantage([1.0, 0.0, 0.0, 0.0], ["a", "a", "pad", "pad"], [[1.0, 0.0]] * 4, counted=counted)
    torch.testing.assert_close(got[:2], real)
    assert got[2:].tolist() == [0.0, 0.0]


def test_non_finite_fused_reward_is_refused_by_uid():
    with pytest.raises(ValueError, match=r"uid7 \(reward nan\)"):
        advantage([1.0, NAN], ["uid3", "uid7"], [[0.0]] * 2)


@pytest.mark.parametrize("nothing", [NAN, math.inf])
def test_a_row_that_does_not_count_never_reaches_its_group(nothing):
    counted = torch.tensor([True, True, False])
    got = advantage([1.0, 0.0, nothing], ["a"] * 3, [[0.0]] * 3, counted=counted)
    torch.testing.assert_close(got[:2], advantage([1.0, 0.0], ["a"] * 2, [[0.0]] * 2))
    assert got[2] == 0


def test_rows_that_disagree_about_their_anchors_are_refused_by_uid():
    with pytest.raises(ValueError, match="uid7.*keyed by uid"):
        advantage([1.0, 0.0], ["uid7", "uid7"], [[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("anchors", [torch.zeros(3), torch.zeros(2, 1)])
def test_shapes_that_do_not_fit_are_refused(anchors):
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        mono_anchored_advantage(torch.zeros(3), ["a"] * 3, anchors)


def test_bf16_rewards_use_float_statistics():
    scores = torch.tensor([1.0, 0.0, 0.5, 0.25], dtype=torch.bfloat16)
    got = mono_anchored_advantage(scores, ["a"] * 4, torch.tensor([[0.5]] * 4, dtype=torch.bfloat16))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, slow_twin(scores.tolist(), ["a"] * 4, [[0.5]] * 4))


@st.composite
def batches(draw):
    """Groups of 1 to 5 rollouts with 0 to 3 anchors, rows shuffled."""
    value = st.floats(-2, 2, width=32)
    rows = []
    for number in range(draw(st.integers(1, 6))):
        anchors = draw(st.lists(st.one_of(value, st.just(NAN)), min_size=3, max_size=3))
        rows += [(draw(value), f"uid{number}", anchors) for _ in range(draw(st.integers(1, 5)))]
    random.Random(draw(st.integers(0, 99))).shuffle(rows)
    scores, groups, anchors = zip(*rows, strict=True)
    return list(scores), list(groups), list(anchors)


@given(batches(), st.booleans())
@settings(max_examples=200, deadline=None)
@pytest.mark.slow
def test_agrees_with_the_slow_twin(batch, normalize):
    got, twin = advantage(*batch, normalize=normalize), slow_twin(*batch, normalize=normalize)
    torch.testing.assert_close(got, twin.float(), atol=2e-4, rtol=1e-4)


@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_rows_does_not_matter(batch, chance):
    order = list(range(len(batch[0])))
    chance.shuffle(order)
    shuffled = tuple([column[i] for i in order] for column in batch)
    torch.testing.assert_close(advantage(*shuffled), advantage(*batch)[order], atol=1e-6, rtol=1e-6)


@given(batches(), st.floats(-3, 3, width=32))
@settings(max_examples=50, deadline=None)
def test_a_shift_of_all_rewards_changes_nothing(batch, shift):
    scores, groups, anchors = batch
    sizes = {g: groups.count(g) + sum(map(math.isfinite, a)) for g, a in zip(groups, anchors, strict=True)}
    moved = [s + shift for s in scores], groups, [[a + shift for a in row] for row in anchors]
    kept = torch.tensor([sizes[g] > 1 for g in groups])
    before, after = advantage(*batch, normalize=False), advantage(*moved, normalize=False)
    torch.testing.assert_close(after[kept], before[kept], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 3.0, 1000.0])
def test_a_scale_of_all_rewards_changes_next_to_nothing(scale):
    scores, anchors = torch.tensor([1.0, 0.0, 0.3]), torch.tensor([[0.5, 0.1]] * 3)
    before = mono_anchored_advantage(scores, ["a"] * 3, anchors)
    after = mono_anchored_advantage(scores * scale, ["a"] * 3, anchors * scale)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_advantages_of_the_whole_union_sum_to_zero():
    # sum A_i = G K / (G + K) x gain / std (papers' algebra): the anchors would have the rest
    scores, anchors = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([[0.0, 0.5]] * 4)
    stats = group_statistics(scores, ["a"] * 4, anchors)
    expected = 4 * 2 / 6 * stats.information_gain / (stats.union_std + 1e-6)
    torch.testing.assert_close(mono_anchored_advantage(scores, ["a"] * 4, anchors).double().sum(), expected[0])


def test_statistics_name_the_signal():
    scores = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    anchors = torch.tensor([[0.0, NAN], [0.0, NAN], [0.0, 0.0], [0.0, 0.0], [NAN, NAN], [NAN, NAN]])
    stats = group_statistics(scores, ["a", "a", "b", "b", "c", "c"], anchors)
    assert stats.fused_is_constant.tolist() == [True, True, False]
    assert stats.union_is_constant.tolist() == [False, True, False]
    assert stats.information_gain[:2].tolist() == [1.0, 0.0] and stats.information_gain[2].isnan()
    assert stats.num_anchors.tolist() == [1, 2, 0]


def nucleus(probabilities, top_p):
    """The distribution that a token is drawn from: the smallest set of words with at least this mass."""
    ordered, words = probabilities.sort(descending=True)
    kept = torch.zeros_like(probabilities).scatter(0, words, ordered * (ordered.cumsum(0) - ordered < top_p))
    return kept / kept.sum()


def entropy_after_training(top_p, gain):
    """30 updates of a 32-word policy whose reward has nothing to do with its words; ``gain`` None: GRPO."""
    generator = torch.Generator().manual_seed(1)
    logits = (1.5 * torch.randn(32, generator=generator)).requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=6.0)
    groups = [row // 8 for row in range(64 * 8)]
    for _ in range(30):
        log_probs = logits.log_softmax(-1)
        words = torch.multinomial(nucleus(log_probs.detach().exp(), top_p), 64 * 8, True, generator=generator)
        rewards = (torch.rand(64 * 8, generator=generator) < 0.5).float()
        anchors = (torch.rand(64, 2, generator=generator) < 0.5 - (gain or 0.0)).float().repeat_interleave(8, 0)
        if gain is None:
            anchors = torch.full_like(anchors, NAN)
        loss = -(mono_anchored_advantage(rewards, groups, anchors) * log_probs[words]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    log_probs = logits.detach().log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum().item()


def test_the_shift_is_a_baseline_without_bias_only_at_top_p_1():
    # Drawn from all of the policy, E[grad log pi] = 0 and a group's shift moves nothing. Drawn from the nucleus it is
    # grad log Z, Z the nucleus' mass: a positive gain sharpens the policy and a negative one flattens it.
    full = [entropy_after_training(1.0, gain) for gain in (0.5, None, -0.5)]
    assert max(full) - min(full) < 0.1
    sharpened, grpo, flattened = (entropy_after_training(0.9, gain) for gain in (0.5, None, -0.5))
    assert abs(grpo - full[1]) < 0.1
    assert sharpened < grpo - 0.3 and flattened > grpo + 0.15
