"""How the trainer's side sends weights to the rollout server."""

import asyncio
from types import SimpleNamespace

import pytest
import ray
import torch

from verl_mars.cpu.adapter import TransformersAdapter


class RecordingServer:
    """Stands for a server's Ray handle and keeps what the trainer's side calls."""

    def __init__(self, refuse=()):
        self.calls, self.refuse = [], refuse

    def __getattr__(self, name):
        async def call(*args):
            self.calls.append((name, *(sorted(a) if isinstance(a, dict) else a for a in args)))
            if name in self.refuse:
                raise ray.exceptions.RayError(f"{name} refused")

        return SimpleNamespace(remote=call)


def update(server, weights, megabytes=1, **options):
    adapter = TransformersAdapter.__new__(TransformersAdapter)
    adapter._server = server
    engine = SimpleNamespace(update_weights_bucket_megabytes=megabytes)
    adapter.config = SimpleNamespace(checkpoint_engine=engine)
    asyncio.run(adapter.update_weights(weights, global_steps=7, **options))


def some_weights(taken, sizes=(150_000, 150_000, 10, 400_000, 10)):
    for number, size in enumerate(sizes):
        taken.append(number)
        yield f"w{number}", torch.zeros(size)


def test_weights_are_sent_in_buckets():
    server = RecordingServer()
    update(server, some_weights([]))
    assert server.calls == [
        ("begin_weights",),
        ("load_weights", ["w0"]),
        ("load_weights", ["w1", "w2"]),
        ("load_weights", ["w3"]),
        ("load_weights", ["w4"]),
        ("finish_weights", 7),
    ]


def test_a_refused_bucket_is_raised_after_every_rank_has_gathered_all_weights():
    server, taken = RecordingServer(refuse=["load_weights"]), []
    with pytest.raises(ray.exceptions.RayError, match="load_weights refused"):
        update(server, some_weights(taken))
    assert taken == [0, 1, 2, 3, 4]
    assert [name for name, *_ in server.calls] == ["begin_weights", "load_weights"]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"wire_format": "delta_flush"}, "backend=naive"), ({"peft_config": object()}, "model.lora.merge=True")],
)
def test_weights_in_forms_that_the_server_cannot_read_are_refused(options, words):
    server, taken = RecordingServer(), []
    with pytest.raises(ValueError, match=words):
        update(server, some_weights(taken), **options)
    assert taken == [0, 1, 2, 3, 4]
    assert server.calls == []
