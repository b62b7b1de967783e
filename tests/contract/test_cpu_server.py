"""The rollout server in this process, without Ray: what it gives to callers, to the trainer and to an abort."""

import asyncio
import re
from pathlib import Path

import pytest
import torch
import verl.workers.rollout.replica as verl_replica
from hydra import compose, initialize_config_module
from server_client import ask, ask_all, question, run, told
from verl.plugin.platform import platform_manager

from verl_mars.cpu.platform import CpuPlatform
from verl_mars.cpu.server import TransformersServer
from verl_mars.toy import model as toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy model with random weights, peaked enough that different inputs have different answers."""
    folder = tmp_path_factory.mktemp("model")
    model = toy.build_model(seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15, generator=generator)
    toy.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def start(folder):
    """A function that starts a server with the overlay's configuration and some overrides."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(platform_manager, "_current_platform", CpuPlatform())

    def start(*overrides, rank=0):
        with initialize_config_module("verl_mars.recipes", version_base=None):
            config = compose(
                "ppo_trainer",
                [
                    "+hardware=cpu",
                    f"actor_rollout_ref.model.path={folder}",
                    "data.max_prompt_length=64",
                    "data.max_response_length=8",
                    "actor_rollout_ref.rollout.max_model_len=96",
                    *overrides,
                ],
            ).actor_rollout_ref
        return TransformersServer(config.rollout, config.model, rank)

    yield start
    monkeypatch.undo()


@pytest.fixture(scope="module")
def first_server(start):
    return start()


@pytest.fixture
def server(first_server):
    """One server for all tests, with its weights and its state as they were."""
    weights = {name: p.detach().clone() for name, p in first_server.model.state_dict().items()}
    first_server.global_steps, first_server._closed, first_server._failed_update = None, False, None
    first_server._like_it.clear()
    yield first_server
    first_server.model.load_state_dict(weights)


# ---------------------------------------------------------------- requests


def test_requests_that_arrive_together_are_one_batch(server, monkeypatch):
    sizes = []
    sample = server.sampler.sample
    monkeypatch.setattr(
        server.sampler, "sample", lambda requests, *a: sizes.append(len(requests)) or sample(requests, *a)
    )
    prompts = [question(server, i, images=i % 3) for i in range(6)]
    outputs = ask_all(server, [(prompt, {"seed": i}) for prompt in prompts for i in range(4)])
    assert sizes == [24]
    assert all(o.stop_reason == "completed" and 1 <= len(o.token_ids) <= 8 for o in outputs)
    assert all(len(o.log_probs) == len(o.token_ids) for o in outputs)
    assert len({tuple(o.token_ids) for o in outputs}) > 12


def test_a_batch_waits_until_requests_have_stopped_arriving(server, monkeypatch):
    sizes = []
    sample = server.sampler.sample
    monkeypatch.setattr(
        server.sampler, "sample", lambda requests, *a: sizes.append(len(requests)) or sample(requests, *a)
    )
    monkeypatch.setattr(server, "settings", type(server.settings)(gather_seconds=0.5))

    async def one_after_another():
        tasks = []
        for _ in range(5):
            tasks.append(asyncio.create_task(ask(server, question(server))))
            await asyncio.sleep(0.15)
        await asyncio.gather(*tasks)

    run(server, one_after_another())
    assert sizes == [5]


def test_answers_depend_on_seeds_and_not_on_arrival(server, start):
    requests = [(question(server, i // 4, images=i % 3), {"seed": i}) for i in range(12)]
    expected = [told(o) for o in ask_all(server, requests)]
    assert [told(o) for o in ask_all(server, requests[::-1])] == expected[::-1]
    one_by_one = start("actor_rollout_ref.rollout.max_num_seqs=1")
    assert [told(o) for o in ask_all(one_by_one, requests)] == expected


def test_an_actor_computes_the_same_log_probs(server):
    prompt = question(server, 1)
    (output,) = ask_all(server, [(prompt, {"seed": 3, "temperature": 0.7})])
    inputs = server.processor.image_processor(images=prompt[1], return_tensors="pt")
    ids = torch.tensor([[*prompt[0], *output.token_ids]])
    types = (ids == server.processor.image_token_id).int()
    with torch.no_grad():
        logits = server.model(input_ids=ids, mm_token_type_ids=types, **inputs).logits[0, len(prompt[0]) - 1 : -1]
    expected = (logits / 0.7).log_softmax(-1).gather(-1, torch.tensor(output.token_ids)[:, None])[:, 0]
    assert output.log_probs == pytest.approx(expected.tolist(), abs=1e-5)


def test_log_probs_are_given_where_asked_for(server):
    (output,) = ask_all(server, [(question(server), {"logprobs": False})])
    assert output.log_probs is None


def test_lengths(server):
    prompt = question(server, images=0)
    limits = [{"max_tokens": 3}, {"max_new_tokens": 5}, {}, {"max_tokens": 10_000}]
    outputs = ask_all(server, [(prompt, {"ignore_eos": True, **limit}) for limit in limits])
    assert [len(o.token_ids) for o in outputs] == [3, 5, 8, 96 - len(prompt[0])]


def test_a_faulty_request_fails_alone(server):
    good = question(server, 1)

    async def together():
        faulty = [
            ask(server, (good[0], good[1][:1])),
            ask(server, good, best_of=3),
            ask(server, good, top_p=0),
            ask(server, ([1] * 96, [])),
            server.generate(good[0], {}, "any", video_data=["a.mp4"]),
        ]
        return await asyncio.gather(ask(server, good), *faulty, return_exceptions=True)

    fine, *errors = run(server, together())
    assert fine.stop_reason == "completed"
    assert all(isinstance(error, ValueError) for error in errors)
    for error, words in zip(
        errors,
        ["8 image placeholder tokens, but its 1 images make 4", r"\['best_of'\]", "top_p = 0", "96 tokens", "video"],
        strict=True,
    ):
        assert re.search(words, str(error))


@pytest.mark.parametrize("error", [ZeroDivisionError, StopIteration])  # asyncio cannot hand on a StopIteration
def test_a_failing_batch_reaches_every_caller_and_the_next_batch_is_served(server, monkeypatch, error):
    def fail(*args):
        raise error("why")

    prompt = question(server)

    async def story():
        with monkeypatch.context() as broken:
            broken.setattr(server.sampler, "sample", fail)
            failed = await asyncio.gather(*(ask(server, prompt) for _ in range(3)), return_exceptions=True)
        return failed, await ask(server, prompt)

    failed, fine = run(server, story())
    assert len(failed) == 3 and all("why" in str(found) for found in failed)
    assert fine.stop_reason == "completed"


# ---------------------------------------------------------------- random streams without seeds


def test_a_group_is_reproducible_under_the_same_weights(server, start):
    def groups(server):
        asyncio.run(server.finish_weights(5))
        outputs = ask_all(server, [(question(server, i), {}) for i in (0, 1) for _ in range(6)])
        return sorted(told(o) for o in outputs[:6]), sorted(told(o) for o in outputs[6:])

    first = groups(server)
    assert len({tuple(tokens) for tokens, _, _ in first[0]}) > 3  # the sessions of a group differ
    assert groups(server) == first  # the weights of step 5 again
    assert groups(start()) == first
    assert groups(start("actor_rollout_ref.rollout.seed=1")) != first
    assert groups(start(rank=1)) != first  # or two replicas would draw the same samples


def test_other_requests_do_not_disturb_a_stream(server):
    def answers(server, *others):
        asyncio.run(server.finish_weights(5))
        for other in others:
            ask_all(server, [other])
        return sorted(told(o) for o in ask_all(server, [(question(server), {})] * 4))

    alone = answers(server)
    validation = (question(server), {"temperature": 0})
    assert answers(server, validation, (question(server, 7), {}), (question(server), {"seed": 1})) == alone


def test_other_weights_have_other_streams(server):
    def answers(step):
        asyncio.run(server.finish_weights(step))
        return sorted(told(o) for o in ask_all(server, [(question(server), {})] * 4))

    assert answers(5) != answers(6)


# ---------------------------------------------------------------- abort


def test_abort_ends_what_runs_and_what_waits_and_holds_what_comes(server):
    prompt = question(server, images=1)
    long = {"max_tokens": 60, "ignore_eos": True, "seed": 1}
    whole = ask_all(server, [(prompt, long)])[0]

    async def story():
        forward, seen = server.sampler._forward, asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(ids, mask, *a, **k):  # lets ten tokens pass, then waits for the abort
            if mask.shape[1] > len(prompt[0]) + 30:
                loop.call_soon_threadsafe(seen.set)
                while not server._closed:
                    pass
            return forward(ids, mask, *a, **k)

        server.sampler._forward = slow
        running = asyncio.create_task(ask(server, prompt, **long))
        await seen.wait()
        waiting = asyncio.create_task(ask(server, prompt))
        await asyncio.sleep(0.01)
        report = await server.abort_all_requests()
        assert server._idle.is_set()
        late = asyncio.create_task(ask(server, prompt, **long))
        first, second = await running, await waiting
        await asyncio.sleep(0.1)
        assert not late.done()
        await server.abort_all_requests(reject_request=True)
        rejected = await ask(server, prompt)
        server.sampler._forward = forward
        await server.resume_generation()
        return report, first, second, rejected, await late

    report, running, waiting, rejected, late = run(server, story())
    assert report == {"aborted_count": 2}
    assert running.stop_reason == "aborted" and 5 < len(running.token_ids) < 60
    assert running.token_ids == whole.token_ids[: len(running.token_ids)]
    assert told(waiting) == ([], [], "aborted")
    assert (rejected.token_ids, rejected.stop_reason) == ([], "aborted")
    assert told(late) == told(whole)


def test_a_request_that_was_cancelled_does_not_stop_an_abort(server, monkeypatch):
    async def story():
        monkeypatch.setattr(server, "settings", type(server.settings)(gather_seconds=5))
        task = asyncio.create_task(ask(server, question(server)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0)
        return await server.abort_all_requests()

    assert run(server, story()) == {"aborted_count": 1}


# ---------------------------------------------------------------- weights


def send(server, weights, step=1):
    async def update():
        await server.begin_weights()
        names = list(weights)
        for bucket in (names[: len(names) // 2], names[len(names) // 2 :]):
            await server.load_weights({name: weights[name] for name in bucket})
        await server.finish_weights(step)

    asyncio.run(update())


def test_weights_change_the_answers_and_their_version(server):
    request = (question(server), {"seed": 1})
    before = ask_all(server, [request])[0]
    weights = {name: p.detach().clone() for name, p in server.model.state_dict().items()}
    send(server, weights)
    same = ask_all(server, [request])[0]
    assert told(same) == told(before)
    assert (before.extra_fields["global_steps"], same.extra_fields["global_steps"]) == (None, 1)
    send(server, {name: w + 0.1 * torch.randn(w.shape) for name, w in weights.items()}, step=2)
    changed = ask_all(server, [request])[0]
    assert changed.log_probs != before.log_probs
    assert changed.extra_fields["global_steps"] == 2


def test_weights_that_do_not_fit_are_named(server):
    weights = dict(server.model.state_dict())
    name = "model.language_model.norm.weight"
    with pytest.raises(ValueError, match="1 weights that the model does not have: model.ghost"):
        send(server, weights | {"model.ghost": torch.zeros(1)})
    with pytest.raises(ValueError, match=f"no values for 1 weights of the model: {name}"):
        send(server, {key: w for key, w in weights.items() if key != name})
    with pytest.raises(ValueError, match=rf"{name} is \(3,\), the model's \({toy.HIDDEN},\)"):
        send(server, weights | {name: torch.zeros(3)})


def test_nothing_is_sampled_from_half_an_update(server):
    prompt = question(server)
    weights = {name: 1.1 * w.detach().clone() for name, w in server.model.state_dict().items()}
    names = list(weights)

    async def story():
        await server.begin_weights()
        await server.load_weights({name: weights[name] for name in names[::2]})
        asked = asyncio.create_task(ask(server, prompt, seed=1))
        await asyncio.sleep(0.3)
        assert not asked.done()
        await server.load_weights({name: weights[name] for name in names[1::2]})
        await server.finish_weights(3)
        during, after = await asked, await ask(server, prompt, seed=1)
        await server.begin_weights()
        asked = asyncio.create_task(ask(server, prompt))
        with pytest.raises(ValueError, match="ghost"):
            await server.load_weights({"ghost": torch.zeros(1)})
        return during, after, await asyncio.gather(asked, return_exceptions=True)

    during, after, (error,) = run(server, story())
    assert told(during) == told(after)
    assert during.extra_fields["global_steps"] == 3
    assert "their last update failed" in str(error)


def test_either_name_of_tied_weights_will_do(start):
    server = start()
    server.model.lm_head.weight = server.model.model.language_model.embed_tokens.weight
    server._parameters = dict(server.model.state_dict(keep_vars=True))
    weights = dict(server.model.state_dict())
    send(server, {name: w for name, w in weights.items() if name != "lm_head.weight"})
    send(server, {name: w for name, w in weights.items() if name != "model.language_model.embed_tokens.weight"})


# ---------------------------------------------------------------- configuration


def test_unknown_settings_of_the_engine_are_refused(start):
    with pytest.raises(ValueError, match=r"unknown keys \['gather'\]; allowed is gather_seconds"):
        start("+actor_rollout_ref.rollout.engine_kwargs.transformers.gather=1")
    with pytest.raises(ValueError, match="gather_seconds = -1: allowed is 0 or above"):
        start("+actor_rollout_ref.rollout.engine_kwargs.transformers.gather_seconds=-1")


def test_the_server_has_what_verls_replica_calls():
    source = Path(verl_replica.__file__).read_text()
    called = set(re.findall(r"server\.(\w+)\.remote", source))
    assert {"wake_up", "sleep", "abort_all_requests", "resume_generation"} <= called
    missing = {name for name in called if not callable(getattr(TransformersServer, name, None))}
    assert not missing, f"verl's RolloutReplica calls {missing} of its servers. Look at verl_mars/cpu/server.py."


def test_linear_attention_is_refused_by_name():
    from transformers import Qwen3_5Config, Qwen3Config

    from verl_mars.cpu.server import refuse_linear_attention

    with pytest.raises(ValueError, match="'qwen3_5' has layers of linear attention.*rollout.name=transformers"):
        refuse_linear_attention(Qwen3_5Config())
    refuse_linear_attention(Qwen3Config())
