"""Without anchors our trainer modes are verl's: the metrics of `mars_X` are those of `X`, step by step, same seed.

Rows with one source have no anchor, so that all arms train on the same rows. The rollout worker of ours is in all of
them: it gives each session a seed of its own, where verl's own worker leaves to chance which session gets which.
Rows come in one order in all of them (verl_mars/rollout/replay_buffer.py).

The asynchronous modes start without a batch in advance and exchange weights after each update: so a batch is what was
asked for in its step, where else it would be whatever happened to be finished.
"""

import functools

import pyarrow.parquet as pq
import pytest
from drift import drift, numbers
from letters_reward import LETTERS

from verl_mars.data.schema import write_rows
from verl_mars.preflight.configuration import MANAGER_CLASS

pytestmark = [pytest.mark.integration, pytest.mark.regress]

ASYNC = "trainer.v1.sampler.custom_sampler.name=OrderedReplayBufferAsync"
MODES: dict[str, list[str]] = {
    "sync": [],
    "colocate_async": [ASYNC, "trainer.v1.colocate_async.num_warmup_batches=0"],
    "separate_async": [
        ASYNC,
        "trainer.v1.separate_async.num_warmup_batches=0",
        "trainer.v1.separate_async.parameter_sync_step=1",
        "hardware=cpu_separate",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    ],
}


@pytest.fixture(scope="module")
def train(small_run, toy_data, tmp_path_factory):
    """A function: two steps of a recipe in a trainer mode, on toy scenes whose pictures are one source."""
    folder, files = tmp_path_factory.mktemp("one_source"), []
    for option in toy_data:
        key, _, file = option.partition("=")
        table = pq.read_table(file)
        rows = table.to_pylist()
        for row in rows:
            row["sources"] = [{"name": "all", "images": list(range(len(row["images"])))} | NO_OWN]
            row["extra_info"]["sources"] = ["all"]
        name = folder / f"{key.rpartition('.')[2]}.parquet"
        write_rows(name, rows, schema=table.schema.remove_metadata())
        files.append(f"{key}={name}")

    def run(recipe, mode, *overrides):
        return small_run(recipe, *files, *LETTERS, *MODES[mode.removeprefix("mars_")], f"{MODE}={mode}", *overrides)

    return run


MODE = "trainer.v1.trainer_mode"
NO_OWN = {"prompt": None, "ground_truth": None}


@pytest.fixture(scope="module")
def verls(train):
    """A function: verl's own GRPO in a mode of verl's own."""
    manager = f"+actor_rollout_ref.rollout.agent.agent_loop_manager_class={MANAGER_CLASS}"
    return functools.cache(lambda mode: train("toy_grpo", mode, manager))


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_alone_changes_no_number(train, verls, mode):
    ours = numbers(train("toy_grpo", f"mars_{mode}").metrics)
    theirs = numbers(verls(mode).metrics)
    assert theirs.keys() <= ours.keys()
    assert {key: (ours[key], theirs[key]) for key in theirs if ours[key] != theirs[key]} == {}
    assert len([key for key in theirs if key[0] == 2]) > 50


@pytest.mark.parametrize("mode", MODES)
def test_mars_without_an_anchor_is_grpo(train, verls, mode):
    """To float tolerance: our statistics are computed in float64, verl's in float32."""
    ours = train("toy_mars_grpo", f"mars_{mode}")
    assert ours.metrics[1]["mars/missing_anchors"] > 0 and "mars/info_gain" not in ours.metrics[1]
    found = drift(ours.metrics, verls(mode).metrics)
    assert found.count > 100
    assert found.maximum < 1e-3 and found.mean < 1e-5, found
