"""verl's own replay buffer waits for groups that never come, with a TransferQueue of a dictionary."""

import itertools

import pytest

pytest.importorskip("verl")

import transfer_queue as tq  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from verl_mars.liveness import waits  # noqa: E402
from verl_mars.rollout.replay_buffer import OrderedReplayBuffer, OrderedReplayBufferAsync  # noqa: E402


@pytest.fixture
def make_buffer(monkeypatch):
    """A function: a buffer of 4 prompts; ``status_of`` says what becomes of the n-th prompt that it asks for."""

    def make(cls, status_of):
        uids, stored = itertools.count(), {}

        def refill(count):
            for uid in itertools.islice(uids, count):
                stored[f"u{uid}"] = {"is_prompt": True, "global_steps": 1, "status": status_of(uid)}

        monkeypatch.setattr(tq, "kv_list", lambda *_: {"train": dict(stored)})
        monkeypatch.setattr(tq, "kv_clear", lambda keys, partition_id: [stored.pop(key, None) for key in keys])
        refill(4)
        return cls(
            trainer_mode="sync" if cls is OrderedReplayBuffer else "colocate_async",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create({"poll_interval_seconds": 0.001}),
            refill_fn=refill,
        )

    return make


@pytest.mark.timeout(60)
def test_nothing_but_failures_has_an_end(make_buffer):
    buffer = make_buffer(OrderedReplayBufferAsync, lambda number: "failure")
    with pytest.raises(RuntimeError, match="1000 groups of rollouts failed one after the other"):
        buffer.sample(1, "train", 4)


@pytest.mark.timeout(60)
def test_failures_with_a_success_among_them_have_none(make_buffer, monkeypatch):
    monkeypatch.setattr(waits, "HOPELESS", 50)
    buffer = make_buffer(OrderedReplayBufferAsync, lambda number: "failure" if number % 40 else "finished")
    uids, metrics = buffer.wait_for_sampleable(1, "train", 4)
    assert len(uids) == 4  # the 1st, 41st, 81st and 121st
    assert all(int(uid[1:]) % 40 == 0 for uid in uids)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("cls", [OrderedReplayBuffer, OrderedReplayBufferAsync])
def test_a_wait_for_a_dead_process_has_an_end(make_buffer, cls):
    buffer = make_buffer(cls, lambda number: "running")
    calls = itertools.count()

    def check():
        if next(calls) == 3:
            raise RuntimeError("died")

    buffer.check_processes = check
    with pytest.raises(RuntimeError, match="died"):
        buffer.sample(1, "train", 4)
