"""Reward workers that died: verl goes on drawing them, and loses their share of all sessions without a word."""

import asyncio
import logging
from typing import Any

from ray.exceptions import ActorDiedError, RayError

from verl_mars import _compat
from verl_mars.rollout.fields import VIEW_FIELD

logger = logging.getLogger(__name__)


class LivingRewardWorkers:
    """Draws no dead reward worker. Mixed into verl's agent-loop worker.

    With each prompt the reward workers are asked for a sign of life, while its sessions are sampled. A session in whose
    hands one dies is scored by another; but not a mono session, whose anchor is missing then: an answer that ends
    whoever scores it must not end them all. Where the last one dies, every session fails, and the trainer ends the run.
    """

    reward_loop_worker_handles: list[Any] | None
    _asked: dict[Any, "asyncio.Task[None]"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked = {}

    def ask_reward_workers(self) -> None:
        """Find out which are alive, without waiting for it; one that is busy is not asked twice."""
        for worker in self.reward_loop_worker_handles or ():
            if worker not in self._asked or self._asked[worker].done():
                self._asked[worker] = asyncio.create_task(self._ask(worker))

    async def _ask(self, worker: Any) -> None:
        try:
            await worker.__ray_ready__.remote()
        except ActorDiedError as error:
            self._draw_no_more(error)
        except RayError as error:  # the network, for a moment
            logger.warning("a reward worker gives no sign of life: %s", error)

    def _draw_no_more(self, death: ActorDiedError) -> bool:
        """Whether there are others."""
        workers = self.reward_loop_worker_handles or []
        left = [worker for worker in workers if _compat.actor_id(worker) != death.actor_id]
        if left and len(left) < len(workers):
            logger.error("a reward worker died, %d are left to score with: %s", len(left), death)
            self.reward_loop_worker_handles = left
        return bool(left)

    async def _compute_score(self, outputs: Any, kwargs: dict) -> None:
        try:
            await super()._compute_score(outputs, kwargs=kwargs)  # type: ignore[misc]
        except ActorDiedError as death:
            if not self._draw_no_more(death) or VIEW_FIELD in kwargs:
                raise
            await super()._compute_score(outputs, kwargs=kwargs)  # type: ignore[misc]
