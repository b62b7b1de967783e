"""Patches of verl and torch, and the table of all private methods of verl that verl-mars overrides.

Each patch says what verl does, why that is not enough, and when the patch can go. Contract tests guard every patch and
every entry of :data:`HOOKS`.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from ray.actor import ActorClass, ActorHandle
    from tensordict import TensorDict
    from torch import Tensor
    from torch.library import Library
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from verl.single_controller.ray import RayWorkerGroup
    from verl.trainer.ppo.utils import Role
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer


@dataclass(frozen=True)
class Hook:
    """A private method of verl that classes of ours override, since verl has no public hook there."""

    parameters: str
    """Parameters of verl's method, without ``self``."""
    ours: tuple[str, ...]
    """Classes below ``verl_mars``."""


HOOKS: Mapping[str, Hook] = {
    "AgentLoopWorker._compute_multi_modal_inputs": Hook("output, input_ids", ("rollout.image_sharing.SharesImages",)),
    "AgentLoopWorker._compute_score": Hook(
        "outputs, kwargs",
        (
            "liveness.reward_workers.LivingRewardWorkers",
            "rollout.image_sharing.SharesImages",
            "rollout.worker.MarsAgentLoopWorker",
        ),
    ),
    "AgentLoopWorker._run_agent_loop": Hook(
        "sampling_params, trajectory, agent_name, trace, kwargs", ("rollout.worker.MarsAgentLoopWorker",)
    ),
    "AgentLoopWorkerTQ._agent_loop_postprocess": Hook(
        "output, validate, kwargs", ("rollout.image_sharing.SharesImages", "rollout.worker.MarsAgentLoopWorker")
    ),
    "AgentLoopWorkerTQ._run_prompt": Hook(
        "prompt, sampling_params, trajectory, trace",
        ("rollout.image_sharing.SharesImages", "rollout.worker.MarsAgentLoopWorker"),
    ),
    "FSDPEngine._build_fsdp_module": Hook("module", ("trainer.frozen_tower.FrozenTowerEngine",)),
    "PPOTrainer._build_replay_buffer": Hook("", ("trainer.trainer.ViewTrainer",)),
    "PPOTrainer._compute_advantage": Hook("batch, metrics", ("trainer.trainer.ViewTrainer",)),
    "PPOTrainer._compute_metrics": Hook(
        "batch, metrics, timing_raw, global_steps, epoch",
        ("trainer.reward_details.RewardDetails", "trainer.trainer.ViewTrainer"),
    ),
    "PPOTrainer._dump_generations": Hook(
        "inputs, outputs, gts, scores, reward_extra_infos_dict, dump_path",
        ("trainer.dump.DumpsColumns",),
    ),
    "PPOTrainer._init_dataloader": Hook("", ("trainer.trainer.ViewTrainer",)),
    "PPOTrainer._init_resource_pool_mgr": Hook("", ("trainer.trainer.ViewTrainer",)),
    "PPOTrainer._load_checkpoint": Hook("", ("trainer.anchor_memory.RemembersAnchors",)),
    "PPOTrainer._log_rollout_data": Hook(
        "batch, timing_raw, rollout_data_dir",
        ("trainer.dump.DumpsColumns",),
    ),
    "PPOTrainer._save_checkpoint": Hook(
        "", ("trainer.anchor_memory.RemembersAnchors", "trainer.checkpoints.SavesIdentity")
    ),
    "PPOTrainer._step_once": Hook("metrics, timing_raw, sample_batch_size", ("trainer.counts.SumsCounts",)),
    "PPOTrainer._submit_batch_to_rollout": Hook("batch", ("trainer.anchor_memory.RemembersAnchors",)),
    "PPOTrainer._val_metrics_update": Hook(
        "data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts",
        ("trainer.validation.ValidatesSources",),
    ),
    "ReplayBuffer._dapo_filtered_keys": Hook("partition_id", ("rollout.replay_buffer.GroupFilter",)),
    "ReplayBuffer._evict_terminal_groups": Hook(
        "global_steps, partition_id, eviction_reasons", ("liveness.waits.WaitsThatEnd",)
    ),
    "ReplayBuffer._materialize_batch": Hook(
        "partition_id, selected_prompt_uids, partition_snapshot", ("rollout.replay_buffer.ReproducibleOrder",)
    ),
    "ReplayBuffer._sync_metadata_from_transfer_queue": Hook("", ("liveness.waits.WaitsThatEnd",)),
}
"""By the class of verl that defines the method, and its name."""


def freeze_startup_objects() -> None:
    """Move everything allocated so far to the garbage collector's permanent generation.

    torch, transformers and verl leave millions of objects that live as long as the process. A full collection walks
    over all of them and pauses every session of the process for about 0.5 s. Call this once a worker is complete.
    """
    gc.freeze()


def agent_loop_worker_class() -> type:
    """The plain class inside verl's ``AgentLoopWorkerTQ``.

    verl decorates it with ``@ray.remote``, so the public name is an actor class, which cannot be subclassed. Goes when
    verl exports the undecorated class.
    """
    from verl.trainer.ppo.v1 import AgentLoopWorkerTQ

    return AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__


def exchange_worker_classes(classes: "dict[Role, ActorClass]", ours: Mapping[type, type]) -> None:
    """Put our subclass of an actor worker in place of verl's, for each role that has one.

    verl's trainers write Ray's actor classes into ``role_worker_mapping``; the plain class inside has no public name.
    Goes when verl lets a trainer say which worker class it wants.

    Raises:
        ValueError: no role has a worker that we have a subclass of.
    """
    import ray

    plain = {role: worker.__ray_metadata__.modified_class.__ray_actor_class__ for role, worker in classes.items()}
    if not any(worker in ours for worker in plain.values()):
        raise ValueError(
            "divergence=exact and freeze_vision_tower=true know none of the worker classes "
            f"{sorted(map(str, plain.values()))}"
        )
    classes.update({role: ray.remote(ours[worker]) for role, worker in plain.items() if worker in ours})


def actor_id(actor: "ActorHandle") -> str:
    """The id of an actor in Ray's errors. Ray's handles have it under a private name only."""
    return actor._actor_id.hex()


def cpus_for_ray() -> int:
    """Number of CPUs that Ray counts on this machine: a container's quota if it has one. Ray has no public name for
    it."""
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus(override_docker_cpu_warning=True))


def use_base_mode(config: "DictConfig", base_mode: str) -> None:
    """Tell verl's trainer that it runs in its own mode ``base_mode``.

    ``PPOTrainer`` compares ``trainer.v1.trainer_mode`` with ``"sync"`` in eight places and takes every other name for
    an asynchronous mode: another replay buffer, other checkpoint contents. It also reads the mode's options from
    ``trainer.v1.<mode>``. Goes when verl asks the class instead of the name.
    """
    config.trainer.v1.trainer_mode = base_mode


def exchange_replay_buffer_class(buffer: "ReplayBuffer", sync_class: type, async_class: type) -> None:
    """Turn verl's built-in replay buffer into our subclass of it; a buffer of the user's own stays as it is.

    verl takes a class of ours through ``trainer.v1.sampler.custom_sampler``, but passes its own group-filter settings
    to its own classes only. Goes when custom samplers get them too.
    """
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

    ours = {ReplayBuffer: sync_class, ReplayBufferAsync: async_class}.get(type(buffer))
    if ours is not None:
        buffer.__class__ = ours


def data_parallel_size(worker_group: "RayWorkerGroup") -> int:
    """The number of data-parallel ranks of verl's actor workers.

    verl cuts a batch among its ranks and refuses one that does not divide. It asks the workers themselves who is which
    rank, in ``_balance_batch``, by a private method. Goes when the worker group says it.
    """
    if "actor" not in worker_group._dispatch_info:
        worker_group._dispatch_info["actor"] = worker_group._query_dispatch_info("actor")
    return max(worker_group._dispatch_info["actor"]) + 1


_torchvision_ops: "Library | None" = None


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


def keep_equal_mrope_rows(tensordict_utils: Any) -> None:
    """Repair mRoPE position ids of a batch whose samples all have the same length, on any device.

    A row of position ids is (4, L_i), a batch of them a nested tensor ragged in its last dimension. Pickling loses
    which dimension is ragged, so verl's ``maybe_fix_3d_position_ids`` sets it to the last. But of rows of one shape
    torch makes a nested tensor that is ragged in dimension 1 (the 4), whose offsets count rows of 4: labelled as
    ragged in dimension 2, unbinding it fails. Such a tensor is rebuilt here. Goes when verl checks the offsets.
    """

    def maybe_fix_3d_position_ids(data: "TensorDict") -> None:
        if "position_ids" not in data.keys():
            return
        positions = data["position_ids"]
        if positions.dim() != 3 or not positions.is_nested:
            return
        values = positions._values
        if int(positions.offsets()[-1]) == values.shape[-1]:
            positions._ragged_idx = 2
        else:
            rows = list(values.view(len(data), -1, values.shape[-1]))
            data["position_ids"] = tensordict_utils.nested_tensor_from_tensor_list(rows, ragged_idx=2)

    tensordict_utils.maybe_fix_3d_position_ids = maybe_fix_3d_position_ids


def average_vision_output(modeling_outputs: ModuleType) -> None:
    """Repair a micro-batch without images for the Qwen2-VL family, on any device.

    For such a batch verl adds ``0.0 * visual(zeros).mean()`` to the embeddings, so that the vision tower takes part in
    every backward pass. transformers 5 returns an object there instead of a tensor: ``'BaseModelOutputWithPooling'
    object has no attribute 'mean'``. It gets one, of what verl takes from it for real images (``pooler_output``), so
    that the patch merger takes part too. Text-only rows meet this, and so do verl's padding rows. Goes when verl
    unpacks the output there as it does for real images.
    """

    def mean(self: "BaseModelOutputWithPooling") -> "Tensor":
        return (self.last_hidden_state if self.pooler_output is None else self.pooler_output).mean()

    if not hasattr(modeling_outputs.BaseModelOutputWithPooling, "mean"):
        modeling_outputs.BaseModelOutputWithPooling.mean = mean
