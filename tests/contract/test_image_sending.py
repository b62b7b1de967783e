"""A prompt's images are put into Ray's object store once, and verl's client passes the reference on to the servers."""

import asyncio
from types import SimpleNamespace

import pytest
import verl  # noqa: F401  first: it loads the plugin
from omegaconf import OmegaConf
from PIL import Image
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput
from verl_contract import expect

from verl_mars.images import sending
from verl_mars.images.once import PromptImages
from verl_mars.images.sending import SendsImagesOnce

SENTENCE = "what verl's client of the rollout servers does with image_data", "verl_mars/images/sending.py"


class Client:
    """Keeps what it is asked to send."""

    config = "a field of verl's client"

    def __init__(self):
        self.calls = []

    async def generate(self, request_id, *, image_data=None, **kwargs):
        self.calls.append(image_data)


@pytest.fixture
def put(monkeypatch):
    """Ray's object store as a list."""
    stored = []

    async def put(images):
        await asyncio.sleep(0)
        stored.append(images)
        return f"reference {len(stored)}"

    monkeypatch.setattr(sending, "_put", put)
    return stored


def prompt_of(*sizes):
    owners = {}
    prompt = PromptImages(owners)
    images = [Image.new("RGB", size) for size in sizes]
    for image in images:
        prompt.adopt(image)
    return prompt, images, SendsImagesOnce(Client(), owners)


def send(client, *lists):
    """One session for each list, all at once."""

    async def sessions():
        await asyncio.gather(*(client.generate("r", image_data=images) for images in lists))

    asyncio.run(sessions())
    return client.calls


def test_sessions_with_the_same_images_refer_to_one_object(put):
    prompt, (a, b), client = prompt_of((448, 448), (448, 448))
    calls = send(client, [a, b], [a, b], [a, a], [a, b], [b, b])
    assert put == [[a, b], [a, a], [b, b]]
    assert calls.count("reference 1") == 3 and set(calls) == {"reference 1", "reference 2", "reference 3"}
    prompt.close()
    assert send(client, [a, b])[-1] == [a, b], "a prompt that has ended holds no reference"


def test_small_images_and_those_of_others_travel_with_the_call(put):
    _, (small,), client = prompt_of((56, 56))
    assert send(client, [small], None, []) == [[small], None, []]
    _, (large,), client = prompt_of((448, 448))
    tool = Image.new("RGB", (448, 448))
    assert send(client, [large, tool]) == [[large, tool]] and put == []
    assert client.config == "a field of verl's client"


def test_after_a_failure_the_next_session_tries_again(monkeypatch):
    _, images, client = prompt_of((448, 448))

    async def full(images):
        raise OSError("object store full")

    monkeypatch.setattr(sending, "_put", full)
    with pytest.raises(OSError, match="full"):
        send(client, images)

    async def put(images):
        return "reference"

    monkeypatch.setattr(sending, "_put", put)
    assert send(client, images) == ["reference"]


@pytest.mark.parametrize("client_class", [LLMServerClient, FullyAsyncLLMServerClient])
def test_verls_client_hands_the_argument_to_ray_as_it_is(monkeypatch, client_class):
    """Ray resolves a reference only where it is an argument itself, not within another object."""
    arrived = []

    class Server:
        class generate:
            @staticmethod
            async def remote(**kwargs):
                arrived.append(kwargs["image_data"])
                return TokenOutput(token_ids=[1], log_probs=[0.0], num_preempted=0, stop_reason="completed")

    client = client_class.__new__(client_class)
    client.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm", "response_length": 8}}})

    async def acquire(request_id, **extra):
        return "server", Server

    monkeypatch.setattr(client, "_acquire_server", acquire)
    monkeypatch.setattr(client, "_release_server", lambda *_, **__: None)
    reference = SimpleNamespace(name="a reference")
    asyncio.run(
        client.generate("r", prompt_ids=[1], sampling_params={"max_tokens": 8}, image_data=reference, video_data=None)
    )
    expect(len(arrived) == 1 and arrived[0] is reference, *SENTENCE)


@pytest.mark.slow
def test_ray_gives_the_server_the_images_themselves():
    import ray

    @ray.remote(num_cpus=0)
    class Server:
        async def generate(self, image_data):
            return [(type(image).__module__, image.size, image.getpixel((3, 4))) for image in image_data]

    class Remote(Client):
        async def generate(self, request_id, *, image_data=None, **kwargs):
            self.calls.append(type(image_data).__name__)
            return await self.server.generate.remote(image_data=image_data)

    owners = {}
    prompt = PromptImages(owners)
    image = Image.new("RGB", (448, 448), (1, 2, 3))
    prompt.adopt(image)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        client = SendsImagesOnce(Remote(), owners)
        client.server = Server.remote()

        async def sessions():
            return await asyncio.gather(*(client.generate("r", image_data=[image]) for _ in range(3)))

        assert asyncio.run(sessions()) == [[("PIL.Image", (448, 448), (1, 2, 3))]] * 3
        assert client.calls == ["ObjectRef"] * 3
    finally:
        ray.shutdown()
