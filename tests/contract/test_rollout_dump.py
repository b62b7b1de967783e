"""What a step's dump says of a prompt: images, advantages, and the answers to one source alone."""

import asyncio
import json
import math
from types import SimpleNamespace

import pytest
import torch
import verl  # noqa: F401  first: it loads the plugin
from PIL import Image
from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars import store
from verl_mars.reports.rollouts import read_groups
from verl_mars.rollout.worker import MarsAgentLoopWorker
from verl_mars.rows import ANCHOR_DETAILS, Anchor, Anchors
from verl_mars.store import Batch
from verl_mars.trainer.modes import MarsTrainerSync
from verl_mars.trainer.reward_details import reward_metrics

KEYS = ["a_1_0", "a_0_0", "b_0_0"]


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


@pytest.fixture
def plane(monkeypatch):
    """Three rows of two prompts; the second image of each has no path."""
    parts = [{"type": "image", "image": "/data/rgb.png"}, {"type": "image", "image": Image.new("RGB", (400, 300))}]
    columns = {
        "raw_prompt": [[{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]] * 3,
        "advantages": nested([torch.tensor([0.5, 0.0]), torch.tensor([-1.0]), torch.tensor([0.0, 2.0])]),
        "response_mask": nested([torch.tensor([1, 0]), torch.tensor([1]), torch.tensor([0, 1])]),
        "sources": [[{"name": "rgb", "images": [0]}, {"name": "ir", "images": [1]}]] * 3,
    }

    def get(keys, partition_id, select_fields):
        assert keys == KEYS
        return {name: columns[name] for name in select_fields}

    monkeypatch.setattr(store, "tq", SimpleNamespace(kv_batch_get=get))


@pytest.fixture
def dumped(monkeypatch, tmp_path):
    """A dump as verl writes it: the rows in the order of their keys, extra columns beside its own."""

    def log(self, batch, timing_raw, folder):
        order = sorted(batch.keys)
        self._dump_generations(["?"] * 3, order, ["t"] * 3, [0.0, 1.0, 1.0], {"uid": order}, folder)

    def write(self, inputs, outputs, gts, scores, extra, path):
        columns = {"input": inputs, "output": outputs, "gts": gts, "score": scores, **extra}
        lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        (path / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(PPOTrainer, "_log_rollout_data", log)
    monkeypatch.setattr(PPOTrainer, "_dump_generations", write)
    anchors = Anchors((Anchor("rgb", 0.5, 1.0, 3, {"acc": 1.0}, "red"), Anchor("ir"))).details()

    def dump(anchored=True, columns=("prompt", "sources")):
        details = [{"acc": 1.0, **({ANCHOR_DETAILS: anchors} if anchored else {})}] * 3
        monkeypatch.setattr("verl_mars.trainer.reward_details.details_of", lambda batch: details)
        trainer = MarsTrainerSync.__new__(MarsTrainerSync)
        trainer.train_dataset = SimpleNamespace(dataframe=SimpleNamespace(column_names=columns))
        trainer._log_rollout_data(Batch(keys=KEYS, tags=[{}] * 3, partition_id="train"), {}, tmp_path)
        return tmp_path / "1.jsonl"

    return dump


def test_a_line_has_images_advantage_and_anchors(plane, dumped):
    lines = [json.loads(line) for line in dumped().open()]
    assert [line["output"] for line in lines] == ["a_0_0", "a_1_0", "b_0_0"]
    assert [line["advantage"] for line in lines] == [-1.0, 0.5, 2.0]  # by key, over sampled tokens
    assert {tuple(line["image_sources"]) for line in lines} == {("rgb", "ir")}
    assert lines[0]["anchors"] == [
        {"source": "rgb", "reward": 0.5, "acc": 1.0, "response": "red"},
        {"source": "ir", "reward": None, "acc": None, "response": None},
    ]


def test_an_image_without_a_path_is_in_one_line_of_a_prompt(plane, dumped):
    lines = [json.loads(line) for line in dumped().open()]
    assert [line["images"][0] for line in lines] == ["/data/rgb.png"] * 3
    drawn = [line["images"][1] for line in lines]
    assert drawn[0] is None  # the row of its sibling, which verl had first, has it
    assert all(url.startswith("data:image/jpeg;base64,") and len(url) < 4000 for url in drawn[1:])


def test_without_anchors_and_sources_images_and_advantages_stay(plane, dumped):
    (line, *_) = [json.loads(line) for line in dumped(anchored=False, columns=("prompt",)).open()]
    assert line["advantage"] == -1.0 and "anchors" not in line
    assert line["images"][0] == "/data/rgb.png" and line["image_sources"] == ["", ""]


def test_show_rollouts_reads_it(plane, dumped):
    first, second = read_groups(dumped(), 10)
    assert [answer["text"] for answer in first["answers"]] == ["a_0_0", "a_1_0"]
    assert [anchor["text"] for anchor in first["anchors"]] == ["red", None]
    assert [bool(image["picture"]) for image in first["images"]] == [False, True]  # the file is not there
    assert first["gain"] == "+0.000" and second["gain"] == "+0.500"


def test_lists_among_the_details_have_no_mean():
    assert reward_metrics([{"acc": 1.0, ANCHOR_DETAILS: [{}], "error": ""}]) == {"reward/acc/mean": 1.0}


@pytest.mark.parametrize("keeps", [True, False])
def test_a_mono_session_keeps_its_text_for_the_dump_only(monkeypatch, keeps):
    worker = MarsAgentLoopWorker.__new__(MarsAgentLoopWorker)
    worker.keeps_responses = keeps
    worker.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: f"text of {ids}")

    async def compute(self, outputs, kwargs):
        outputs[-1].reward_score = 0.5

    monkeypatch.setattr(MarsAgentLoopWorker, "_compute_score", compute)
    output = SimpleNamespace(extra_fields={}, response_ids=[4, 5], reward_score=None)
    score, version, tokens, _, text = asyncio.run(worker._score_mono_session([output], {}))
    assert (score, tokens, text) == (0.5, 2, "text of [4, 5]" if keeps else None) and math.isnan(version)
