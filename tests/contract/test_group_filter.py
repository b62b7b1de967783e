"""Dynamic sampling on verl's own replay buffer, with a TransferQueue of a dictionary."""

import math
from collections import Counter

import pytest
import torch

pytest.importorskip("verl")

import transfer_queue as tq  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from verl_mars.methods import METHODS  # noqa: E402
from verl_mars.rollout.replay_buffer import OrderedReplayBuffer, OrderedReplayBufferAsync  # noqa: E402

NAN = math.nan
GROUPS = {
    # uid: (fused rewards, anchors)
    "dull": ([1.0, 1.0], [1.0, 1.0]),
    "gain": ([1.0, 1.0], [0.0, 1.0]),
    "interference": ([0.0, 0.0], [1.0]),
    "spread": ([1.0, 0.0], [1.0]),
    "alone": ([0.0, 0.0], [NAN]),
    "failed": ([0.25, 0.25], [NAN, 0.25]),
}


@pytest.fixture(params=[OrderedReplayBuffer, OrderedReplayBufferAsync])
def buffer(request, monkeypatch):
    """A buffer that holds the finished groups, and counts how often their rewards were fetched."""
    made = request.param(
        trainer_mode="sync" if request.param is OrderedReplayBuffer else "colocate_async",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create({}),
        refill_fn=lambda count: None,
        filter_groups_metric="reward",
        train_batch_size=2,
        gen_batch_size=1,
    )
    made.fetched = Counter()

    def fetch(keys, partition_id, select_fields):
        made.fetched.update({field: len(keys) for field in select_fields})
        rewards, anchors = [], []
        for key in keys:
            uid, session, output = key.split("_")
            reward = GROUPS[uid][0][int(session)]
            rewards.append(torch.tensor([0.0] * int(session) + [reward]))  # responses of several lengths
            anchors.append(torch.tensor(GROUPS[uid][1]))
        nested = {"rm_scores": rewards, "anchor_scores": anchors}
        return {name: torch.nested.as_nested_tensor(nested[name], layout=torch.jagged) for name in select_fields}

    monkeypatch.setattr(tq, "kv_batch_get", fetch)
    made.finished_keys["train"] = set(GROUPS)
    for uid, (rewards, _) in GROUPS.items():
        for session in range(len(rewards)):
            made.partitions["train"][f"{uid}_{session}_0"] = {}
    return made


def test_verls_own_filter_sees_the_fused_rewards_alone(buffer):
    dropped, counts = buffer._dapo_filtered_keys("train")
    assert dropped == {"dull", "gain", "interference", "alone", "failed"}
    assert counts == Counter({1.0: 2, 0.0: 2, 0.25: 1})


def test_a_group_is_dropped_only_if_anchors_agree_too(buffer):
    buffer.ask(METHODS["mars"]().group_filter)
    dropped, counts = buffer._dapo_filtered_keys("train")
    assert dropped == {"dull", "alone", "failed"}
    assert counts == Counter({1.0: 1, 0.0: 1, 0.25: 1})
    assert buffer.verdicts.kept == {"gain", "interference"}


def test_a_verdict_is_reached_once(buffer):
    buffer.ask(METHODS["mars"]().group_filter)
    first = buffer._dapo_filtered_keys("train")
    fetched = Counter(buffer.fetched)
    assert buffer._dapo_filtered_keys("train") == first and buffer.fetched == fetched
    buffer.finished_keys["train"] = {"dull", "gain"}
    dropped, counts = buffer._dapo_filtered_keys("train")
    assert (dropped, counts, buffer.verdicts.kept) == ({"dull"}, Counter({1.0: 1}), {"gain"})


def test_validation_is_not_filtered(buffer):
    buffer.ask(METHODS["mars"]().group_filter)
    assert buffer._dapo_filtered_keys("val") == (set(), Counter())


def test_without_a_filter_nothing_changes(buffer):
    buffer.filter_groups_metric = None
    buffer.ask(METHODS["mars"]().group_filter)
    assert buffer.verdicts is None and buffer._dapo_filtered_keys("train") == (set(), Counter())


def test_groups_kept_through_their_anchors_are_counted(buffer, monkeypatch):
    """A batch of three groups, one of which verl's filter would have dropped."""
    buffer.ask(METHODS["mars"]().group_filter)
    states = {uid: {"is_prompt": True, "status": "finished", "global_steps": 1} for uid in ("gain", "spread", "dull")}
    rows = {f"{uid}_{session}_0": {} for uid in states for session in (0, 1)}
    monkeypatch.setattr(tq, "kv_list", lambda: {"train": {**states, **rows}})
    monkeypatch.setattr(tq, "kv_clear", lambda partition_id, keys: [states.pop(key, rows.pop(key, 0)) for key in keys])
    monkeypatch.setattr(type(buffer), "_materialize_batch", lambda self, partition, uids, snapshot: _Batch(uids))
    batch, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=2)
    assert {key.split("_")[0] for key in batch.keys} == {"gain", "spread"}
    assert metrics["mars/kept_groups"] == 1
    assert metrics["training/filter_groups/evicted_samples"] == 1


class _Batch:
    def __init__(self, uids):
        self.keys = [f"{uid}_{session}_0" for uid in uids for session in (0, 1)]


def test_a_method_that_looks_at_fused_rewards_alone_leaves_the_filter_to_verl(buffer):
    buffer.ask(METHODS["mars"]({"mars": {"filter_on": "fused"}}).group_filter)
    assert buffer.verdicts is None
