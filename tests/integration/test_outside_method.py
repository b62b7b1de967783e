"""A package outside this repository brings a method by an entry point, and trains with it: docs/extend.md's example."""

import json
import os
import subprocess
import sys

import pytest
from letters_reward import LETTERS
from outside_method import SOURCE, install

pytestmark = [pytest.mark.integration, pytest.mark.recipes]

# verl_mars has no recipe of it: one of another method, with another name.
HALVED = ("algorithm.adv_estimator=halved", "+algorithm.halved.share=0.25")


def doctor(folder, *overrides):
    command = [sys.executable, "-W", "ignore", "-m", "verl_mars.cli", "doctor", "--no-ray", "--config-name=toy_grpo"]
    env = dict(os.environ, PYTHONPATH=str(folder))
    return subprocess.run([*command, *overrides], env=env, capture_output=True, text=True)


def test_it_trains_two_steps(tmp_path, small_run):
    folder = install(tmp_path)
    dump = tmp_path / "dump"
    options = (f"trainer.rollout_data_dir={dump}", "trainer.v1.trainer_mode=mars_sync")
    run = small_run("toy_grpo", *LETTERS, *HALVED, *options, env={"PYTHONPATH": str(folder)})
    assert sorted(run.metrics) == [1, 2]
    for metrics in run.metrics.values():
        assert 0 < metrics["halved/share"] < 1
        assert metrics["actor/grad_norm"] > 0
        assert metrics["perf/score_view_share"] > 0
    line = json.loads((dump / "1.jsonl").read_text().splitlines()[0])
    assert set(line["weight"]) <= {0.25, 1.0}
    assert line["token_values"] == {"weight": "share kept"}


def test_the_doctor_knows_it(tmp_path):
    found = doctor(install(tmp_path), *HALVED, "trainer.v1.trainer_mode=mars_sync")
    assert found.returncode == 0, found.stdout
    assert "halved" in found.stdout


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+algorithm.halved.share=2"], ["algorithm.halved.share = 2", "less than or equal to 1"]),
        (["+algorithm.halved.shore=1"], ["algorithm.halved.shore: unknown key", "share"]),
        (["data.train_batch_size=1024"], ["data.train_batch_size = 1024", "adv_estimator=halved"]),
        (["trainer.v1.trainer_mode=sync"], ["'sync' rescores no view", "adv_estimator=halved needs one of mars_sync"]),
    ],
)
def test_what_it_refuses_is_named(tmp_path, overrides, words):
    mode = () if any("trainer_mode" in override for override in overrides) else ("trainer.v1.trainer_mode=mars_sync",)
    found = doctor(install(tmp_path), "algorithm.adv_estimator=halved", *mode, *overrides)
    assert found.returncode == 1 and all(word in found.stdout for word in words), found.stdout


def test_one_that_cannot_be_loaded_is_named(tmp_path):
    found = doctor(install(tmp_path, "raise ImportError('broken on purpose')"), *HALVED)
    assert found.returncode == 1
    assert "the method 'halved' (verl_mars_halved:Halved) cannot be loaded: ImportError: broken" in found.stderr


def test_one_that_is_no_method_is_named(tmp_path):
    found = doctor(install(tmp_path, SOURCE.replace('name = "halved"', 'name = "other"')), *HALVED)
    assert "must be a subclass of verl_mars.methods.Method with name = 'halved'" in found.stderr


def test_a_name_that_is_taken_is_named(tmp_path):
    entry_points = "[verl_mars.methods]\nmars = verl_mars_halved:Halved\n"
    found = doctor(install(tmp_path, entry_points=entry_points))
    assert found.returncode == 1
    assert "the method 'mars' is named by 2 places" in found.stdout
