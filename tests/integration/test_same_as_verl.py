"""Without anchors our trainer mode is verl's: the metrics of `mars_sync` are those of `sync`, step by step, same seed.

Rows with one source have no anchor, so that all three arms train on the same rows. The rollout worker of ours is in all
of them: it gives each session a seed of its own, where verl's own worker leaves to chance which session gets which.
Rows come in one order in all of them (verl_mars/rollout/replay_buffer.py).
"""

import pyarrow.parquet as pq
import pytest
from drift import drift, numbers
from letters_reward import LETTERS

from verl_mars.data.schema import write_rows
from verl_mars.trainer.checks import MANAGER_CLASS

pytestmark = [pytest.mark.integration, pytest.mark.regress]


@pytest.fixture(scope="module")
def train(small_run, toy_data, tmp_path_factory):
    """A function: two steps on toy scenes whose pictures are one source."""
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
    return lambda recipe, *overrides: small_run(recipe, *files, *LETTERS, *overrides)


NO_OWN = {"prompt": None, "ground_truth": None}


@pytest.fixture(scope="module")
def verls(train):
    return train("toy_grpo", f"+actor_rollout_ref.rollout.agent.agent_loop_manager_class={MANAGER_CLASS}")


def test_the_mode_alone_changes_no_number(train, verls):
    ours = numbers(train("toy_grpo", "trainer.v1.trainer_mode=mars_sync").metrics)
    theirs = numbers(verls.metrics)
    assert theirs.keys() <= ours.keys()
    assert {key: (ours[key], theirs[key]) for key in theirs if ours[key] != theirs[key]} == {}
    assert len([key for key in theirs if key[0] == 2]) > 50


def test_mars_without_an_anchor_is_grpo(train, verls):
    """To float tolerance: our statistics are computed in float64, verl's in float32."""
    ours = train("toy_mars_grpo")
    assert ours.metrics[1]["mars/missing_anchors"] > 0 and "mars/info_gain" not in ours.metrics[1]
    found = drift(ours.metrics, verls.metrics)
    assert found.count > 100
    assert found.maximum < 1e-3 and found.mean < 1e-5, found
