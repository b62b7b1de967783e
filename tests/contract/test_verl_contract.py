"""Every point of verl that verl-mars hangs on. A failure names the change of verl and the file of ours to look at."""

import inspect
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import verl  # noqa: F401  first: it loads the plugin
from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ, PPOTrainer, PPOTrainerSync, agent_loop_tq
from verl.trainer.ppo.v1 import replay_buffer as verl_replay_buffer
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_mars import _compat
from verl_mars.rollout.replay_buffer import OrderedReplayBuffer, OrderedReplayBufferAsync


def expect(condition, change, ours):
    """Fail with a sentence: what changed in verl, and where verl-mars depends on it."""
    assert condition, f"verl changed: {change}. Look at {ours}."


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "_ray_trace_ctx"]  # Ray adds that one


# ---------------------------------------------------------------- plugin loading


def registered_in_a_fresh_process(policy):
    code = (
        "import json, sys, verl\n"
        "from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as known\n"
        "print(json.dumps(['verl_mars.register' in sys.modules, 'mars' in known]))"
    )
    # Without the plugin torchvision cannot be imported beside a CPU torch: declare its operators first.
    code = "from verl_mars._compat import define_missing_torchvision_ops as f; f()\n" + code
    env = dict(os.environ, VERL_USE_EXTERNAL_PLUGINS=policy)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(("policy", "loaded"), [("auto", True), ("mars", True), ("MARS", True), ("none", False)])
def test_entry_point_is_loaded_as_the_policy_says(policy, loaded):
    expect(
        registered_in_a_fresh_process(policy) == [loaded, loaded],
        f"how VERL_USE_EXTERNAL_PLUGINS={policy} selects entry points of group verl.plugins",
        "pyproject.toml (entry-points) and verl_mars/register.py",
    )


def test_importing_verl_with_the_plugin_imports_no_trainer():
    code = "import sys, verl; print([m for m in sys.modules if m.startswith(('verl.trainer', 'verl.workers'))])"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert run.stdout.strip().splitlines()[-1] == "[]", "register.py must cost a process nothing: import late, by hooks"


def test_registering_twice_changes_nothing():
    import importlib

    import verl_mars.register as register

    before = core_algos.ADV_ESTIMATOR_REGISTRY["mars"]
    importlib.reload(register)
    assert core_algos.ADV_ESTIMATOR_REGISTRY["mars"] is before
    assert register.FAILURES == []


# ---------------------------------------------------------------- estimators


def batch(seed=0, rows=12, tokens=5):
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=draw)).long()
    rewards = torch.zeros(rows, tokens)
    rewards[torch.arange(rows), mask.sum(1) - 1] = torch.rand(rows, generator=draw)
    uids = np.array([f"u{i}" for i in torch.randint(0, 4, (rows,), generator=draw)], dtype=object)
    return rewards, mask, uids


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_without_anchors_mars_is_verls_grpo(normalize, seed):
    rewards, mask, uids = batch(seed)
    config = OmegaConf.create({"norm_adv_by_std_in_grpo": normalize})
    mars, returns = core_algos.get_adv_estimator_fn("mars")(
        token_level_rewards=rewards,
        response_mask=mask,
        index=uids,
        anchor_scores=torch.full((len(uids), 2), torch.nan),
        config=config,
    )
    grpo, _ = core_algos.compute_grpo_outcome_advantage(
        token_level_rewards=rewards, response_mask=mask, index=uids, norm_adv_by_std_in_grpo=normalize
    )
    torch.testing.assert_close(mars, grpo, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(returns, mars)


def test_mars_without_any_anchors_names_the_setting():
    rewards, mask, uids = batch()
    with pytest.raises(ValueError, match="trainer.v1.trainer_mode=mars_sync"):
        core_algos.get_adv_estimator_fn("mars")(token_level_rewards=rewards, response_mask=mask, index=uids, config={})


def test_verl_passes_rewards_mask_uids_and_config_to_an_estimator():
    rewards, mask, uids = batch()
    seen = {}

    def probe(**kwargs):
        seen.update(kwargs)
        return kwargs["token_level_rewards"], kwargs["token_level_rewards"]

    core_algos.ADV_ESTIMATOR_REGISTRY["verl_mars_probe"] = probe
    try:
        data = DataProto.from_dict(
            tensors={"token_level_rewards": rewards, "response_mask": mask}, non_tensors={"uid": uids}
        )
        compute_advantage(data, adv_estimator="verl_mars_probe", config={"key": 1})
    finally:
        del core_algos.ADV_ESTIMATOR_REGISTRY["verl_mars_probe"]
    expect(
        {"token_level_rewards", "response_mask", "index", "config"} <= set(seen),
        f"what compute_advantage passes to a registered estimator (now {sorted(seen)})",
        "verl_mars/trainer/estimators.py",
    )
    assert seen["index"].tolist() == uids.tolist()


# ---------------------------------------------------------------- trainer


def test_the_trainer_has_the_methods_that_the_mixin_extends():
    ours = "verl_mars/trainer/mixin.py"
    expect(parameters(PPOTrainer.__init__) == ["self", "config"], "the constructor of PPOTrainer", ours)
    expect(parameters(PPOTrainer._build_replay_buffer) == ["self"], "PPOTrainer._build_replay_buffer", ours)
    expect(
        parameters(PPOTrainer._compute_advantage) == ["self", "batch", "metrics"], "PPOTrainer._compute_advantage", ours
    )
    expect(parameters(PPOTrainer.fit) == ["self", "agent_loop_manager"], "PPOTrainer.fit", ours)
    setup = inspect.getsource(PPOTrainer._setup)
    steps = [setup.index(name) for name in ("_init_tokenizer()", "_init_dataloader()", "init_model()")]
    expect(steps == sorted(steps), "prompts can be counted after the processor and before the models load", ours)


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
        "verl_mars/trainer/mixin.py (_compute_advantage)",
    )


def test_the_task_runner_reads_the_manager_class_after_the_trainer_was_made():
    from verl.trainer import main_ppo

    source = inspect.getsource(main_ppo)
    expect(
        source.index("self.trainer = trainer_cls(config=config)") < source.rindex("self.init_agent_loop_manager()"),
        "the order in which TaskRunnerV1 makes the trainer and the agent-loop manager",
        "verl_mars/trainer/mixin.py (__init__ sets agent_loop_manager_class)",
    )


def test_padding_rows_are_marked_by_tag_and_carry_copies_of_all_fields():
    source = {
        "input_ids": torch.arange(4),
        "position_ids": torch.zeros(4, 4),
        "anchor_scores": torch.tensor([0.5, 1.0]),
        "multi_modal_inputs": {"pixel_values": torch.zeros(1)},
    }
    row, tag = construct_minimal_padding_template(source, {"status": "success"}, eos_token_id=1)
    ours = "verl_mars/trainer/keys.py"
    expect(tag.get("is_padding") is True, "the tag of padding rows (is_padding)", ours)
    expect("anchor_scores" in row, "padding rows no longer copy unknown fields", ours)
    expect(row["rm_scores"].sum() == 0 and row["response_mask"].sum() == 0, "reward or mask of padding rows", ours)


def test_padding_rows_have_uids_and_keys_of_their_own():
    from verl.trainer.ppo import padding_utils

    source = inspect.getsource(padding_utils.upsample_batch_to_divisible_size)
    expect(
        'f"pad{uuid.uuid4().hex}"' in source and 'f"{pad_uid}_{local_idx}_0"' in source,
        "the uid or the key of padding rows",
        "verl_mars/trainer/keys.py",
    )


# ---------------------------------------------------------------- rollout


def test_the_worker_has_the_methods_that_ours_extends():
    worker, ours = _compat.agent_loop_worker_class(), "verl_mars/rollout/worker.py"
    expect(inspect.isclass(worker), "AgentLoopWorkerTQ is no Ray actor class any more", "verl_mars/_compat.py")
    expect(
        parameters(worker._run_prompt) == ["self", "prompt", "sampling_params", "trajectory", "trace"],
        "AgentLoopWorkerTQ._run_prompt",
        ours,
    )
    expect(
        parameters(worker._run_agent_loop)
        == ["self", "sampling_params", "trajectory", "agent_name", "trace", "kwargs"],
        "AgentLoopWorker._run_agent_loop",
        ours,
    )
    expect(
        parameters(worker._agent_loop_postprocess) == ["self", "output", "validate", "kwargs"],
        "AgentLoopWorkerTQ._agent_loop_postprocess",
        ours,
    )
    expect(parameters(worker._compute_score) == ["self", "outputs", "kwargs"], "AgentLoopWorker._compute_score", ours)
    source = inspect.getsource(worker._agent_loop_postprocess)
    expect(
        0 < source.find("self._compute_score(outputs, kwargs=kwargs)") < source.find("field.update(kwargs)"),
        "when a trajectory is scored, and with which of its fields",
        ours,
    )


def test_every_keyword_of_a_session_becomes_a_field_of_its_row():
    source = inspect.getsource(_compat.agent_loop_worker_class()._agent_loop_postprocess)
    expect("field.update(kwargs)" in source, "which fields a trajectory is written with", "verl_mars/rollout/worker.py")


def test_key_of_a_trajectory():
    source = inspect.getsource(_compat.agent_loop_worker_class()._agent_loop_postprocess)
    expect(
        'f"{uid}_{session_id}_{i}"' in source,
        "the key of a trajectory, {uid}_{session}_{output}",
        "verl_mars/trainer/keys.py and verl_mars/rollout/replay_buffer.py",
    )


def test_group_is_published_after_its_sessions():
    source = inspect.getsource(_compat.agent_loop_worker_class()._run_prompt)
    expect(
        source.index("_settle_session_tasks(tasks)") < source.index('status = "finished"'),
        "when a group is marked finished",
        "verl_mars/rollout/worker.py (anchors are written with each trajectory, before that)",
    )


def test_a_reward_worker_is_drawn_from_a_list():
    source = inspect.getsource(_compat.agent_loop_worker_class().__mro__[1]._compute_score)
    expect(
        "random.choice(self.reward_loop_worker_handles)" in source,
        "verl draws reward workers from a list, dead ones too",
        "_compute_score in verl_mars/rollout/reward_workers.py",
    )


def test_where_the_processes_of_a_run_are_known():
    from verl.workers.rollout.llm_server import LLMServerManager
    from verl.workers.rollout.replica import RolloutReplica

    ours = "crews in verl_mars/trainer/watch.py"
    source = inspect.getsource(AgentLoopManagerTQ.generate_sequences)
    expect("self.agent_loop_workers" in source, "AgentLoopManager.agent_loop_workers", ours)
    expect(hasattr(LLMServerManager, "get_replicas"), "LLMServerManager.get_replicas", ours)
    expect("self.servers: list" in inspect.getsource(RolloutReplica.__init__), "RolloutReplica.servers", ours)


def test_greedy_parameters():
    params = {"temperature": 1.0, "top_p": 0.9, "top_k": 50}
    agent_loop_tq.apply_greedy_sampling_params(params)
    expect(params["temperature"] == 0, "apply_greedy_sampling_params", "verl_mars/rollout/worker.py (_anchor)")


def test_the_manager_takes_its_worker_class_from_an_attribute():
    source = inspect.getsource(AgentLoopManagerTQ) + inspect.getsource(AgentLoopManagerTQ.__mro__[1])
    expect(
        "self.agent_loop_workers_class.options(" in source,
        "where AgentLoopManager takes its worker class from",
        "verl_mars/rollout/manager.py",
    )
    expect(hasattr(AgentLoopWorkerTQ, "options"), "AgentLoopWorkerTQ is no Ray actor class", "verl_mars/_compat.py")


@pytest.mark.parametrize(
    ("mode", "ours"), [("sync", OrderedReplayBuffer), ("colocate_async", OrderedReplayBufferAsync)]
)
def test_replay_buffer_becomes_ours(mode, ours):
    cls = verl_replay_buffer.ReplayBuffer if mode == "sync" else verl_replay_buffer.ReplayBufferAsync
    buffer = cls(
        trainer_mode=mode,
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create({"poll_interval_seconds": 0.1}),
        refill_fn=None,
    )
    _compat.exchange_replay_buffer_class(buffer, OrderedReplayBuffer, OrderedReplayBufferAsync)
    expect(type(buffer) is ours, "the classes of the replay buffer", "verl_mars/_compat.py")
    expect(
        parameters(cls._materialize_batch) == ["self", "partition_id", "selected_prompt_uids", "partition_snapshot"],
        "ReplayBuffer._materialize_batch",
        "verl_mars/rollout/replay_buffer.py",
    )
    ours_too = "verl_mars/rollout/waits.py"
    for function in (cls.sample, verl_replay_buffer.ReplayBufferAsync.wait_for_sampleable):
        source = inspect.getsource(inspect.unwrap(function))
        polls = "self._sync_metadata_from_transfer_queue()" in source or "self.wait_for_sampleable(" in source
        expect(polls, "every poll of a replay buffer begins with _sync_metadata_from_transfer_queue", ours_too)
    expect(
        parameters(cls._evict_terminal_groups) == ["self", "global_steps", "partition_id", "eviction_reasons"]
        and "stale_uids, dapo_uids, failed_uids, " in inspect.getsource(cls._evict_terminal_groups),
        "ReplayBuffer._evict_terminal_groups",
        ours_too,
    )
    expect(
        "time.sleep(self.poll_interval)" in inspect.getsource(verl_replay_buffer.ReplayBuffer),
        "how the replay buffer polls",
        "verl_mars/rollout/replay_buffer.py (set_poll_interval)",
    )


def test_sync_trainer_asks_for_the_built_in_buffer():
    source = inspect.getsource(PPOTrainerSync._build_replay_buffer)
    expect("ReplayBuffer if self.trainer_mode" in source, "which replay buffer a mode uses", "verl_mars/_compat.py")


# ---------------------------------------------------------------- data and rewards


def test_messages_of_a_row():
    example = {
        "prompt": [{"role": "user", "content": "<image>a<image>b"}],
        "images": [{"image": "/data/0.png"}, {"image": "/data/1.png"}],
    }
    dataset = SimpleNamespace(image_key="images", video_key="videos", audio_key="audios", processor=object())
    messages = RLHFDataset._build_messages(dataset, example, "prompt")
    expect(
        messages[0]["content"]
        == [
            {"type": "image", "image": "/data/0.png"},
            {"type": "text", "text": "a"},
            {"type": "image", "image": "/data/1.png"},
            {"type": "text", "text": "b"},
        ],
        "how RLHFDataset turns `<image>` into message parts",
        "verl_mars/views.py",
    )


def test_row_has_raw_prompt_and_index():
    source = inspect.getsource(RLHFDataset.__getitem__)
    expect(
        'row_dict["raw_prompt"]' in source and 'row_dict["index"]' in source,
        "the fields that RLHFDataset adds to a row",
        "verl_mars/views.py (raw_prompt) and verl_mars/rollout (index)",
    )


def test_reward_manager_registry():
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

    manager = get_reward_manager_cls("mars")
    expect(
        inspect.iscoroutinefunction(manager.run_single),
        "reward managers have run_single",
        "verl_mars/reward/manager.py",
    )


# ---------------------------------------------------------------- faults that we work round


@pytest.mark.skipif(torch.version.cuda is not None or torch.version.hip is not None, reason="torch has an accelerator")
def test_torchvision_still_needs_its_operators_declared():
    pytest.importorskip("torchvision")
    run = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    expect(
        run.returncode != 0 and "torchvision::nms does not exist" in run.stderr,
        "torchvision imports beside a CPU build of torch by itself, so define_missing_torchvision_ops can go",
        "verl_mars/_compat.py (define_missing_torchvision_ops)",
    )


# ---------------------------------------------------------------- scoring a view


def test_actor_workers_compute_log_probs_of_any_partition():
    from verl.workers.engine_workers import ActorRolloutRefWorker

    expect(
        parameters(ActorRolloutRefWorker.compute_log_prob) == ["self", "data"],
        "how the actor workers are asked for log-probs",
        "verl_mars/trainer/scoring.py",
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
    with pytest.raises(ValueError, match="divergence=exact knows none of the worker classes"):
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
        "verl_mars/trainer/scoring.py and scored_views.py",
    )


def test_metrics_are_computed_with_the_times_of_the_step():
    expect(
        parameters(PPOTrainer._compute_metrics)[:4] == ["self", "batch", "metrics", "timing_raw"],
        "the arguments of PPOTrainer._compute_metrics",
        "verl_mars/trainer/scored_views.py",
    )


def test_the_trainer_settles_the_number_of_steps_with_the_data():
    expect(
        "self.total_training_steps = " in inspect.getsource(PPOTrainer._init_dataloader),
        "where the total number of steps is known",
        "_init_dataloader in verl_mars/trainer/scored_views.py",
    )


def test_the_base_estimators_of_the_settings_are_verls():
    from typing import get_args

    from verl_mars.settings import GroupEstimator

    for name in get_args(GroupEstimator):
        known = set(parameters(core_algos.get_adv_estimator_fn(name)))
        expect(
            {"token_level_rewards", "response_mask", "index", "config"} <= known,
            f"the arguments of the estimator {name}",
            "_base_advantages in verl_mars/trainer/estimators.py",
        )


def test_images_are_loaded_and_processed_as_the_agent_loop_does():
    worker = _compat.agent_loop_worker_class()
    expect(
        parameters(worker._compute_multi_modal_inputs) == ["self", "output", "input_ids"],
        "how visual inputs of a trajectory are made",
        "_other_inputs in verl_mars/rollout/branches.py",
    )
    loads = getattr(RLHFDataset, "process_multi_modal_info", None) or RLHFDataset.process_vision_info
    expect(
        {"messages", "image_patch_size", "config"} <= set(parameters(loads)),
        "how a conversation's images are loaded",
        "_load_images in verl_mars/rollout/branches.py",
    )
