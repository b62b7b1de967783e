"""MARS with options, as a method: settings, sessions, what they do to advantages, dynamic sampling and metrics."""

import math
import re
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from verl_mars.algos.mars import mono_anchored_advantage
from verl_mars.methods import METHODS, RowValues
from verl_mars.methods.base import FinishedGroups
from verl_mars.methods.estimator import estimator, hand_over
from verl_mars.methods.mars import Mars
from verl_mars.rows import AnchorRows

NAN = math.nan
ACC = {"anchor_key": "acc", "accuracy_weight": 2 / 3}


def values_of(anchors, accuracy, **values):
    """Rows of sessions of their own, with anchors (B, K), their further values, and the accuracy of each row."""
    rows = len(anchors)
    anchor_rows = AnchorRows(
        scores=anchors,
        versions=torch.ones_like(anchors),
        sources=[["rgb", "ir", "depth"][: anchors.shape[1]]] * rows,
        tokens=torch.ones(rows),
        seconds=torch.ones(rows),
        values=values,
    )
    return RowValues(
        real=torch.ones(rows, dtype=torch.bool),
        last_output=torch.arange(rows),
        tags=[{"response_len": 2}] * rows,
        anchors=anchor_rows,
        reward_details={"acc": torch.tensor(accuracy)},
    )


def run(options, scores, values, uids=None):
    """(B,) advantages and the metrics of a step."""
    tokens = torch.zeros(len(scores), 2)
    tokens[:, 1] = torch.tensor(scores)
    config = {"mars": options}
    with hand_over(METHODS["mars"](config), values) as handover:
        got, _ = estimator("mars")(tokens, torch.ones(len(scores), 2), uids or ["u"] * len(scores), config)
    return got[:, 0], handover.metrics()


ALL_WRONG = [1 / 3] * 14
OUT_OF_FORM = values_of(torch.zeros(14, 2), [0.0] * 14, acc=torch.zeros(14, 2), format=torch.zeros(14, 2))


def test_the_metrics_show_wrong_answers_that_are_pushed_up():
    advantages, metrics = run({}, ALL_WRONG, OUT_OF_FORM)
    torch.testing.assert_close(advantages, torch.full((14,), 0.366), atol=5e-4, rtol=0)
    assert metrics["mars/pushed_up_unsolved"] == metrics["mars/rescued_up"] == metrics["mars/rescued_groups"] == 1.0
    assert (metrics["mars/rescued_down"], metrics["mars/shift_share_solved"]) == (0.0, 0.0)
    assert metrics["mars/shift_share"] == pytest.approx(1.0, abs=1e-4)
    assert (metrics["mars/anchor_format/rgb"], metrics["mars/anchor_acc/ir"]) == (0.0, 0.0)


@pytest.mark.parametrize("options", [{"gain_gate": "solved"}, ACC])
def test_an_option_ends_it_and_dynamic_sampling_drops_the_group(options):
    advantages, metrics = run(options, ALL_WRONG, OUT_OF_FORM)
    assert advantages.abs().max() < 1e-6
    assert metrics["mars/pushed_up_unsolved"] == metrics["mars/shift_share"] == 0.0
    assert metrics["mars/info_gain"] == pytest.approx(1 / 3)  # measured all the same
    extra = [{"reward_extra_info": {"acc": 0.0}}] * 14
    fields = {"anchor_scores": torch.zeros(14, 2), "anchor_acc": torch.zeros(14, 2), "extra_fields": extra}
    groups = FinishedGroups(["u"] * 14, torch.tensor(ALL_WRONG), fields)
    assert Mars({"mars": options}).verdicts(groups) == {"u": pytest.approx(1 / 3)}
    assert Mars().verdicts(groups) == {"u": None}


def test_unsolved_or_mixed_leaves_solved_groups_to_grpo():
    values = values_of(torch.zeros(4, 2), [1.0] * 4)
    assert run({}, [1.0] * 4, values)[1]["mars/shift_share_solved"] == pytest.approx(1.0)
    advantages, metrics = run({"gain_gate": "unsolved_or_mixed"}, [1.0] * 4, values)
    assert advantages.tolist() == [0.0] * 4 and metrics["mars/rescued_groups"] == 0.0


def test_weight_and_floor_arrive():
    values = values_of(torch.tensor([[0.5, 0.0]] * 2), [1.0, 0.0])
    advantages, _ = run({"gain_weight": 0.4, "std_floor": 2.0}, [1.0, 0.0], values)
    torch.testing.assert_close(advantages, torch.tensor([0.6, -0.4]) / 2)


def test_the_defaults_are_the_authors_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    scores, anchors = torch.rand(12, generator=generator), torch.rand(3, 2, generator=generator).repeat(4, 1)
    uids = ["a", "b", "c"] * 4
    values = values_of(anchors, [0.0] * 12, acc=torch.zeros(12, 2), truncated=torch.ones(12, 2))
    got, _ = run({}, scores.tolist(), values, uids)
    assert torch.equal(got, mono_anchored_advantage(scores, uids, anchors))


def test_an_anchor_that_was_cut_is_missing():
    anchors, cut = torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[1.0, 0.0]] * 2)
    values = values_of(anchors, [1.0, 0.0], truncated=cut)
    advantages, metrics = run({"anchor_max_tokens": 8}, [1.0, 0.0], values)
    expected = mono_anchored_advantage(torch.tensor([1.0, 0.0]), ["u", "u"], torch.tensor([[NAN, 1.0]] * 2))
    torch.testing.assert_close(advantages, expected)
    assert (metrics["mars/missing_anchors"], metrics["mars/truncated_anchors"]) == (0.0, 1.0)
    # As long as a fused one: a fused rollout that was cut scores 0 too.
    assert "mars/truncated_anchors" not in run({}, [1.0, 0.0], values)[1]
    groups = FinishedGroups(["u"], torch.tensor([1.0]), {"anchor_scores": anchors[:1], "anchor_truncated": cut[:1]})
    assert Mars({"mars": {"anchor_max_tokens": 8}}).verdicts(groups) == {"u": 1.0}


@pytest.mark.parametrize("options", [{"gain_gate": "solved"}, ACC])
def test_a_reward_function_without_accuracy_is_refused(options):
    values = replace(values_of(torch.zeros(2, 1), [0.0, NAN]), reward_details={"acc": torch.tensor([0.0, NAN])})
    with pytest.raises(ValueError, match="algorithm.mars.(gain_gate=solved|anchor_key=acc) needs `acc`.*returns none"):
        run(options, [1.0, 0.0], values)
    _, metrics = run({}, [1.0, 0.0], values)
    assert "mars/pushed_up_unsolved" not in metrics and "mars/rescued_up" in metrics


# ---------------------------------------------------------------- sessions


def prompt(*names):
    return {
        "raw_prompt": [{"role": "user", "content": [{"type": "image", "image": name} for name in names]}],
        "sources": [{"name": name, "images": [i]} for i, name in enumerate(names)],
    }


@pytest.mark.parametrize(
    ("options", "greedy", "count"),
    [
        ({}, True, 2),
        ({"anchors_per_source": 3}, False, 6),
        ({"anchor_decoding": "sampled"}, False, 2),
        ({"anchor_decoding": "sampled", "anchors_per_source": 2}, False, 4),
    ],
)
def test_decoding_and_number_of_anchors_are_independent(options, greedy, count):
    sessions = Mars({"mars": options}).sessions(prompt("rgb", "ir"))
    assert [session.greedy for session in sessions] == [greedy] * count


def test_leave_one_out_shows_all_sources_but_one():
    sessions = Mars({"mars": {"anchors": "leave_one_out", "mono_prompt": "drop"}}).sessions(prompt("a", "b", "c"))
    assert [session.source for session in sessions] == ["all_but_a", "all_but_b", "all_but_c"]
    shown = [session.view.render(prompt("a", "b", "c"))["raw_prompt"][0]["content"] for session in sessions]
    assert [[part["image"] for part in parts] for parts in shown] == [["b", "c"], ["a", "c"], ["a", "b"]]


def test_for_two_sources_leave_one_out_is_mono():
    two = prompt("rgb", "ir")
    assert Mars({"mars": {"anchors": "leave_one_out"}}).sessions(two) == Mars().sessions(two)


# ---------------------------------------------------------------- refusals and cautions


def config(mars, **changes):
    made = {
        "algorithm": {"adv_estimator": "mars", "use_kl_in_reward": False, "mars": mars},
        "reward": {"reward_model": {"enable": False, "enable_resource_pool": False}, "reward_kwargs": {}},
        "trainer": {"v1": {"trainer_mode": "mars_sync"}},
        "actor_rollout_ref": {"rollout": {"top_p": 1.0, "top_k": -1}},
    }
    made = OmegaConf.create(made)
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value, force_add=True)
    return made


@pytest.mark.parametrize(
    ("mars", "changes", "words"),
    [
        (
            {"anchor_decoding": "greedy", "anchors_per_source": 2},
            {},
            "anchors_per_source = 2 with anchor_decoding=greedy",
        ),
        ({"anchor_key": "acc"}, {}, "algorithm.mars.anchor_key = 'acc' needs the weight of accuracy"),
        (
            ACC,
            {"reward__reward_kwargs__accuracy_weight": 0.9},
            "accuracy_weight = 0.66.*, but the reward weighs.*= 0.9",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(mars, changes, words):
    made = config(mars, **changes)
    (fault,) = Mars(made.algorithm).faults(made)
    assert re.search(words, fault), fault


def test_options_that_work_are_not():
    made = config(ACC, reward__reward_kwargs__accuracy_weight=2 / 3)
    assert list(Mars(made.algorithm).faults(made)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"actor_rollout_ref__rollout__top_p": 0.9}, "rollout.top_p = 0.9 with the anchors"),
        ({"actor_rollout_ref__rollout__top_k": 50}, "rollout.top_k = 50 with the anchors"),
    ],
)
@pytest.mark.parametrize("name", ["mars", "pgpo"])
def test_sampling_from_a_part_of_the_vocabulary_is_warned_of(name, changes, words):
    made = config({}, algorithm__pgpo={"base": "mars"}, **changes)
    cautions = list(METHODS[name](made.algorithm).cautions(made))
    assert (cautions == []) if words is None else (len(cautions) == 1 and words in cautions[0])


def test_without_anchors_nobody_is_warned():
    made = config({}, actor_rollout_ref__rollout__top_p=0.9)
    assert list(METHODS["pgpo"](made.algorithm).cautions(made)) == []
