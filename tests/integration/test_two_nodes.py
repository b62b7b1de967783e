"""Two FSDP ranks on one Ray node and on two give the same training; the plugin is loaded on both nodes."""

import subprocess
import sys
from pathlib import Path

import pytest
from same_numbers import numbers

pytestmark = [pytest.mark.integration, pytest.mark.regress]


@pytest.fixture
def address():
    """Of a cluster of two nodes with one logical GPU each, that is already running when verl starts."""
    script = Path(__file__).parent / "ray_nodes.py"
    process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip()
    process.stdin.close()
    process.wait(60)


def test_two_nodes_train_like_one(small_run, address):
    one = small_run("toy_mars_grpo", "trainer.n_gpus_per_node=2")
    running = [
        "~ray_kwargs.ray_init.num_cpus",
        "~ray_kwargs.ray_init.num_gpus",
        "~ray_kwargs.ray_init.include_dashboard",
    ]
    two = small_run("toy_mars_grpo", "trainer.nnodes=2", *running, env={"RAY_ADDRESS": address})
    expected, found = numbers(one), numbers(two)
    assert found.keys() == expected.keys()
    assert found == {key: pytest.approx(value, rel=1e-4, abs=1e-5) for key, value in expected.items()}
    assert two.metrics[2]["mars/missing_anchors"] == 0
