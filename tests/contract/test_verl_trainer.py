"""What verl-mars hangs on in verl's v1 trainers and actor workers. A failure names the change of verl."""

import inspect
from types import SimpleNamespace

import pytest
import torch
import verl  # noqa: F401  first: it loads the plugin
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template
from verl.trainer.ppo.v1 import PPOTrainer
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl_contract import expect, parameters

from verl_mars import _compat

# ---------------------------------------------------------------- trainer


def test_the_trainer_counts_prompts_after_the_processor_and_before_the_models():
    ours = "verl_mars/trainer/trainer.py (_init_dataloader)"
    expect(parameters(PPOTrainer.__init__) == ["self", "config"], "the constructor of PPOTrainer", ours)
    setup = inspect.getsource(PPOTrainer._setup)
    steps = [setup.index(name) for name in ("_init_tokenizer()", "_init_dataloader()", "init_model()")]
    expect(steps == sorted(steps), "prompts can be counted after the processor and before the models load", ours)


def test_public_methods_that_ours_extend():
    for name, arguments in (
        ("fit", ["self", "agent_loop_manager"]),
        ("step", ["self", "metrics", "timing_raw"]),
        ("on_train_begin", ["self"]),
    ):
        expect(
            parameters(getattr(PPOTrainer, name)) == arguments, f"PPOTrainer.{name}", "verl_mars/trainer and liveness"
        )


def test_the_trainer_still_compares_mode_names():
    source = inspect.getsource(inspect.getmodule(PPOTrainer))
    expect(
        'self.trainer_mode == "sync"' in source or 'self.trainer_mode != "sync"' in source,
        "PPOTrainer no longer compares trainer_mode with a name, so use_base_mode can go",
        "verl_mars/_compat.py (use_base_mode)",
    )


def test_the_trainer_does_not_fetch_anchors_itself():
    source = inspect.getsource(PPOTrainer._compute_advantage)
    expect(
        '"uid", "response_mask", "rm_scores"' in source and "anchor" not in source,
        "the list of fields that _compute_advantage fetches from TransferQueue",
        "verl_mars/trainer/trainer.py (_anchors)",
    )


def test_the_task_runner_reads_the_manager_class_after_the_trainer_was_made():
    from verl.trainer import main_ppo

    source = inspect.getsource(main_ppo)
    expect(
        source.index("self.trainer = trainer_cls(config=config)") < source.rindex("self.init_agent_loop_manager()"),
        "the order in which TaskRunnerV1 makes the trainer and the agent-loop manager",
        "verl_mars/trainer/trainer.py (__init__ sets agent_loop_manager_class)",
    )


def test_padding_rows_are_marked_by_tag_and_carry_copies_of_all_fields():
    source = {
        "input_ids": torch.arange(4),
        "position_ids": torch.zeros(4, 4),
        "anchor_scores": torch.tensor([0.5, 1.0]),
        "multi_modal_inputs": {"pixel_values": torch.zeros(1)},
    }
    row, tag = construct_minimal_padding_template(source, {"status": "success"}, eos_token_id=1)
    ours = "verl_mars/rows.py"
    expect(tag.get("is_padding") is True, "the tag of padding rows (is_padding)", ours)
    expect("anchor_scores" in row, "padding rows no longer copy unknown fields", ours)
    expect(row["rm_scores"].sum() == 0 and row["response_mask"].sum() == 0, "reward or mask of padding rows", ours)


def test_padding_rows_have_uids_and_keys_of_their_own():
    from verl.trainer.ppo import padding_utils

    source = inspect.getsource(padding_utils.upsample_batch_to_divisible_size)
    expect(
        'f"pad{uuid.uuid4().hex}"' in source and 'f"{pad_uid}_{local_idx}_0"' in source,
        "the uid or the key of padding rows",
        "verl_mars/rows.py",
    )


def test_what_a_run_reserves_of_rays_cpus():
    from transfer_queue.controller import TransferQueueController
    from transfer_queue.storage.simple_storage import SimpleStorageUnit
    from verl.single_controller.ray import ResourcePoolManager
    from verl.workers.rollout.replica import RolloutReplica

    ours = "reserved_cpus in verl_mars/preflight/doctor.py"
    for actor in (TransferQueueController, SimpleStorageUnit):
        expect(actor._default_options.get("num_cpus") == 1, f"the CPUs of TransferQueue's {actor}", ours)
    expect(ResourcePoolManager.max_colocate_count == 3, "the CPUs of a bundle of a resource pool", ours)
    expect(_compat.cpus_for_ray() >= 1, "how Ray counts CPUs", "cpus_for_ray in verl_mars/_compat.py")
    expect("max_colocate_count=2" in inspect.getsource(RolloutReplica), "the CPUs of a rollout server of its own", ours)


# ---------------------------------------------------------------- rescoring


def test_actor_workers_compute_log_probs_of_any_partition():
    from verl.workers.engine_workers import ActorRolloutRefWorker

    expect(
        parameters(ActorRolloutRefWorker.compute_log_prob) == ["self", "data"],
        "how the actor workers are asked for log-probs",
        "verl_mars/trainer/rescore.py",
    )


def test_worker_groups_know_their_ranks():
    source = inspect.getsource(PPOTrainer._balance_batch)
    expect(
        "worker_group._query_dispatch_info(role)" in source and "worker_group._dispatch_info[role]" in source,
        "how a worker group tells its data-parallel ranks",
        "data_parallel_size in verl_mars/_compat.py",
    )
    group = SimpleNamespace(_dispatch_info={}, _query_dispatch_info=lambda role: [0, 0, 1, 1])
    assert _compat.data_parallel_size(group) == 2


def test_trainers_name_actor_workers_that_we_have_a_subclass_of():
    """``divergence=exact``: every class that a v1 trainer gives the actor's role has one of ours in its place."""
    import ray
    from verl.experimental.separation.engine_workers import DetachActorWorker
    from verl.trainer.ppo.v1 import PPOTrainerSeparateAsync
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from verl_mars.trainer.divergence_worker import WORKERS

    for trainer, worker in ((PPOTrainer, ActorRolloutRefWorker), (PPOTrainerSeparateAsync, DetachActorWorker)):
        expect(
            f"ray.remote({worker.__name__})" in inspect.getsource(trainer._init_resource_pool_mgr),
            f"which class {trainer.__name__} gives the actor's role",
            "WORKERS in verl_mars/trainer/divergence_worker.py and exchange_worker_classes in verl_mars/_compat.py",
        )
        roles = {"actor": ray.remote(worker), "critic": ray.remote(type("Critic", (), {}))}
        critic = roles["critic"]
        _compat.exchange_worker_classes(roles, WORKERS)
        assert issubclass(roles["actor"].__ray_metadata__.modified_class, WORKERS[worker])
        assert roles["critic"] is critic
    with pytest.raises(ValueError, match="know none of the worker classes"):
        _compat.exchange_worker_classes({"actor": critic}, WORKERS)


def test_a_forward_step_of_the_engine_runs_the_whole_model_and_returns_log_probs():
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
    from verl.workers.engine.utils import prepare_micro_batches

    ours = "compare in verl_mars/trainer/divergence_worker.py"
    step = inspect.getsource(FSDPEngineWithLMHead.forward_step)
    expect(
        parameters(FSDPEngineWithLMHead.forward_step) == ["self", "micro_batch", "loss_function", "forward_only"]
        and "self.module(" in step
        and '"model_output": detach_tree(model_output)' in step,
        "what a forward step of the FSDP engine takes and returns",
        ours,
    )
    expect(
        parameters(prepare_micro_batches)[:2] == ["data", "dp_group"]
        and "same_micro_num_in_dp" in parameters(prepare_micro_batches),
        "how a batch is cut into micro-batches",
        ours,
    )


def test_old_log_probs_and_entropy_are_fields_of_the_rows():
    source = inspect.getsource(PPOTrainer._compute_old_log_prob)
    expect(
        'data["old_log_probs"]' in source and 'data["entropy"]' in source,
        "where the old log-probs and the entropy are stored",
        "verl_mars/trainer/trainer.py",
    )


def test_the_trainer_settles_the_number_of_steps_with_the_data():
    expect(
        "self.total_training_steps = " in inspect.getsource(PPOTrainer._init_dataloader),
        "where the total number of steps is known",
        "_init_dataloader in verl_mars/trainer/trainer.py",
    )


def test_images_are_loaded_and_processed_as_the_agent_loop_does():
    worker = _compat.agent_loop_worker_class()
    expect(
        parameters(worker._compute_multi_modal_inputs) == ["self", "output", "input_ids"],
        "how visual inputs of a trajectory are made",
        "_other_inputs in verl_mars/rollout/worker.py",
    )
    loads = getattr(RLHFDataset, "process_multi_modal_info", None) or RLHFDataset.process_vision_info
    expect(
        {"messages", "image_patch_size", "config"} <= set(parameters(loads)),
        "how a conversation's images are loaded",
        "_load_images in verl_mars/rollout/worker.py",
    )
