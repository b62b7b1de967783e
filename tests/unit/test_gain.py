"""The options of MARS: by hand, against a slow twin, and bit-identical to the authors' formula where none is used."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.algos.gain import (
    accuracy_anchors,
    anchored_advantage,
    closed_out,
    gain_effect,
    group_accuracy,
    open_gates,
    teaches,
)
from verl_mars.algos.mars import group_statistics, mono_anchored_advantage

NAN = math.nan
ALL_WRONG = [1 / 3] * 14, [0.0] * 14  # scores and accuracies of 14 wrong answers in good form
ONE_RIGHT = [1.0, *[1 / 3] * 13], [1.0, *[0.0] * 13]


def shaped(scores, accuracy, anchors, gate="none", key="score", gain_weight=None, std_floor=0.0, normalize=True):
    """One group with options, as an estimator composes them."""
    scores, accuracy = torch.tensor(scores, dtype=torch.float64), torch.tensor(accuracy, dtype=torch.float64)
    groups, counted = ["a"] * len(scores), torch.ones(len(scores), dtype=torch.bool)
    anchors = torch.tensor([anchors] * len(scores), dtype=torch.float64)
    if key == "acc":
        anchors = accuracy_anchors(scores, accuracy, groups, anchors, torch.full_like(scores, 2 / 3), counted)
    measured = group_statistics(scores, groups, anchors, counted)
    gates = open_gates(measured, group_accuracy(accuracy, measured, counted), gate)
    stats = group_statistics(scores, groups, closed_out(anchors, measured, gates), counted)
    return anchored_advantage(scores, stats, normalize, gain_weight, std_floor), stats


def test_an_anchor_that_breaks_the_form_pushes_wrong_answers_up():
    # U = {1/3 x 14, 0, 0}: mean 7/24, squares 14 (1/24)^2 + 2 (7/24)^2 = 112/576, std sqrt(7/36 / 15) = .1138550
    advantages, _ = shaped(*ALL_WRONG, [0.0, 0.0])
    torch.testing.assert_close(advantages, torch.full((14,), 1 / 24 / ((7 / 36 / 15) ** 0.5 + 1e-6)).double())
    assert advantages[0] == pytest.approx(0.366, abs=5e-4)
    advantages, _ = shaped(*ALL_WRONG, [1 / 3 - 1e-4] * 2)  # the scale of the difference hardly matters
    assert advantages[0] == pytest.approx(0.356, abs=1e-3)  # 1e-6 beside a std of 3e-5
    advantages, _ = shaped(*ONE_RIGHT, [0.0, 0.0])  # the wrong ones are not punished any more
    assert advantages[1].abs() < 1e-3


@pytest.mark.parametrize("options", [{"gate": "solved"}, {"key": "acc"}])
def test_a_gate_and_accuracy_anchors_leave_wrong_answers_where_they_are(options):
    advantages, stats = shaped(*ALL_WRONG, [0.0, 0.0], **options)
    torch.testing.assert_close(advantages, torch.zeros(14).double(), atol=1e-9, rtol=0)
    assert not teaches(stats, None).any()


def test_accuracy_anchors_punish_the_wrong_answers_of_a_group_with_one_right_answer():
    # mean r = 8/21; m' = 8/21 - 2/3 / 14 = 1/3: U is 15 x 1/3 and 1. mean 3/8, std = 2/3 / 4 = 1/6: the right one
    # gets (5/8) 6 = 3.75, a wrong one -(1/24) 6 = -.25.
    advantages, _ = shaped(*ONE_RIGHT, [0.0, 0.0], key="acc")
    torch.testing.assert_close(advantages[:2], torch.tensor([3.75, -0.25]).double(), atol=1e-3, rtol=0)


def test_gate_solved_leaves_a_negative_gain_and_a_mixed_group_alone():
    for group in ((*ALL_WRONG, [1.0, 1.0]), (*ONE_RIGHT, [0.0, 0.0])):
        torch.testing.assert_close(shaped(*group, gate="solved")[0], shaped(*group)[0], atol=0, rtol=0)


def test_gate_unsolved_or_mixed_takes_the_shift_from_solved_groups_only():
    solved = [1.0] * 14, [1.0] * 14, [0.0, 0.0]
    assert shaped(*solved)[0][0] == pytest.approx(0.3651, abs=1e-3)
    assert shaped(*solved, gate="unsolved_or_mixed")[0].abs().max() == 0
    mixed = *ONE_RIGHT, [0.0, 1.0]
    torch.testing.assert_close(shaped(*mixed, gate="unsolved_or_mixed")[0], shaped(*mixed)[0], atol=0, rtol=0)


def test_gain_weight_by_hand():
    # r = 1, 0; anchors .5, 0: D = .25. Without division: +-.5 + lambda D
    for weight, shift in ((None, 0.125), (0.4, 0.1), (0.0, 0.0)):
        advantages, _ = shaped([1.0, 0.0], [1.0, 0.0], [0.5, 0.0], gain_weight=weight, normalize=False)
        torch.testing.assert_close(advantages, torch.tensor([0.5 + shift, -0.5 + shift]).double())


@pytest.mark.parametrize("repeats", [1, 2, 8])
def test_with_a_gain_weight_the_number_of_anchors_does_not_change_the_numerator(repeats):
    once, _ = shaped([1.0, 0.0], [1.0, 0.0], [0.5, 0.0], gain_weight=0.125, normalize=False)
    many, _ = shaped([1.0, 0.0], [1.0, 0.0], [0.5, 0.0] * repeats, gain_weight=0.125, normalize=False)
    torch.testing.assert_close(many, once)


def test_std_floor_by_hand():
    # 14 x 1/3 and two anchors of 0: (1/24) / .25; and a difference of 1e-4 is next to nothing
    assert shaped(*ALL_WRONG, [0.0, 0.0], std_floor=0.25)[0][0] == pytest.approx(1 / 6)
    assert shaped(*ALL_WRONG, [1 / 3 - 1e-4] * 2, std_floor=0.25)[0][0] == pytest.approx(5e-5, rel=1e-3)


# In steps of 1/48, which holds halves and thirds: a difference of 1e-38 would be a gain and yet no signal.
values = st.integers(-96, 96).map(lambda steps: steps / 48)
groups_of_rows = st.lists(
    st.tuples(
        st.lists(st.tuples(values, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=5),
        st.lists(st.one_of(values, st.just(NAN)), min_size=3, max_size=3),
    ),
    min_size=1,
    max_size=5,
)


def batch(drawn, kind=torch.float32):
    rows = [(r, a, f"uid{n}", anchors) for n, (fused, anchors) in enumerate(drawn) for r, a in fused]
    scores, accuracy, groups, anchors = zip(*rows, strict=True)
    return torch.tensor(scores, dtype=kind), torch.tensor(accuracy), list(groups), torch.tensor(anchors, dtype=kind)


@settings(max_examples=200, deadline=None)
@given(groups_of_rows, st.booleans())
@pytest.mark.slow
def test_without_options_it_is_the_authors_formula_to_the_bit(drawn, normalize):
    scores, _, groups, anchors = batch(drawn)
    got = anchored_advantage(scores, group_statistics(scores, groups, anchors), normalize, None, 0.0)
    assert torch.equal(got, mono_anchored_advantage(scores, groups, anchors, normalize))


def slow_twin(drawn, gate, gain_weight, std_floor):
    """A group at a time, in plain Python."""
    result = []
    for fused, anchors in drawn:
        scores, accuracy = [r for r, _ in fused], [a for _, a in fused]
        known = [m for m in anchors if math.isfinite(m)]
        mean = sum(scores) / len(scores)
        gain = mean - sum(known) / len(known) if known else 0.0
        if (gate == "solved" and gain > 0 and max(accuracy) == 0) or (
            gate == "unsolved_or_mixed" and min(accuracy) == 1
        ):
            known = []
        union = scores + known
        center = sum(union) / len(union)
        std = math.sqrt(sum((u - center) ** 2 for u in union) / (len(union) - 1)) if len(union) > 1 else 1.0
        weight = len(known) / len(union) if gain_weight is None else gain_weight
        shift = weight * gain if known else 0.0
        if len(union) == 1:
            mean = 0.0
        result += [(r - mean + shift) / max(std + 1e-6, std_floor) for r in scores]
    return torch.tensor(result, dtype=torch.float64)


@settings(max_examples=300, deadline=None)
@given(
    groups_of_rows,
    st.sampled_from(["none", "solved", "unsolved_or_mixed"]),
    st.sampled_from([None, 0.0, 0.2]),
    st.sampled_from([0.0, 0.25]),
)
@pytest.mark.slow
def test_against_the_slow_twin(drawn, gate, gain_weight, std_floor):
    scores, accuracy, groups, anchors = batch(drawn, torch.float64)
    counted = torch.ones(len(scores), dtype=torch.bool)
    measured = group_statistics(scores, groups, anchors)
    gates = open_gates(measured, group_accuracy(accuracy, measured, counted), gate)
    stats = group_statistics(scores, groups, closed_out(anchors, measured, gates))
    got = anchored_advantage(scores, stats, True, gain_weight, std_floor)
    torch.testing.assert_close(got, slow_twin(drawn, gate, gain_weight, std_floor), atol=1e-6, rtol=1e-6)
    signal = torch.zeros(len(drawn)).index_add(0, stats.group_of_row, (got.abs() > 1e-7).float()) > 0
    single = (stats.num_fused + stats.num_anchors) == 1  # its bare reward, as in verl: dropped all the same
    assert (signal == teaches(stats, gain_weight))[~single].all()


@settings(max_examples=100, deadline=None)
@given(groups_of_rows, st.sampled_from([None, 0.3]))
def test_without_a_gain_it_is_grpo(drawn, gain_weight):
    drawn = [(fused, [sum(r for r, _ in fused) / len(fused)] * 3) for fused, _ in drawn if len(fused) > 1]
    if not drawn:
        return
    scores, _, groups, anchors = batch(drawn, torch.float64)
    got = anchored_advantage(scores, group_statistics(scores, groups, anchors), False, gain_weight, 0.0)
    bare = mono_anchored_advantage(scores, groups, torch.full_like(anchors, NAN), normalize=False)
    torch.testing.assert_close(got, bare, atol=1e-9, rtol=0)


def test_the_effect_of_the_shift_by_hand():
    # a: solved, anchors fail, up. b: all wrong in form, anchors out of form, up. c: all wrong, one source right, down.
    # d: mixed, no anchor.
    scores = torch.tensor([1.0, 1.0, 1 / 3, 1 / 3, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    accuracy = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    groups, counted = list("aabbccdd"), torch.ones(8, dtype=torch.bool)
    anchors = torch.tensor([[0.0]] * 4 + [[1.0]] * 2 + [[NAN]] * 2, dtype=torch.float64)
    stats = group_statistics(scores, groups, anchors)
    advantages = anchored_advantage(scores, stats, True, None, 0.0)
    effect = gain_effect(advantages, stats, counted, group_accuracy(accuracy, stats, counted), None, 0.0, True)
    assert (effect.rescued_up, effect.rescued_down, effect.pushed_up_unsolved) == (0.5, 0.25, 0.25)
    # every shifted group has |A| = 1/3 / (1/sqrt 3) = .57735 on both rows, d has +-.70711
    assert effect.shift_share == pytest.approx(6 * 0.57735 / (6 * 0.57735 + 2 * 0.70711), rel=1e-4)
    assert effect.shift_share_solved == pytest.approx(2 * 0.57735 / (6 * 0.57735 + 2 * 0.70711), rel=1e-4)


def test_padding_and_an_unknown_accuracy_have_no_part_in_the_effect():
    scores, counted = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([True, True, False])
    stats = group_statistics(scores, ["a", "a", "pad"], torch.tensor([[0.0]] * 3), counted)
    advantages = anchored_advantage(scores, stats, True, None, 0.0)
    effect = gain_effect(advantages, stats, counted, None, None, 0.0, True)
    assert (effect.rescued_up, effect.rescued_down) == (1.0, 0.0)
    assert effect.pushed_up_unsolved is None and effect.shift_share_solved is None
    accuracy = group_accuracy(torch.tensor([1.0, 0.0, NAN]), stats, counted)
    assert accuracy.solved.tolist() == [False, False] and accuracy.unsolved.tolist() == [False, False]


def test_a_group_whose_gain_is_zero_by_symmetry_has_no_signal():
    stats = group_statistics(torch.tensor([0.5, 0.5]), ["a", "a"], torch.tensor([[0.0, 1.0]] * 2))
    assert not stats.union_is_constant.item() and not teaches(stats, None).item()


def test_equal_anchors_of_a_reward_that_binary_cannot_hold_are_no_signal():
    stats = group_statistics(torch.tensor([1 / 3] * 14), ["a"] * 14, torch.tensor([[1 / 3] * 2] * 14))
    assert not teaches(stats, None).item()


def test_the_impossible_is_refused_by_name():
    scores, counted = torch.zeros(2), torch.ones(2, dtype=torch.bool)
    stats = group_statistics(scores, ["a"] * 2, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="allowed are none, solved, unsolved_or_mixed"):
        open_gates(stats, None, "open")
    with pytest.raises(ValueError, match="'solved' needs the accuracy"):
        open_gates(stats, None, "solved")
    with pytest.raises(ValueError, match="1 fused rollouts have no finite accuracy"):
        group_accuracy(torch.tensor([1.0, NAN]), stats, counted)
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        group_accuracy(torch.zeros(2, 1), stats, counted)
    with pytest.raises(ValueError, match=r"anchor_accuracy \(B, K\).*\(2,\)"):
        accuracy_anchors(scores, scores, ["a"] * 2, torch.zeros(2), scores, counted)


def test_bf16_rewards_and_accuracies():
    drawn = [([(0.5, 1.0), (0.25, 0.0), (0.75, 1.0)], [0.25, 0.5, NAN])]
    scores, accuracy, groups, anchors = batch(drawn, torch.bfloat16)
    stats = group_statistics(scores, groups, anchors)
    got = anchored_advantage(scores, stats, True, 0.2, 0.25)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), slow_twin(drawn, "none", 0.2, 0.25), atol=1e-6, rtol=1e-6)
