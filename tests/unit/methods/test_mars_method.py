"""MARS as a method: what its estimator takes from the trainer, and its metrics."""

import math

import pytest
import torch

from verl_mars.algos.mars import group_statistics, mono_anchored_advantage
from verl_mars.methods import METHODS, RowValues
from verl_mars.methods.estimator import estimator, hand_over
from verl_mars.methods.mars_metrics import group_metrics, session_metrics
from verl_mars.rows import AnchorRows

NAN = math.nan
mars = estimator("mars")


def values_of(anchors, counted=None):
    """What the trainer knows about rows with these anchors, each a session of its own."""
    rows = len(anchors)
    real = torch.ones(rows, dtype=torch.bool) if counted is None else counted
    anchor_rows = AnchorRows(
        scores=anchors,
        versions=torch.full_like(anchors, 1.0),
        sources=[["rgb", "ir"][: anchors.shape[1]]] * rows,
        tokens=torch.ones(rows),
        seconds=torch.ones(rows),
    )
    tags = [{"response_len": 3, "max_global_steps": 1}] * rows
    return RowValues(real=real, last_output=torch.arange(rows), tags=tags, anchors=anchor_rows)


def rewards(*scores):
    """(B, 3) token rewards with the score on the last of each row's tokens, and the mask."""
    tokens, mask = torch.zeros(len(scores), 3), torch.ones(len(scores), 3)
    for row, score in enumerate(scores):
        mask[row, 1 + row % 2 + 1 :] = 0
        tokens[row, int(mask[row].sum()) - 1] = score
    return tokens, mask


def test_estimator_broadcasts_over_the_response_only():
    tokens, mask = rewards(1.0, 0.0, 1.0)
    anchors = torch.tensor([[0.0, 1.0]] * 3)
    advantages, returns = mars(tokens, mask, index=["u"] * 3, anchor_scores=anchors)
    expected = mono_anchored_advantage(torch.tensor([1.0, 0.0, 1.0]), ["u"] * 3, anchors)
    torch.testing.assert_close(advantages, expected[:, None] * mask)
    torch.testing.assert_close(returns, advantages)


def test_the_trainer_hands_anchors_over_and_takes_metrics_back():
    tokens, mask = rewards(1.0, 0.0)
    with hand_over(METHODS["mars"](None), values_of(torch.tensor([[0.5]] * 2))) as handover:
        inside, _ = mars(tokens, mask, index=["u"] * 2)
    outside, _ = mars(tokens, mask, index=["u"] * 2, anchor_scores=torch.tensor([[0.5]] * 2))
    torch.testing.assert_close(inside, outside)
    torch.testing.assert_close(handover.result.advantages, inside)
    assert handover.metrics()["mars/info_gain"] == 0.0
    assert handover.metrics()["timing_s/anchors"] == 1.0


def test_the_handover_ends_with_its_block():
    with hand_over(METHODS["mars"](None), values_of(torch.zeros(1, 1))):
        pass
    with pytest.raises(ValueError, match="rolls out no anchors.*trainer.v1.trainer_mode=mars_sync"):
        mars(*rewards(1.0), index=["u"])


def test_the_handover_is_for_the_estimator_of_its_method_alone():
    with hand_over(METHODS["pgpo"](None), values_of(torch.zeros(1, 1))) as handover:
        with pytest.raises(ValueError, match="got no anchors"):
            mars(*rewards(1.0), index=["u"])
        with pytest.raises(RuntimeError, match="verl did not call the estimator 'pgpo'"):
            handover.metrics()


def test_a_result_is_handed_back_once():
    tokens, mask = rewards(1.0, 0.0)
    with hand_over(METHODS["mars"](None), values_of(torch.tensor([[0.5]] * 2))):
        mars(tokens, mask, index=["u"] * 2)
        with pytest.raises(RuntimeError, match="twice for one batch"):
            mars(tokens, mask, index=["u"] * 2)


def test_rows_that_do_not_count_get_an_advantage_and_move_no_mean():
    tokens, mask = rewards(1.0, 0.0, 9.0)
    counted = torch.tensor([True, True, False])
    with hand_over(METHODS["mars"](None), values_of(torch.tensor([[0.5]] * 3), counted)):
        got, _ = mars(tokens, mask, index=["u"] * 3)
    expected = mono_anchored_advantage(
        torch.tensor([1.0, 0.0, 9.0]), ["u"] * 3, torch.tensor([[0.5]] * 3), counted=counted
    )
    torch.testing.assert_close(got, expected[:, None] * mask)


def test_estimator_needs_uids():
    with pytest.raises(ValueError, match="uid"):
        mars(*rewards(1.0), anchor_scores=torch.zeros(1, 1))


def test_division_by_std_can_be_turned_off():
    tokens, mask = rewards(1.0, 0.0)
    config = {"norm_adv_by_std_in_grpo": False}
    advantages, _ = mars(tokens, mask, index=["u"] * 2, anchor_scores=torch.tensor([[0.5]] * 2), config=config)
    torch.testing.assert_close(advantages[:, 0], torch.tensor([0.5, -0.5]))


def test_metrics_by_hand():
    scores = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    uids = ["a", "a", "b", "b", "c", "c", "d", "d", "pad"]
    anchors = torch.tensor(
        [[0.0, 1.0]] * 2 + [[1.0, NAN]] * 2 + [[NAN, NAN]] * 2 + [[1.0, NAN]] * 2 + [[0.0, 1.0]],
    )
    counted = torch.tensor([True] * 8 + [False])
    stats = group_statistics(scores, uids, anchors, counted)
    sources = [["rgb", "ir"], ["rgb", "ir"], ["rgb"], ["rgb"], ["rgb", "ir"]]
    values = {"acc": anchors, "format": torch.where(anchors.isnan(), NAN, torch.ones_like(anchors))}
    values["format"][0, 1] = 0.5
    first = [0, 2, 4, 6, 8]
    metrics = group_metrics(stats, sources, {name: column[first] for name, column in values.items()}, cuts=False)
    assert metrics == {
        "mars/fused_score": pytest.approx((1 + 0 + 0.5 + 1) / 4),
        "mars/info_gain": pytest.approx((0.5 - 1.0 + 0.0) / 3),  # a: 1 - .5, b: 0 - 1, d: 1 - 1; c has no anchor
        "mars/interference_groups": pytest.approx(1 / 3),  # b of a, b and d
        "mars/anchor_score/rgb": pytest.approx(2 / 3),  # a: 0, b: 1, d: 1
        "mars/anchor_score/ir": 1.0,  # a
        "mars/anchor_acc/rgb": pytest.approx(2 / 3),
        "mars/anchor_acc/ir": 1.0,
        "mars/anchor_format/rgb": 1.0,
        "mars/anchor_format/ir": 0.5,
        "mars/info_gain/rgb": pytest.approx((1.0 - 1.0 + 0.0) / 3),
        "mars/info_gain/ir": 0.0,
        "mars/missing_anchors": 2.0,  # b's ir, c's rgb; the padding group is left out
    }


def test_metrics_without_any_anchor_say_so():
    stats = group_statistics(torch.tensor([1.0, 0.0]), ["a", "a"], torch.full((2, 1), NAN))
    metrics = group_metrics(stats, [["rgb"]], {}, cuts=False)
    assert metrics == {"mars/fused_score": 0.5, "mars/missing_anchors": 1.0}


def test_a_truncated_anchor_is_counted_apart_from_a_missing_one():
    anchors = torch.tensor([[NAN, NAN, 1.0]] * 2)  # as the method leaves them out
    stats = group_statistics(torch.tensor([1.0, 0.0]), ["a", "a"], anchors)
    values = {"truncated": torch.tensor([[1.0, NAN, 0.0]])}
    metrics = group_metrics(stats, [["rgb", "ir", "depth"]], values, cuts=True)
    assert (metrics["mars/missing_anchors"], metrics["mars/truncated_anchors"]) == (1.0, 1.0)


def test_several_anchors_of_a_source_are_averaged():
    stats = group_statistics(torch.tensor([1.0, 0.0]), ["a", "a"], torch.tensor([[0.0, 1.0, 1.0, 1.0]] * 2))
    metrics = group_metrics(stats, [["rgb", "rgb", "ir", "ir"]], {}, cuts=False)
    assert (metrics["mars/anchor_score/rgb"], metrics["mars/anchor_score/ir"]) == (0.5, 1.0)
    assert metrics["mars/info_gain/rgb"] == 0.0


def test_what_mono_sessions_cost_by_hand():
    """Prompt a: 4 mono tokens, 2 x 6 fused; b: 3 and 5 (its second row is padding)."""
    uids = ["a", "b", "a", "pad"]
    anchors = torch.tensor([[0.0, 1.0], [1.0, NAN], [0.0, 1.0], [1.0, NAN]])
    counted = torch.tensor([True, True, True, False])
    stats = group_statistics(torch.tensor([1.0, 0.0, 0.0, 0.0]), uids, anchors, counted)
    rows = AnchorRows(
        scores=anchors,
        versions=torch.tensor([[3.0, 2.0], [1.0, NAN], [3.0, 2.0], [9.0, 9.0]]),
        sources=[["rgb", "ir"], ["rgb"], ["rgb", "ir"], ["rgb"]],
        tokens=torch.tensor([4.0, 3.0, 4.0, 3.0]),
        seconds=torch.tensor([0.5, 2.0, 0.5, 7.0]),
    )
    tags = [{"response_len": n, "max_global_steps": v} for n, v in ((6, 3), (5, None), (6, 2))]
    tags.append({"response_len": 5, "max_global_steps": 0, "is_padding": True})
    assert session_metrics(rows, stats, counted, tags) == {
        "timing_s/anchors": 2.0,
        "mars/anchor_tokens": 7.0,
        "mars/anchor_token_share": pytest.approx(7 / 24),
        "mars/anchor_version_gap": pytest.approx((0 + 1 + 1 + 0) / 4),  # b's version is not known
    }
