"""The trainer's side of the rollout engine ``transformers``: sends each new version of the weights to the server."""

import logging
import os
from collections.abc import Iterable

import ray
import torch
from ray.actor import ActorHandle
from torch.distributed.device_mesh import DeviceMesh
from verl.workers.config import HFModelConfig, RolloutConfig
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.utils import ensure_async_iterator

from verl_mars._compat import freeze_startup_objects
from verl_mars.cpu.replica import check_parallel_sizes, server_name

logger = logging.getLogger(__name__)


class TransformersAdapter(BaseRollout):
    """One for each trainer rank and the replica of that rank."""

    def __init__(
        self,
        config: RolloutConfig,
        model_config: HFModelConfig,
        device_mesh: DeviceMesh,
        replica_rank: int = -1,
        **kwargs: object,
    ) -> None:
        super().__init__(config, model_config, device_mesh)
        check_parallel_sizes(self.config)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank
        self.is_leader_rank = True
        self._server: ActorHandle | None = None
        freeze_startup_objects()

    @property
    def server(self) -> ActorHandle:
        # Not before it is needed: the server is started after the trainer's workers.
        if self._server is None:
            self._server = ray.get_actor(server_name(self.replica_rank))
        return self._server

    async def resume(self, tags: list[str]) -> None:
        await self.server.wake_up.remote()

    async def release(self) -> None:
        await self.server.sleep.remote()

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        peft_config: object = None,
        **kwargs: object,
    ) -> None:
        """Send all weights in buckets of ``checkpoint_engine.update_weights_bucket_megabytes``.

        Raises:
            ValueError: LoRA adapters that are not merged, a wire format of deltas, unknown or missing names, wrong
                shapes.
        """
        error: Exception | None = self._refusal(wire_format, peft_config)
        limit = self.config.checkpoint_engine.update_weights_bucket_megabytes << 20
        bucket: dict[str, torch.Tensor] = {}
        size = 0
        if error is None:
            await self.server.begin_weights.remote()
        async for name, tensor in ensure_async_iterator(weights):
            # Gathering a tensor takes every rank: one that stopped here would leave the others waiting.
            if error is not None:
                continue
            tensor = tensor.detach().cpu().contiguous()
            if bucket and size + tensor.nbytes > limit:
                error = await self._send(bucket)
                bucket, size = {}, 0
            bucket[name] = tensor
            size += tensor.nbytes
        if error is None and bucket:
            error = await self._send(bucket)
        if error is not None:
            raise error
        await self.server.finish_weights.remote(global_steps)

    async def _send(self, bucket: dict[str, torch.Tensor]) -> Exception | None:
        try:
            await self.server.load_weights.remote(bucket)
        except ray.exceptions.RayError as error:
            return error
        return None

    def _refusal(self, wire_format: str, peft_config: object) -> ValueError | None:
        if wire_format != "named_tensors":
            return ValueError(
                f"the rollout engine transformers cannot read weights in the format {wire_format!r}; "
                "set actor_rollout_ref.rollout.checkpoint_engine.backend=naive"
            )
        if peft_config is not None:
            return ValueError(
                "the rollout engine transformers takes LoRA weights merged only; "
                "set +actor_rollout_ref.model.lora.merge=True"
            )
        return None
