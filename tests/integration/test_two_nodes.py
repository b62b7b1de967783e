"""Two FSDP ranks on one Ray node and on two give the same training; the plugin is loaded on both nodes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from drift import drift, numbers

pytestmark = [pytest.mark.integration, pytest.mark.regress]

RUNNING = tuple(f"~ray_kwargs.ray_init.{key}" for key in ("num_cpus", "num_gpus", "include_dashboard"))
"""What Ray takes when it starts a cluster, and refuses for one that is there."""


@pytest.fixture
def cluster():
    """Environment of a run on a cluster of two nodes, with one logical GPU each, that is running when verl starts.

    In a folder of its own: Ray joins any cluster that it finds in its usual one, and so would all other tests.
    """
    script = Path(__file__).parent / "ray_nodes.py"
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        env = {"RAY_TMPDIR": folder}
        process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | env
        )
        yield {**env, "RAY_ADDRESS": process.stdout.readline().strip()}
        process.stdin.close()
        process.wait(60)


def test_two_nodes_train_like_one(small_run, cluster):
    one = small_run("toy_mars_grpo", "trainer.n_gpus_per_node=2")
    two = small_run("toy_mars_grpo", "trainer.nnodes=2", *RUNNING, env=cluster)
    assert numbers(one.metrics).keys() == numbers(two.metrics).keys()
    found = drift(one.metrics, two.metrics)
    assert found.maximum < 1e-3 and found.mean < 1e-5, found
    assert two.metrics[2]["mars/missing_anchors"] == 0
