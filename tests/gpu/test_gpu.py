"""MARS on CUDA: FSDP2 in bf16 at Qwen2.5-VL-3B's width, and the estimator. ``make test-gpu``."""

from importlib.util import find_spec

import pytest
import torch
import true_shapes

from verl_mars.algos.mars import mono_anchored_advantage

STEPS = 5


@pytest.fixture(scope="module")
def run(run_main, tmp_path_factory):
    """Five steps of `mars_grpo` on one GPU, with vLLM where it is installed, else with the transformers server."""
    from verl_mars.toy import world
    from verl_mars.toy.rows import write_split

    folder = tmp_path_factory.mktemp("gpu")
    true_shapes.save(folder / "model")
    files = [
        f"data.{split}_files={write_split(world.make_scenes(count, [0, count]), split, folder)}"
        for split, count in (("train", 8 * STEPS), ("val", 8))
    ]
    engine, modules = ("vllm", []) if find_spec("vllm") else ("transformers", ["verl_mars.cpu"])
    overrides = [
        *files,
        "hardware=one_gpu",
        "dataset=toy",
        f"actor_rollout_ref.model.path={folder / 'model'}",
        f"actor_rollout_ref.rollout.name={engine}",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.4",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "actor_rollout_ref.actor.freeze_vision_tower=false",
        "actor_rollout_ref.actor.optim.lr=1e-5",
        # On the device: offloading is what `one_gpu` does for all 36 layers.
        "actor_rollout_ref.actor.fsdp_config.offload_policy=false",
        "data.train_batch_size=8",
        "reward.custom_reward_function.path=pkg://letters_reward",
        "reward.custom_reward_function.name=compute_score",
        f"trainer.total_training_steps={STEPS}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
    ]
    result = run_main(folder, "mars_grpo", overrides, modules=modules)
    assert result.returncode == 0, "\n".join(result.log.splitlines()[-60:])
    return result


def test_every_step_was_trained_with_its_anchors(run):
    assert sorted(run.metrics) == list(range(1, STEPS + 1))
    for metrics in run.metrics.values():
        assert metrics["actor/grad_norm"] > 0
        assert metrics["mars/missing_anchors"] == 0
        assert "mars/info_gain" in metrics


def test_the_engine_follows_the_actor_through_every_update(run):
    """bf16 against bf16: the mean probabilities stay together; weights that do not arrive would let them part."""
    for metrics in run.metrics.values():
        assert metrics["training/rollout_probs_diff_mean"] < 0.02


@pytest.mark.parametrize("rows", [1792, 100_000])
def test_the_estimator_is_the_same_on_the_device(rows):
    draw = torch.Generator().manual_seed(0)
    group = torch.randint(0, rows // 14, (rows,), generator=draw)
    anchors = torch.rand(rows // 14, 2, generator=draw)
    anchors[::7, 1] = torch.nan
    scores = torch.rand(rows, generator=draw)
    here = mono_anchored_advantage(scores, group, anchors[group])
    there = mono_anchored_advantage(scores.cuda(), group.cuda(), anchors[group].cuda())
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, atol=1e-6, rtol=1e-6)
