"""The only file that touches a private name of verl or works around a fault of it.

Each entry says what verl does, why that is not enough, and when the entry can go. A contract test guards each one.
"""

from typing import Any


def agent_loop_worker_class() -> type:
    """The plain class inside verl's ``AgentLoopWorkerTQ``.

    verl decorates it with ``@ray.remote``, so the public name is an actor class, which cannot be subclassed. Goes when
    verl exports the undecorated class.
    """
    from verl.trainer.ppo.v1 import AgentLoopWorkerTQ

    return AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__


def use_base_mode(config: Any, base_mode: str) -> None:
    """Tell verl's trainer that it runs in its own mode ``base_mode``.

    ``PPOTrainer`` compares ``trainer.v1.trainer_mode`` with ``"sync"`` in eight places and takes every other name for
    an asynchronous mode: another replay buffer, other checkpoint contents. It also reads the mode's options from
    ``trainer.v1.<mode>``. Goes when verl asks the class instead of the name.
    """
    config.trainer.v1.trainer_mode = base_mode


def exchange_replay_buffer_class(buffer: Any, sync_class: type, async_class: type) -> None:
    """Turn verl's built-in replay buffer into our subclass of it; a buffer of the user's own stays as it is.

    verl takes a class of ours through ``trainer.v1.sampler.custom_sampler``, but passes its own group-filter settings
    to its own classes only. Goes when custom samplers get them too.
    """
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

    ours = {ReplayBuffer: sync_class, ReplayBufferAsync: async_class}.get(type(buffer))
    if ours is not None:
        buffer.__class__ = ours


_torchvision_ops: Any = None


def define_missing_torchvision_ops() -> None:
    """Let the CUDA build of torchvision be imported beside a CPU build of torch.

    PyPI has one torchvision wheel. Its C++ library does not load without CUDA's, so its operators ``nms`` and ``qnms``
    do not exist, yet its Python code registers fake kernels for them: ``import torchvision`` raises, and with it much
    of transformers, qwen_vl_utils and verl. Declaring the two is enough; nothing here calls them. Does nothing where
    torch has an accelerator or the operators exist. Goes when PyPI has a CPU build of torchvision.
    """
    global _torchvision_ops
    import importlib.util

    import torch

    accelerated = torch.version.cuda is not None or torch.version.hip is not None
    if _torchvision_ops is not None or accelerated or importlib.util.find_spec("torchvision") is None:
        return
    if hasattr(torch.ops.torchvision, "nms"):
        return
    _torchvision_ops = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _torchvision_ops.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
