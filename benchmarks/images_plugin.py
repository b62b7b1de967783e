"""Loaded into every process of a run of ``images.py``: what the process sends to and gets from TransferQueue.

A line for each message with data, in a file of the process: time, name of the process, ``put`` or ``get`` (empty:
neither), bytes, CPU seconds and peak memory of the process so far. The trainer's process writes when each step ends.
"""

import json
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import wrapt

if TYPE_CHECKING:
    from transfer_queue.utils.zmq_utils import ZMQMessage

T = TypeVar("T")
FOLDER = "IMAGES_BENCHMARK"
"""Environment variable: where the files go."""


def _process_name() -> str:
    return Path("/proc/self/cmdline").read_text().partition("\0")[0].removeprefix("ray::").partition(".")[0]


def _note(kind: str, size: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open(Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl", "a") as file:
        file.write(json.dumps([time.time(), _process_name(), kind, size, time.process_time(), peak]) + "\n")


def _size(frames: Iterable[bytes | memoryview]) -> int:
    return sum(memoryview(frame).nbytes for frame in frames)


def _count(zmq_utils: ModuleType) -> None:
    message = zmq_utils.ZMQMessage

    def serialize(wrapped: Callable[..., T], instance: "ZMQMessage", args: tuple, kwargs: dict) -> T:
        frames = wrapped(*args, **kwargs)
        sent = instance.request_type.name == "PUT_DATA"
        _note("put" if sent else "", _size(frames) if sent else 0)
        return frames

    def deserialize(wrapped: "Callable[..., ZMQMessage]", instance: object, args: tuple, kwargs: dict) -> "ZMQMessage":
        found = wrapped(*args, **kwargs)
        if found.request_type.name == "GET_DATA_RESPONSE":
            _note("get", _size(args[0]))
        return found

    wrapt.wrap_function_wrapper(message, "serialize", serialize)
    wrapt.wrap_function_wrapper(message, "deserialize", deserialize)


def _mark_steps(v1: ModuleType) -> None:
    def step(wrapped: Callable[..., T], instance: object, args: tuple, kwargs: dict) -> T:
        start = time.time()
        batch = wrapped(*args, **kwargs)
        with open(Path(os.environ[FOLDER]) / "steps.txt", "a") as file:
            file.write(f"{start} {time.time()}\n")
        return batch

    wrapt.wrap_function_wrapper(v1.PPOTrainer, "step", step)


if FOLDER in os.environ:
    wrapt.register_post_import_hook(_count, "transfer_queue.utils.zmq_utils")
    wrapt.register_post_import_hook(_mark_steps, "verl.trainer.ppo.v1")
