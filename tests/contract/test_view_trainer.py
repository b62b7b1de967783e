"""The trainer's hand-over with a data plane of a dictionary: what a method gets of a batch, and what it gives back."""

from types import SimpleNamespace

import pytest
import torch
import verl  # noqa: F401  first: it loads the plugin
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars import store
from verl_mars.methods import method_of
from verl_mars.rows import Anchor, Anchors
from verl_mars.store import Batch
from verl_mars.trainer.modes import MarsTrainerSync

IMAGE = 9
KEYS = ["a_0_0", "a_1_0", "b_0_0", "b_1_0", "pad0_0_0"]
TAGS = [{"response_len": 2, "max_global_steps": 1}] * 4 + [{"response_len": 2, "is_padding": True}]
REWARDS = [1.0, 0.0, 1.0, 1.0, 0.0]
DETAILS = {"acc": 0.0, "format": 1.0, "truncated": 0.0}


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


@pytest.fixture
def plane(monkeypatch):
    """Five rows of two prompts and padding, with two anchors each."""
    anchors = Anchors((Anchor("rgb", 0.5, 1.0, 3, DETAILS), Anchor("ir", 0.0, 1.0, 3, DETAILS)), 0.5).fields(
        tuple(DETAILS)
    )
    columns = {
        "prompts": [torch.tensor([1, IMAGE, 2])] * 5,
        "responses": [torch.tensor([3, 4 + i]) for i in range(5)],
        "response_mask": [torch.ones(2, dtype=torch.long)] * 4 + [torch.zeros(2, dtype=torch.long)],
        "position_ids": [torch.arange(5)] * 5,
        "old_log_probs": [torch.full((2,), -1.0)] * 5,
        "entropy": [torch.full((2,), 0.25)] * 5,
        "mars_noisy": [True, True, False, False, True],
        "other_visual_inputs": [{"pixel_values": 1}] * 2 + [{}] * 3,
        "extra_fields": [{"reward_extra_info": {"acc": reward}} for reward in REWARDS],
        "raw_prompt": [[{"role": "user", "content": "?"}]] * 5,
        "data_source": ["s"] * 5,
        "index": [0, 0, 1, 1, 0],
        "extra_info": [{}] * 5,
        **{name: [value] * 5 for name, value in anchors.items()},
    }
    rescored = {}

    def get(keys, partition_id, select_fields):
        if partition_id != "train":
            return {name: nested(rescored[key][name] for key in keys) for name in select_fields}
        data = {name: [columns[name][KEYS.index(key)] for key in keys] for name in select_fields}
        return {name: nested(rows) if isinstance(rows[0], torch.Tensor) else rows for name, rows in data.items()}

    def put(keys, partition_id, fields, tags=None):
        for name in fields.keys():
            rows = list(fields[name]) if partition_id == "train" else fields[name]
            if partition_id == "train":
                columns[name] = [getattr(row, "data", row) for row in rows] if not torch.is_tensor(rows[0]) else rows
            else:
                for i, key in enumerate(keys):
                    rescored.setdefault(key, {})[name] = rows[i]

    def compute_log_prob(batch):
        for key in batch.keys:
            rescored[key]["log_probs"] = -rescored[key]["input_ids"].float() / 8

    queue = SimpleNamespace(kv_batch_get=get, kv_batch_put=put, kv_clear=lambda keys, partition_id: None)
    monkeypatch.setattr(store, "tq", queue)
    return SimpleNamespace(
        columns=columns, workers=SimpleNamespace(compute_log_prob=compute_log_prob, _dispatch_info={"actor": [0]})
    )


@pytest.fixture
def advantages(monkeypatch):
    """verl's own step, as far as advantages go; returns what the estimator gave."""
    given = {}

    def compute(self, batch, metrics):
        estimator = get_adv_estimator_fn(self.config.algorithm.adv_estimator)
        rewards = torch.zeros(5, 2)
        rewards[:, -1] = torch.tensor(REWARDS)
        mask = torch.tensor([[1, 1]] * 4 + [[0, 0]])
        given["advantages"], _ = estimator(
            token_level_rewards=rewards,
            response_mask=mask,
            index=[key.split("_")[0] for key in batch.keys],
            config=self.config.algorithm,
        )
        return batch

    monkeypatch.setattr(PPOTrainer, "_compute_advantage", compute)
    return given


def make_trainer(plane, algorithm, dump=None):
    trainer = MarsTrainerSync.__new__(MarsTrainerSync)
    trainer.config = OmegaConf.create(
        {
            "algorithm": algorithm,
            "data": {},
            "actor_rollout_ref": {
                "actor": {"use_dynamic_bsz": True, "strategy": "fsdp2", "fsdp_config": {}},
                "rollout": {"temperature": 1.0, "seed": 0, "log_prob_micro_batch_size_per_gpu": 1},
            },
            "trainer": {"rollout_data_dir": dump},
        }
    )
    trainer.method = method_of(trainer.config.algorithm)
    trainer.processor = SimpleNamespace(image_token_id=IMAGE)
    trainer.tokenizer = SimpleNamespace(decode=lambda ids: str(ids[0]))
    trainer.actor_rollout_wg, trainer.global_steps, trainer.anchor_memory = plane.workers, 1, None
    return trainer


def step(plane, algorithm, dump=None):
    trainer, metrics = make_trainer(plane, algorithm, dump), {}
    trainer._compute_advantage(Batch(keys=list(KEYS), tags=TAGS, partition_id="train"), metrics)
    return trainer, metrics


def test_anchors_and_their_metrics(plane, advantages):
    _, metrics = step(plane, {"adv_estimator": "mars"})
    assert metrics["mars/fused_score"] == 0.75 and metrics["mars/missing_anchors"] == 0
    assert metrics["mars/anchor_tokens"] == 12 and metrics["mars/anchor_version_gap"] == 0
    assert "timing_s/score_view" not in metrics
    assert advantages["advantages"][2, 0] > 0, "equal fused rewards above their anchors"
    assert not advantages["advantages"][4].any()


@pytest.mark.parametrize("base", ["grpo", "mars"])
def test_the_blind_view_is_rescored_and_stored(plane, advantages, base):
    trainer, metrics = step(plane, {"adv_estimator": "pgpo", "pgpo": {"base": base}}, dump="folder")
    assert {"timing_s/score_view", "pgpo/dependency_mean", "pgpo/boosted_tokens"} <= set(metrics)
    assert ("mars/info_gain" in metrics) == (base == "mars")
    # A token's log-prob is minus the id of the token before it, over 8; padding keeps its own.
    assert [row.tolist() for row in plane.columns["view_log_probs"]] == [[-0.25, -0.375]] * 4 + [[-1.0, -1.0]]
    (line,) = trainer._tokens.take(KEYS[:1])
    assert line["tokens"] == ["3", "4"] and list(line["token_values"]) == ["dependency", "weight"]


def test_other_pixels_are_rescored_and_thrown_away(plane, advantages):
    _, metrics = step(plane, {"adv_estimator": "vogue"})
    assert metrics["vogue/noisy_share"] == 0.5 and metrics["vogue/uncertainty"] > 0
    assert [row.tolist() for row in plane.columns["view_log_probs"]] == [[-0.25, -0.375]] * 2 + [[-1.0, -1.0]] * 3
    assert plane.columns["other_visual_inputs"] == [{}] * 5


def test_an_estimator_of_verl_is_asked_for_nothing(plane, advantages):
    plane.columns.clear()
    _, metrics = step(plane, {"adv_estimator": "grpo"})
    assert metrics == {}


def test_anchors_are_remembered_for_a_later_epoch(plane, advantages):
    trainer = make_trainer(plane, {"adv_estimator": "mars", "mars": {"anchor_every": 2}})
    from verl_mars.trainer.anchor_memory import AnchorMemory

    trainer.anchor_memory = AnchorMemory(2)
    trainer._compute_advantage(Batch(keys=list(KEYS), tags=TAGS, partition_id="train"), {})
    assert trainer.anchor_memory.anchors == {
        f"s/{i}": [["rgb", 0.5, 1.0, DETAILS], ["ir", 0.0, 1.0, DETAILS]] for i in range(2)
    }
