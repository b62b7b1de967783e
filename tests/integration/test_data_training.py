"""Real Ray, verl and FSDP on the CPU: one MARS step on rows of every converted data set, all in one batch."""

import json
import math
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "data"))

import raw_sets  # noqa: E402  # the raw data sets beside the unit tests

from verl_mars.data.convert import convert  # noqa: E402
from verl_mars.data.settings import settings_from  # noqa: E402
from verl_mars.data_prep import find_converter  # noqa: E402

pytestmark = pytest.mark.integration

ROLLOUTS = 2
LIMITS = {"llvip": 3, "m3fd": 2, "m4_instruct": 3, "spatialbench": 4, "sunrgbd": 3}  # the two others: all their rows
LONGEST = 640


@pytest.fixture(scope="module")
def files(tmp_path_factory, any_text_model):
    """The files of every set; one set with embedded images would not go into one list with the others."""
    folder = tmp_path_factory.mktemp("sets")
    found = []
    for name in raw_sets.SETS:
        converter = find_converter(name)
        values = {"root": raw_sets.make(name, folder / name / "raw"), "out": folder / name / "out"}
        values |= {
            "limit": LIMITS.get(name),
            "style": converter.default_style,
            "tokenizer": str(any_text_model),
            "max_prompt_length": LONGEST,
        }
        result = convert(converter, settings_from(values))
        found += [file for part in result.files.values() for file in part]
    return found


@pytest.fixture(scope="module")
def rows(files):
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def run(files, rows, any_text_model, run_verl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    result = run_verl(
        "toy_mars_grpo",
        "data.train_files=[" + ",".join(files) + "]",
        f"data.val_files=[{files[0]}]",
        f"actor_rollout_ref.model.path={any_text_model}",
        f"data.train_batch_size={len(rows)}",
        f"data.max_prompt_length={LONGEST}",
        "data.max_response_length=8",
        f"actor_rollout_ref.rollout.max_model_len={LONGEST + 8}",
        f"actor_rollout_ref.rollout.n={ROLLOUTS}",
        "++actor_rollout_ref.rollout.limit_images=6",  # as a conversion prints it
        f"actor_rollout_ref.actor.ppo_mini_batch_size={len(rows)}",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "reward.custom_reward_function.path=pkg://data_reward",
        "reward.custom_reward_function.name=compute_score",
        env={"DATA_REWARD_DIR": str(folder)},
    )
    result.scored = [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]
    return result


def identity(row):
    return row["data_source"], row["extra_info"]["sample_id"]


def test_rows_of_every_set_and_every_file_are_in_the_step(run, files, rows):
    assert len(files) >= 9 and {row["data_source"].split("_")[0] for row in rows} >= {"llvip", "m3fd", "m4", "mars"}
    scored = Counter((entry["data_source"], entry["sample_id"]) for entry in run.scored)
    expected = Counter()
    for row in rows:
        anchors = len(row["sources"]) if len(row["sources"]) > 1 else 0  # one source alone has no anchor
        expected[identity(row)] = ROLLOUTS + anchors
    assert scored == expected


def test_each_source_is_scored_against_its_own_truth(run, rows):
    asked = Counter((entry["data_source"], entry["sample_id"], entry["truth"]) for entry in run.scored)
    own = 0
    for row in rows:
        fused = row["reward_model"]["ground_truth"]
        for source in row["sources"]:
            if source["ground_truth"] is not None:
                own += 1
                assert asked[(*identity(row), source["ground_truth"])] == 1
        assert asked[(*identity(row), fused)] >= ROLLOUTS
    assert own == 1  # the thermal camera of the set of one's own is not aligned


def test_the_step_trains(run):
    step = run.metrics[1]
    assert math.isfinite(step["actor/pg_loss"]) and step["actor/grad_norm"] > 0
    assert step["rollout_corr/log_ppl_abs_diff"] < 1e-3
    assert step["mars/missing_anchors"] == 1  # the row with one source
    assert "is missing: " not in run.log and "Error in _run_prompt" not in run.log


def test_prompts_are_as_long_as_the_manifests_said(run, files, any_text_model):
    from verl_mars.data.validate import validate

    report = validate(files, processor=str(any_text_model), sample=1, max_images=6, max_prompt_length=LONGEST)
    assert report.ok, report.check.text()
    assert run.metrics[1]["prompt_length/max"] <= report.max_tokens
    fused = run.metrics[1]["prompt_length/max"]
    assert fused > 300 and fused == int(fused)
