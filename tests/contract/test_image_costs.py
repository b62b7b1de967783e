"""The end of a step: whose stored images are freed, whose stay, and what is counted."""

import pytest
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars import store
from verl_mars.images.reference import PARTITION
from verl_mars.rows import IMAGE_COSTS
from verl_mars.trainer.image_costs import FreesImages, metrics_of


class Plane:
    """Partitions of keys; those of training rows with their costs."""

    def __init__(self, monkeypatch, stored, train):
        self.partitions = {PARTITION: set(stored), "train": dict(train)}
        monkeypatch.setattr(store, "keys_of", lambda partition: list(self.partitions[partition]))
        monkeypatch.setattr(store, "drop", lambda partition, keys: self.partitions[partition].difference_update(keys))
        monkeypatch.setattr(store, "read_keys", self.read)

    def read(self, keys, partition, fields):
        assert fields == [IMAGE_COSTS] and partition == "train"
        return {IMAGE_COSTS: [self.partitions["train"][key] for key in keys]}


class Trainer(FreesImages):
    def on_sample_end(self): ...

    def on_step_end(self): ...


def step(monkeypatch, keys, tags=None, enable=True):
    trainer = Trainer.__new__(Trainer)
    trainer._images_once = enable
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=tags or [{}] * len(keys))
    monkeypatch.setattr(PPOTrainer, "step", lambda self, metrics, timing: batch)
    metrics = {}
    trainer.step(metrics, {})
    return metrics


def cost(uid, seconds, *sizes):
    return {"seconds": seconds, "references": [[f"{uid}_{i}", size] for i, size in enumerate(sizes)]}


def test_a_prompt_that_was_trained_on_or_is_gone_frees_its_images(monkeypatch):
    rows = {"a_0_0": cost("a", 1.0, 10), "a_1_0": cost("a", 3.0, 10), "b_0_0": cost("b", 9.0, 99), "c": None}
    plane = Plane(monkeypatch, ["a_0", "b_0", "c_0", "dropped_0"], rows)
    metrics = step(monkeypatch, ["a_0_0", "a_1_0"])
    assert plane.partitions[PARTITION] == {"b_0", "c_0"}, "b waits to be sampled, c is still being rolled out"
    assert metrics == {"perf/image_seconds": 3.0, "perf/image_bytes": 10.0, "perf/image_bytes_saved": 10.0}


def test_padding_and_rows_without_stored_images_are_not_counted(monkeypatch):
    rows = {"a_0_0": cost("a", 1.0, 10), "pad_0_0": cost("a", 1.0, 10), "text_0_0": None}
    Plane(monkeypatch, ["a_0"], rows)
    metrics = step(monkeypatch, list(rows), [{}, {"is_padding": True}, {}])
    assert metrics == {"perf/image_seconds": 1.0, "perf/image_bytes": 10.0, "perf/image_bytes_saved": 0.0}


def test_where_each_row_has_a_copy_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(store, "keys_of", lambda partition: pytest.fail("asked"))
    assert step(monkeypatch, ["a_0_0"], enable=False) == {}


def test_costs_are_those_of_prompts_and_rows():
    costs = {"a_0_0": cost("a", 1.0, 10, 30), "a_1_0": cost("a", 2.0, 10, 30), "b_0_0": cost("b", 0.5, 7)}
    assert metrics_of(costs) == {
        "perf/image_seconds": 2.5,
        "perf/image_bytes": 47.0,
        "perf/image_bytes_saved": 40.0,
    }
