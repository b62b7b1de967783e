"""What verl-mars hangs on in verl's agent loop and replay buffer. A failure names the change of verl."""

import inspect

import pytest
import verl  # noqa: F401  first: it loads the plugin
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ, PPOTrainerSync, agent_loop_tq
from verl.trainer.ppo.v1 import replay_buffer as verl_replay_buffer
from verl_contract import expect

from verl_mars import _compat
from verl_mars.rollout.replay_buffer import OrderedReplayBuffer, OrderedReplayBufferAsync


def test_the_worker_scores_a_trajectory_before_it_is_written():
    worker, ours = _compat.agent_loop_worker_class(), "verl_mars/rollout/worker.py"
    expect(inspect.isclass(worker), "AgentLoopWorkerTQ is no Ray actor class any more", "verl_mars/_compat.py")
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
        "Key in verl_mars/rows.py",
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
        "_compute_score in verl_mars/liveness/reward_workers.py",
    )


def test_where_the_processes_of_a_run_are_known():
    from verl.workers.rollout.llm_server import LLMServerManager
    from verl.workers.rollout.replica import RolloutReplica

    ours = "crews in verl_mars/liveness/processes.py"
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
    ours_too = "verl_mars/liveness/waits.py"
    for function in (cls.sample, verl_replay_buffer.ReplayBufferAsync.wait_for_sampleable):
        source = inspect.getsource(inspect.unwrap(function))
        polls = "self._sync_metadata_from_transfer_queue()" in source or "self.wait_for_sampleable(" in source
        expect(polls, "every poll of a replay buffer begins with _sync_metadata_from_transfer_queue", ours_too)
    expect(
        "stale_uids, dapo_uids, failed_uids, " in inspect.getsource(cls._evict_terminal_groups),
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
