"""Dead reward workers. verl keeps drawing them and silently loses their share of all sessions."""

import asyncio
import logging
from typing import TYPE_CHECKING

from ray.exceptions import ActorDiedError, RayError

from verl_mars import _compat
from verl_mars.fields import FieldDict

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ as _Worker
else:
    _Worker = _compat.agent_loop_worker_class()


class LivingRewardWorkers(_Worker):
    """Draws no dead reward worker.

    The reward workers are pinged with each prompt, while its sessions are sampled. If one dies while it scores a
    session, another one scores that session again; unless :meth:`scored_again` forbids it, since an answer that kills
    its scorer must not kill them all. If the last one dies, every session fails and the trainer ends the run.
    """

    reward_loop_worker_handles: "list[ActorHandle] | None"
    _asked: "dict[ActorHandle, asyncio.Task[None]]"

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._asked = {}

    def ask_reward_workers(self) -> None:
        """Ping them without waiting for the answers; a worker that has not answered yet is not pinged again."""
        for worker in self.reward_loop_worker_handles or ():
            if worker not in self._asked or self._asked[worker].done():
                self._asked[worker] = asyncio.create_task(self._ask(worker))

    async def _ask(self, worker: "ActorHandle") -> None:
        try:
            await worker.__ray_ready__.remote()
        except ActorDiedError as error:
            self._draw_no_more(error)
        except RayError as error:  # the network, for a moment
            logger.warning("a reward worker does not answer: %s", error)

    def _draw_no_more(self, death: ActorDiedError) -> bool:
        """Leave a dead worker out; returns whether there are others."""
        workers = self.reward_loop_worker_handles or []
        left = [worker for worker in workers if _compat.actor_id(worker) != death.actor_id]
        if left and len(left) < len(workers):
            logger.error("a reward worker died, %d are left to score with: %s", len(left), death)
            self.reward_loop_worker_handles = left
        return bool(left)

    def scored_again(self, session: FieldDict) -> bool:
        """Whether a session, by its keywords, is scored by another worker if one dies over it."""
        return True

    async def _compute_score(self, outputs: "list[AgentLoopOutput]", kwargs: dict) -> None:
        try:
            await super()._compute_score(outputs, kwargs=kwargs)
        except ActorDiedError as death:
            if not self._draw_no_more(death) or not self.scored_again(kwargs):
                raise
            await super()._compute_score(outputs, kwargs=kwargs)
