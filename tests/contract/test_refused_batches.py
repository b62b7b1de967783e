"""Batches that cannot be divided among GPUs or into micro-batches are refused before any model is loaded."""

import pytest

from verl_mars.preflight.configuration import config_faults, data_parallel_ranks
from verl_mars.preflight.doctor import compose_recipe

MEGATRON = ["model_engine=megatron", "actor_rollout_ref.model.path=model", "trainer.n_gpus_per_node=8"]
MEGATRON += ["algorithm.adv_estimator=mars", "trainer.v1.trainer_mode=mars_sync"]
MEGATRON += ["actor_rollout_ref.rollout.n=3", "actor_rollout_ref.actor.ppo_mini_batch_size=2"]


@pytest.mark.parametrize(
    ("sizes", "ranks"),
    [
        ({"tensor_model_parallel_size": 4}, 2),
        ({"pipeline_model_parallel_size": 4}, 2),
        ({"context_parallel_size": 4}, 2),
        ({"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "context_parallel_size": 2}, 1),
        ({"expert_model_parallel_size": 4}, 8),
        ({}, 8),
    ],
)
def test_gpus_that_work_on_one_row_are_one_rank(sizes, ranks):
    """6 rows divide among 2 ranks, not among 8 GPUs."""
    overrides = [f"actor_rollout_ref.actor.megatron.{key}={size}" for key, size in sizes.items()]
    config = compose_recipe("ppo_trainer", [*MEGATRON, *overrides])
    found = [fault for fault in config_faults(config) if "data-parallel" in fault]
    expected = [] if 6 % ranks == 0 else [f"6 rows do not divide among {ranks} data-parallel ranks"]
    assert [part in fault for part, fault in zip(expected, found, strict=True)] == [True] * len(expected)


@pytest.mark.parametrize(
    ("engine", "size"),
    [
        ("veomni", "actor_rollout_ref.actor.veomni.ulysses_parallel_size"),
        ("torchtitan", "actor_rollout_ref.actor.torchtitan.tensor_parallel_size"),
        ("torchtitan", "actor_rollout_ref.actor.torchtitan.context_parallel_size"),
    ],
)
def test_other_engines_have_ranks_too(engine, size):
    config = compose_recipe("ppo_trainer", [*MEGATRON, f"model_engine={engine}", f"{size}=4"])
    assert data_parallel_ranks(config) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["hardware=gpu_24gb"], "a row may have 12288 tokens"),
        (["hardware=gpu_24gb", "actor_rollout_ref.rollout.max_model_len=4097"], "a row may have 4097 tokens"),
        (["hardware=gpu_24gb", "actor_rollout_ref.rollout.max_model_len=4096"], None),
        (["hardware=gpu_24gb", "data.max_prompt_length=2048", "data.max_response_length=2048"], None),
        (["hardware=gpu_24gb", "actor_rollout_ref.actor.ulysses_sequence_parallel_size=3"], None),
        (["hardware=gpu_24gb", "actor_rollout_ref.actor.use_dynamic_bsz=false"], None),
        (["actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=12287"], "more than 12287"),
    ],
)
def test_a_row_that_fits_into_no_micro_batch_is_refused(overrides, words):
    """verl's assertion comes with the first row of that length, whenever the model writes it."""
    faults = [fault for fault in config_faults(compose_recipe("mars_grpo", overrides)) if "a row may have" in fault]
    assert [words in fault for fault in faults] == ([] if words is None else [True])


def test_verl_still_stops_at_a_row_longer_than_a_micro_batch():
    """Or the refusal above would forbid what works."""
    import torch
    from tensordict import TensorDict
    from verl.utils.seqlen_balancing import rearrange_micro_batches

    ids = torch.nested.nested_tensor([torch.zeros(5), torch.zeros(3)], layout=torch.jagged)
    batch = TensorDict({"input_ids": ids}, batch_size=[2])
    assert len(rearrange_micro_batches(batch, max_token_len=5)[0]) == 2
    with pytest.raises(AssertionError, match="max_token_len must be greater than the sequence length"):
        rearrange_micro_batches(batch, max_token_len=4)
