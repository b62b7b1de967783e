"""The agent-loop worker with anchors, without Ray: what a fused session waits for, and what it is written with."""

import asyncio
import inspect
from types import SimpleNamespace

import pytest
import transfer_queue as tq
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl_contract import expect

from verl_mars import _compat
from verl_mars.methods import METHODS, Presentation, Session
from verl_mars.rollout.worker import SEED_KEYS, MarsAgentLoopWorker, RunningPrompt, seed_key
from verl_mars.rows import ANCHOR_DETAILS, ANCHOR_FIELDS, Anchor, Anchors

ANCHORS = Anchors((Anchor("rgb", 0.5, 3.0, 9), Anchor("infrared", 1.0, 3.0, 8)), 0.2)


@pytest.fixture
def stored(monkeypatch):
    """The fields of what is put into TransferQueue."""
    found = {}

    async def put(keys, fields, tags, partition_id):
        found.update({key: fields[key] for key in fields.keys()})

    monkeypatch.setattr(tq, "async_kv_batch_put", put)
    return found


@pytest.fixture
def scored(monkeypatch):
    """What verl has sent to the reward manager."""
    sent = []

    async def compute_score(self, outputs, kwargs):
        sent.append(dict(kwargs))
        outputs[-1].reward_score = 0.75

    monkeypatch.setattr(_compat.agent_loop_worker_class(), "_compute_score", compute_score)
    return sent


def make_worker():
    async def nothing(*_, **__):
        return None

    worker = MarsAgentLoopWorker.__new__(MarsAgentLoopWorker)
    worker.method, worker.running_prompts = METHODS["mars"](), {}
    worker._compute_teacher_logprobs = nothing
    worker._compute_multi_modal_inputs = lambda *_: {}
    worker._compute_position_ids = lambda ids, *_: ids
    return worker


def output():
    return AgentLoopOutput(
        prompt_ids=[1, 2],
        response_ids=[3, 4],
        response_mask=[1, 1],
        response_logprobs=[0.0, 0.0],
        num_turns=2,
        metrics=AgentLoopMetrics(),
        extra_fields={},
        mm_processor_kwargs={},
        mm_processor_output=[],
    )


def session(worker, validate=False):
    return worker._agent_loop_postprocess(output(), validate, uid="u", session_id=0, global_steps=1)


def test_a_fused_session_is_scored_before_its_anchors_are_there_and_written_after(stored, scored):
    async def run():
        worker, gate = make_worker(), asyncio.Event()

        async def anchors():
            await gate.wait()
            return ANCHORS

        worker.running_prompts["u"] = RunningPrompt(Presentation({}), asyncio.create_task(anchors()))
        fused = asyncio.create_task(session(worker))
        await asyncio.sleep(0.05)
        before = len(scored), dict(stored)
        gate.set()
        await fused
        return before

    assert asyncio.run(run()) == (1, {})
    assert not set(ANCHOR_FIELDS) & set(scored[0])  # nothing of them travels to the reward manager
    assert stored["anchor_scores"].tolist() == [[0.5, 1.0]]
    assert set(ANCHOR_FIELDS) <= set(stored)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_dump_gets_the_answers_of_the_mono_sessions_with_the_details_of_the_reward(stored, scored, keeps):
    async def run():
        worker = make_worker()
        worker.keeps_responses = keeps

        async def anchors():
            return ANCHORS

        worker.running_prompts["u"] = RunningPrompt(Presentation({}), asyncio.create_task(anchors()))
        await session(worker)

    asyncio.run(run())
    (extra,) = [getattr(row, "data", row) for row in stored["extra_fields"]]
    assert extra.get("reward_extra_info", {}).get(ANCHOR_DETAILS) == (ANCHORS.details() if keeps else None)


def test_sessions_without_anchors_are_written_without(stored, scored):
    asyncio.run(session(make_worker(), validate=True))
    assert stored["rm_scores"].tolist() == [[0.0, 0.75]]
    assert not set(ANCHOR_FIELDS) & set(stored)


@pytest.mark.parametrize(("limit", "truncated"), [(2, 1.0), (3, 0.0)])
def test_an_anchor_that_was_cut_at_its_limit_says_so(limit, truncated, scored):
    """The response has two tokens."""
    worker = make_worker()

    async def agent_loop(sampling_params, trajectory, **row):
        assert sampling_params["max_tokens"] == limit
        return await worker._agent_loop_postprocess(output(), False, **row, global_steps=1)

    worker._run_agent_loop = agent_loop
    worker.config = SimpleNamespace(data=SimpleNamespace(max_response_length=16))
    view = SimpleNamespace(name="mono(rgb)", render=dict)
    anchor = asyncio.run(
        worker._anchor(Session("rgb", view, sampling={"max_tokens": limit}), {"uid": "u"}, {}, {"validate": False})
    )
    assert (anchor.score, anchor.tokens, anchor.values["truncated"]) == (0.75, 2, truncated)


@pytest.mark.parametrize(
    ("engine", "deterministic", "key"),
    [
        ("transformers", False, "seed"),
        ("vllm", False, None),
        ("vllm", True, "seed"),
        ("sglang", False, None),
        ("sglang", True, "sampling_seed"),
        ("unknown", True, None),
    ],
)
def test_an_engine_is_given_a_seed_by_the_name_that_it_knows(engine, deterministic, key):
    assert seed_key({"name": engine, "full_determinism": deterministic}) == key


PARAMETERS = {"vllm": "vllm", "sglang": "sglang.srt.sampling.sampling_params", "trtllm": "tensorrt_llm.llmapi"}


@pytest.mark.parametrize("engine", PARAMETERS)
def test_the_installed_engine_knows_the_name(engine):
    module = pytest.importorskip(PARAMETERS[engine], exc_type=ImportError)
    expect(
        SEED_KEYS[engine] in inspect.signature(module.SamplingParams).parameters,
        f"the name of the seed in the sampling parameters of {engine}",
        "verl_mars/rollout/worker.py (SEED_KEYS)",
    )
