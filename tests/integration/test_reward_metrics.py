"""Real Ray and verl on the CPU: what the rewards say arrives in verl's metrics and dumps, of training and validation.

The model has learnt one response for each of three questions, so that every figure is known in advance.
"""

import json
import statistics

import pytest
import torch
from PIL import Image

from verl_mars.data.schema import write_rows
from verl_mars.reports.rollouts import read_groups
from verl_mars.reward import compute_score

pytestmark = pytest.mark.integration

WEIGHTS = {"accuracy_weight": 0.9, "format_weight": 0.1}
# task -> question, what the model answers, two ground truths of which the first is right, (acc, format) of right, wrong
WORLD = {
    "vqa": (
        "what color is the hot object",
        "<think>top left</think><answer>red</answer>",
        [{"answers": ["red"]}, {"answers": ["blue"]}],
        [(1.0, 1.0), (0.0, 1.0)],
    ),
    "grounding": (
        "where is the hot object",
        "<think>red</think><answer>[]</answer>",
        [
            {"boxes": [], "labels": [], "frame": 0, "size": [56, 56]},
            {"boxes": [[1, 1, 9, 9]], "labels": ["person"], "frame": 0, "size": [56, 56]},
        ],
        [(1.0, 1.0), (0.0, 1.0)],
    ),
    "count": (
        "what color is the near object",
        "<answer>3</answer>",
        [{"value": 3}, {"value": 5}],
        [(1.0, 0.5), (0.0, 0.5)],
    ),
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """The toy model after it has learnt the three responses by heart."""
    from verl_mars.toy import model as toy

    tokenizer, net = toy.build_tokenizer(), toy.build_model(seed=0)
    examples = []
    for question, answer, *_ in WORLD.values():
        content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": question}]
        prompt = toy.tokenize_prompt(tokenizer, [{"role": "user", "content": content}])
        response = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        labels = [-100] * len(prompt) + response
        image = tokenizer.convert_tokens_to_ids(toy.IMAGE)
        # The pictures are left out: what they show must not matter.
        ids = [token if token != image else tokenizer.pad_token_id for token in prompt + response]
        examples.append((torch.tensor([ids]), torch.tensor([labels])))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(120):
        loss = sum(net(input_ids=ids, labels=labels).loss for ids, labels in examples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    folder = tmp_path_factory.mktemp("learnt")
    toy.save(net, folder)
    return folder


def make_row(folder, index, split):
    task = list(WORLD)[index % 3]
    question, _, truths, _ = WORLD[task]
    images = []
    for name in ("rgb", "infrared"):
        path = folder / f"{split}-{index}-{name}.png"
        Image.new("RGB", (56, 56), (20 * index, 90, 160)).save(path)
        images.append({"image": str(path)})
    return {
        "data_source": f"set_{task}",
        "prompt": [{"role": "user", "content": f"<image><image>{question}"}],
        "images": images,
        "ability": "vision",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truths[index // 3 % 2])},
        "extra_info": {
            "index": index,
            "split": split,
            "sample_id": f"{split}-{index}",
            "task": task,
            "sources": ["rgb", "infrared"],
            "image_sizes": [[56, 56]] * 2,
        },
        "sources": [
            {"name": name, "images": [number], "prompt": None, "ground_truth": None}
            for number, name in enumerate(("rgb", "infrared"))
        ],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_verl, model_folder):
    """One step over 6 prompts x 4 rollouts, validated before it over the same 6 prompts."""
    folder = tmp_path_factory.mktemp("rewards")
    for split in ("train", "val"):
        write_rows(folder / f"{split}.parquet", [make_row(folder, i, split) for i in range(6)])
    result = run_verl(
        "toy_mars_grpo",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        f"actor_rollout_ref.model.path={model_folder}",
        "data.train_batch_size=6",
        "data.max_response_length=10",
        "actor_rollout_ref.actor.ppo_mini_batch_size=6",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.temperature=0.3",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=true",
        "trainer.test_freq=-1",
        "algorithm.probe.validate=true",
        f"trainer.rollout_data_dir={folder}/rollouts",
        f"trainer.validation_data_dir={folder}/validation",
        "+reward.reward_kwargs.overlong_buffer_cfg={enable:true,len:4,penalty_factor:0.5,log:true}",
        "+reward.reward_kwargs.max_resp_len=10",
    )
    result.rollouts = folder / "rollouts" / "1.jsonl"
    result.train = [json.loads(line) for line in (folder / "rollouts" / "1.jsonl").read_text().splitlines()]
    result.val = [json.loads(line) for line in (folder / "validation" / "0.jsonl").read_text().splitlines()]
    return result


def task_of(entry):
    keys = set(json.loads(entry["gts"]))
    return "vqa" if "answers" in keys else "count" if "value" in keys else "grounding"


def expected(entry):
    """(acc, format) of a row of which the model gave the response that it has learnt."""
    task = task_of(entry)
    _, answer, truths, values = WORLD[task]
    assert entry["output"] == answer
    return values[truths.index(json.loads(entry["gts"]))]


@pytest.mark.parametrize("dump", ["train", "val"])
def test_dumps_hold_every_key_of_each_row(run, dump):
    entries = getattr(run, dump)
    assert len(entries) == {"train": 24, "val": 6}[dump]
    known = 0
    for entry in entries:
        task = task_of(entry)
        wanted = compute_score("d", entry["output"], entry["gts"], {"task": task}, **WEIGHTS)
        assert {key: entry[key] for key in wanted if key != "truncated"} == {
            key: value for key, value in wanted.items() if key != "truncated"
        }
        assert entry["reward"] == pytest.approx(entry["score"] + entry["overlong_reward"], abs=1e-6)
        if entry["output"] == WORLD[task][1]:
            known += 1
            assert (entry["acc"], entry["format"]) == expected(entry)
    assert known >= 0.8 * len(entries), "the model has not learnt its responses: the figures prove nothing"


def test_training_metrics_are_the_means_of_the_dump(run):
    metrics = run.metrics[1]
    for key in ("score", "acc", "format", "answered", "truncated", "overlong_reward", "iou", "f1", "abs_error"):
        values = [float(entry[key]) for entry in run.train if entry[key] is not None]
        assert metrics[f"reward/{key}/mean"] == pytest.approx(statistics.fmean(values)), key
    assert metrics["reward/acc/mean"] == pytest.approx(0.5, abs=0.15)
    assert 0.0 < metrics["reward/format/mean"] < 1.0
    assert not any(key.startswith(("reward/pred", "reward/error")) for key in metrics)
    assert metrics["critic/score/mean"] == pytest.approx(statistics.fmean(entry["reward"] for entry in run.train))


def test_validation_metrics_have_each_key_of_each_data_set(run):
    metrics = run.metrics[0]
    for task in WORLD:
        rows = [entry for entry in run.val if task_of(entry) == task]
        for key in ("score", "acc", "format", "answered", "reward"):
            mean = statistics.fmean(entry[key] for entry in rows)
            names = [name for name in metrics if f"set_{task}/{key}/" in name and "mean@1" in name]
            assert names and metrics[names[0]] == pytest.approx(mean), (task, key)
    assert any("val-core/set_vqa/acc/mean@1" in name for name in metrics)
    assert any("set_grounding/f1/mean@1" in name for name in metrics)
    assert not any("set_vqa/f1/" in name for name in metrics), "keys of another task are left out"
    assert any("set_count/abs_error/mean@1" in name for name in metrics)


def test_mono_sessions_are_scored_by_the_same_manager(run):
    """Both sources alone give the response the model has learnt, so the anchors' mean is that of the fused rewards."""
    metrics = run.metrics[1]
    assert metrics["mars/missing_anchors"] == 0.0
    for source in ("rgb", "infrared"):
        assert metrics[f"mars/anchor_score/{source}"] == pytest.approx(metrics["critic/score/mean"], abs=0.15)


def test_validation_asks_each_source_alone(run):
    """The figures of a run are those of its dump; the answers to one source alone are in it."""
    metrics = run.metrics[0]
    for name in ("rgb", "infrared"):
        alone = [entry for line in run.val for entry in line["anchors"] if entry["source"] == name]
        assert len(alone) == 6 and all(entry["response"] for entry in alone)
        assert metrics[f"val-mars/acc/{name}"] == pytest.approx(statistics.fmean(entry["acc"] for entry in alone))
    gains = [line["acc"] - statistics.fmean(entry["acc"] for entry in line["anchors"]) for line in run.val]
    assert metrics["val-mars/info_gain"] == pytest.approx(statistics.fmean(gains))
    assert metrics["val-mars/missing_anchors"] == 0.0
    assert {name for name in metrics if "interference/" in name} == {f"val-mars/interference/set_{t}" for t in WORLD}


def test_the_rollouts_can_be_looked_at(run):
    groups = read_groups(run.rollouts, 100)
    assert len(groups) == 6
    for group in groups:
        assert len(group["answers"]) == 4 and [anchor["source"] for anchor in group["anchors"]] == ["rgb", "infrared"]
        assert [image["name"] for image in group["images"]] == ["rgb", "infrared"]
        assert all(image["picture"] for image in group["images"])
        assert all(anchor["text"] for anchor in group["anchors"])
    told = [anchor["text"] for group in groups for anchor in group["anchors"]]
    known = {answer for _, answer, *_ in WORLD.values()}
    assert sum(text in known for text in told) >= 0.8 * len(told)
