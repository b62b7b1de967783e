"""The toy recipe with verl's own vLLM server: MARS for two steps on vLLM's CPU build. Run by `make test-vllm`."""

from importlib.util import find_spec

import pytest
import torch
from letters_reward import LETTERS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here: `make test-vllm` sets it up"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM's CPU build is meant for machines without CUDA"),
]


@pytest.fixture(scope="module")
def run(small_run):
    return small_run(
        "toy_mars_grpo",
        "hardware=cpu_vllm",
        *LETTERS,
        "actor_rollout_ref.actor.optim.lr=1e-3",  # far enough that weights of the step before would be noticed
    )


def test_both_steps_were_trained_with_anchors(run):
    for step in (1, 2):
        metrics = run.metrics[step]
        assert metrics["actor/grad_norm"] > 0
        assert metrics["mars/missing_anchors"] == 0
        assert "mars/info_gain" in metrics


def test_the_engine_samples_from_the_new_weights(run):
    """The probabilities that the engine reported are those of the actor, before the first update and after it."""
    for step in (1, 2):
        assert run.metrics[step]["training/rollout_probs_diff_max"] < 1e-3
