"""Which sessions a reward worker takes along when it dies."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from ray.exceptions import ActorDiedError  # noqa: E402

from verl_mars import _compat  # noqa: E402
from verl_mars.rollout.worker import MarsAgentLoopWorker  # noqa: E402
from verl_mars.rows import VIEW  # noqa: E402

FUSED, MONO = {"uid": "u"}, {"uid": "u", VIEW: "mono(ir)"}


class RewardWorker:
    """What is used of one of Ray's handles."""

    def __init__(self, name, alive=True):
        self.name, self.alive, self.scored = name, alive, 0
        self._actor_id = SimpleNamespace(hex=lambda: name)
        self.__ray_ready__ = SimpleNamespace(remote=self.answer)

    async def answer(self):
        if not self.alive:
            death = ActorDiedError()
            death.actor_id = self.name
            raise death


@pytest.fixture(autouse=True)
def first_worker_scores(monkeypatch):
    """verl's agent-loop worker draws the first reward worker."""

    async def compute_score(self, outputs, kwargs):
        await self.reward_loop_worker_handles[0].answer()
        self.reward_loop_worker_handles[0].scored += 1

    monkeypatch.setattr(_compat.agent_loop_worker_class(), "_compute_score", compute_score)


def worker_with(reward_workers):
    worker = MarsAgentLoopWorker.__new__(MarsAgentLoopWorker)
    worker.reward_loop_worker_handles = reward_workers
    worker._asked, worker.running_prompts = {}, {}
    return worker


def make(*alive):
    workers = [RewardWorker(str(number), lives) for number, lives in enumerate(alive)]
    return worker_with(list(workers)), workers


def test_a_fused_session_is_scored_by_another():
    ours, workers = make(False, True)
    asyncio.run(ours._compute_score([], FUSED))
    assert workers[1].scored == 1 and ours.reward_loop_worker_handles == workers[1:]


def test_a_mono_session_is_not():
    ours, workers = make(False, True)
    with pytest.raises(ActorDiedError):
        asyncio.run(ours._compute_score([], MONO))
    assert workers[1].scored == 0 and ours.reward_loop_worker_handles == workers[1:]


def test_but_it_does_not_meet_one_that_was_dead_before():
    ours, workers = make(False, True)

    async def prompt():
        ours.ask_reward_workers()
        await asyncio.sleep(0.01)  # sampling
        await ours._compute_score([], MONO)

    asyncio.run(prompt())
    assert workers[1].scored == 1


def test_an_answer_that_ends_whoever_scores_it_ends_two_and_not_all():
    ours, workers = make(False, False, True)
    with pytest.raises(ActorDiedError):
        asyncio.run(ours._compute_score([], FUSED))
    assert workers[2].alive and workers[2].scored == 0


@pytest.mark.parametrize("kwargs", [FUSED, MONO])
def test_where_none_is_left_each_session_fails(kwargs):
    ours, _ = make(False)
    for _ in range(2):
        with pytest.raises(ActorDiedError):
            asyncio.run(ours._compute_score([], kwargs))


def test_a_colocated_reward_model_has_no_workers_to_ask():
    ours = worker_with(None)
    ours.ask_reward_workers()
    assert ours.reward_loop_worker_handles is None
