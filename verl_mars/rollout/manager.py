"""The agent-loop manager to name in ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``."""

import ray
from verl.trainer.ppo.v1 import AgentLoopManagerTQ

from verl_mars.rollout.image_sharing import SharesImages


class MarsAgentLoopManager(AgentLoopManagerTQ):
    """verl's ``AgentLoopManagerTQ`` with workers that roll out the views of each prompt."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SharesImages)
