"""What the trainer's hooks make of the rewards' details. With real verl: tests/integration/test_reward_metrics.py."""

from types import SimpleNamespace

import numpy as np
import pytest
import verl  # noqa: F401  first: it loads the plugin
from verl.trainer.ppo.v1 import PPOTrainer, PPOTrainerSync

from verl_mars import store
from verl_mars.trainer.reward_details import RewardDetails, reward_metrics

A = {"score": 1.0, "acc": 1.0, "error": "", "f1": None, "overlong": True}
B = {"score": 0.5, "acc": 0.0, "error": "no answer", "f1": 0.25, "overlong": False}


@pytest.fixture(autouse=True)
def verls_trainer(monkeypatch):
    """verl's own hooks, as far as ours build on them."""

    def compute_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        metrics["training/global_step"] = global_steps

    def log_rollout_data(self, batch, timing_raw, rollout_data_dir):
        order = sorted(batch.keys)
        self._dump_generations(["?"] * 2, ["!"] * 2, [None] * 2, [0.9, 0.4], {"uid": order}, rollout_data_dir)

    def dump_generations(self, inputs, outputs, gts, scores, reward_extra_infos_dict, dump_path):
        self.dumped = reward_extra_infos_dict

    for own in (compute_metrics, log_rollout_data, dump_generations):
        monkeypatch.setattr(PPOTrainer, f"_{own.__name__}", own)


def make_trainer():
    return WithDetails.__new__(WithDetails)


class WithDetails(RewardDetails, PPOTrainerSync):
    pass


@pytest.fixture
def stored(monkeypatch):
    """A TransferQueue that holds the details of each key."""
    fields = {
        "b_0_0": {"reward_extra_info": B},
        "a_0_0": {"reward_extra_info": A},
        "pad0_0_0": {"reward_extra_info": B},
    }

    def kv_batch_get(keys, partition_id, select_fields):
        assert (partition_id, select_fields) == ("train", ["extra_fields"])
        return {"extra_fields": np.array([fields[key] for key in keys], dtype=object)}

    monkeypatch.setattr(store, "tq", SimpleNamespace(kv_batch_get=kv_batch_get))
    return fields


def batch(*keys):
    tags = [{"is_padding": True} if key.startswith("pad") else {} for key in keys]
    return SimpleNamespace(keys=list(keys), tags=tags, partition_id="train")


def test_means_are_over_the_rows_that_have_a_value():
    assert reward_metrics([A, B]) == {
        "reward/score/mean": 0.75,
        "reward/acc/mean": 0.5,
        "reward/f1/mean": 0.25,
        "reward/overlong/mean": 0.5,
    }
    assert reward_metrics([]) == {}


def test_padding_rows_do_not_count(stored):
    metrics = {}
    make_trainer()._compute_metrics(batch("a_0_0", "pad0_0_0"), metrics, {}, global_steps=3, epoch=0)
    assert metrics["reward/acc/mean"] == 1.0 and metrics["training/global_step"] == 3


def test_a_training_dump_gets_each_rows_own_details(stored):
    trainer = make_trainer()
    trainer._log_rollout_data(batch("b_0_0", "a_0_0"), {}, "folder")
    assert trainer.dumped["uid"] == ["a_0_0", "b_0_0"]
    assert trainer.dumped["acc"] == [1.0, 0.0] and trainer.dumped["error"] == ["", "no answer"]
    assert trainer.dumped["reward"] == [0.9, 0.4]


def test_a_row_without_a_value_has_null(stored):
    stored["b_0_0"] = {"reward_extra_info": {"acc": 0.0, "own": 1}}
    trainer = make_trainer()
    trainer._log_rollout_data(batch("b_0_0", "a_0_0"), {}, "folder")
    assert trainer.dumped["own"] == [None, 1] and trainer.dumped["f1"] == [None, None]


def test_a_validation_dump_is_left_alone(stored):
    trainer = make_trainer()
    trainer._log_rollout_data(batch("b_0_0", "a_0_0"), {}, "folder")
    trainer._dump_generations(["?"], ["!"], [None], [1.0], {"uid": ["v_0_0"], "acc": [1.0]}, "folder")
    assert trainer.dumped == {"uid": ["v_0_0"], "acc": [1.0]}


def test_rows_without_details_leave_no_metric(stored):
    stored["a_0_0"] = {}
    metrics = {}
    make_trainer()._compute_metrics(batch("a_0_0"), metrics, {}, global_steps=1, epoch=0)
    assert not any(key.startswith("reward/") for key in metrics)
