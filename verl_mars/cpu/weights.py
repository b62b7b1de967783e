"""Weights from the trainer to rollout servers on separate devices, through Ray's object store.

verl's other engines (nccl, nixl, mooncake, ...) need an accelerator or a further library. This one needs neither, so
that ``separate_async`` runs on a CPU: ``actor_rollout_ref.rollout.checkpoint_engine.backend=object_store``.
"""

from collections.abc import AsyncIterator, Iterable

import ray
import torch
from ray.util.queue import Queue
from verl.checkpoint_engine.base import CheckpointEngine

_BUCKETS_AHEAD = 2


class ObjectStoreEngine(CheckpointEngine):
    """Trainer rank 0 puts each bucket once into the object store; every receiver has a short queue of buckets to read.

    Args:
        bucket_size: bytes of one bucket, ``checkpoint_engine.update_weights_bucket_megabytes``.
        is_master: whether this is trainer rank 0.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.bucket_size = bucket_size
        self.is_master = is_master
        self.queues: list[Queue] = []

    def prepare(self) -> dict[str, object]:
        return {}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict]
    ) -> tuple[dict[str, list[list[Queue]]], dict[str, list[list[Queue]]]]:
        queues = [Queue(_BUCKETS_AHEAD, actor_options={"num_cpus": 0}) for _ in range(rollout_world_size)]
        return (
            {"queues": [queues, *([] for _ in range(actor_wg_world_size - 1))]},
            {"queues": [[queue] for queue in queues]},
        )

    def init_process_group(self, queues: list[Queue], **kwargs: object) -> None:
        self.queues = queues

    def finalize(self) -> None:
        if self.is_master:
            for queue in self.queues:
                queue.shutdown()
        self.queues = []

    @torch.no_grad()
    async def send_weights(self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None) -> None:
        """Called in every trainer rank: gathering a tensor takes them all, only rank 0 sends it."""
        bucket: dict[str, torch.Tensor] = {}
        size = 0
        for name, tensor in weights:
            if not self.is_master:
                continue
            tensor = tensor.detach().cpu().contiguous()
            if bucket and size + tensor.nbytes > self.bucket_size:
                await self._send(bucket)
                bucket, size = {}, 0
            bucket[name] = tensor
            size += tensor.nbytes
        if self.is_master:
            if bucket:
                await self._send(bucket)
            for queue in self.queues:
                await queue.put_async(None)

    async def _send(self, bucket: dict[str, torch.Tensor]) -> None:
        reference = ray.put(bucket)
        for queue in self.queues:
            await queue.put_async([reference])  # in a list Ray passes the reference on, not the bucket

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        (queue,) = self.queues
        while (message := await queue.get_async()) is not None:
            for name, tensor in (await message[0]).items():
                yield name, tensor
