"""Real Ray and verl on the CPU: the sign that the GPU tests look for appears when weight updates are dropped."""

import pytest
import weight_transfer
from letters_reward import LETTERS

pytestmark = [pytest.mark.integration, pytest.mark.recipes]


@pytest.mark.parametrize("dropped", [False, True])
def test_an_engine_without_the_update_is_noticed(small_run, dropped):
    modules = ["verl_mars.cpu", *(["stale_weights"] if dropped else [])]
    run = small_run("toy_mars_grpo", *LETTERS, weight_transfer.LEARNING_RATE, modules=modules)
    assert weight_transfer.differences(run.metrics[1]) == []
    assert len(weight_transfer.differences(run.metrics[2])) == (2 if dropped else 0)
    print({step: (m[weight_transfer.CORRELATION], m[weight_transfer.LOG_PPL]) for step, m in run.metrics.items()})
