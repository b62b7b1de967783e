"""A world in which an anchor says which mono session it came from, and runs over it with a probe in the trainer.

Each source's ground truth is a number that encodes prompt and source, and the reward returns it. So whatever verl does
to a batch on its way, the anchors of a row must be those numbers of its own prompt.
"""

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from verl_mars.data.schema import write_rows

PROMPTS, ROLLOUTS = 6, 4
FAILS = (4, "ir")  # this mono session raises
NAMES = ("rgb", "ir", "depth")


def sources_of(index):
    """Prompt 0 has one source, prompts 1 to 3 have two, the others three."""
    return NAMES[: 1 if index == 0 else 2 if index < 4 else 3]


def anchor(index, name):
    return index + (NAMES.index(name) + 1) / 10


def make_row(folder, index, split, hangs=None, kills=None):
    names = sources_of(index)
    images = []
    for number, name in enumerate(names):
        path = folder / f"{split}-{index}-{name}.png"
        Image.new("RGB", (56, 56), (40 * index, 80 * number, 120)).save(path)
        images.append({"image": str(path)})
    special = {FAILS: "fail", hangs: "hang", kills: "kill"}
    value = {name: special.get((index, name), anchor(index, name)) for name in names}
    truth = {name: json.dumps({"answers": [f"anchor {value[name]}"]}) for name in names}
    return {
        "data_source": "anchors",
        "prompt": [
            {"role": "user", "content": "<image>" * len(names) + "where is the hot object?" + " now" * (index % 3)}
        ],
        "images": images,
        "ability": "vision",
        "reward_model": {"style": "rule", "ground_truth": json.dumps({"answers": ["x"]})},
        "extra_info": {
            "index": index,
            "split": split,
            "sample_id": f"{split}-{index}",
            "task": "vqa",
            "sources": list(names),
            "image_sizes": [[56, 56]] * len(names),
        },
        "sources": [
            {"name": name, "images": [i], "prompt": None, "ground_truth": truth[name]} for i, name in enumerate(names)
        ],
    }


def run_world(folder: Path, run_verl, model, *overrides, config_name="toy_mars_grpo", hangs=None, kills=None, env=None):
    """Train over the world; the run has in ``steps`` what the probe saw of each update, in ``scored`` all rewards.

    ``hangs`` is a mono session (prompt, source) whose reward never comes, ``kills`` one that ends its reward worker.
    """
    for split in ("train", "val"):
        write_rows(folder / f"{split}.parquet", [make_row(folder, i, split, hangs, kills) for i in range(PROMPTS)])
    result = run_verl(
        config_name,
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        f"actor_rollout_ref.model.path={model}",
        f"actor_rollout_ref.rollout.n={ROLLOUTS}",
        "trainer.test_freq=-1",
        "reward.reward_manager.name=naive",
        "reward.custom_reward_function.path=pkg://anchor_reward",
        "reward.custom_reward_function.name=compute_score",
        *overrides,
        modules=["anchor_probe"],
        env={"ANCHOR_PROBE_DIR": str(folder), **(env or {})},
    )
    result.steps = [json.loads(path.read_text()) for path in sorted(folder.glob("step*.json"))]
    result.scored = [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]
    return result


def rows_of(step):
    """Rows of one update, padding left out."""
    return [row for row in step["rows"] if not row["is_padding"]]


def real_rows(run):
    return [row for step in run.steps for row in rows_of(step)]


def assert_own_anchors(run, missing=(FAILS,)):
    """Each trajectory has the anchors of its own prompt, but for the missing ones."""
    for row in real_rows(run):
        names = sources_of(row["index"])
        expected = [anchor(row["index"], name) for name in names]
        if len(names) == 1:
            expected = [math.nan]
        for index, name in missing:
            if row["index"] == index:
                expected[names.index(name)] = math.nan
        assert row["anchor_sources"] == list(names)
        assert row["anchor_scores"][: len(names)] == pytest.approx(expected, nan_ok=True), row["key"]


def assert_formula(run):
    """Advantages are those of MARS, by hand."""
    for step in run.steps:
        real = rows_of(step)
        for row in real:
            union = [other["reward"] for other in real if other["uid"] == row["uid"]]
            union += [score for score in row["anchor_scores"] if math.isfinite(score)]
            mean = sum(union) / len(union)
            std = math.sqrt(sum((u - mean) ** 2 for u in union) / (len(union) - 1))
            assert row["advantages"][0] == pytest.approx((row["reward"] - mean) / (std + 1e-6), abs=1e-4)
