"""Loaded into every process of a run (VERL_USE_EXTERNAL_MODULES): kills a process while a step is being rolled out.

``KILL=<kind>:<step>``: ``agent_loop_worker``, ``rollout_server`` or ``reward_worker``, the first of its kind. The file
``KILLED_FILE`` is written at that moment.
"""

import os
import signal
from pathlib import Path

import wrapt


def _install(_v1):
    import ray

    from verl_mars.trainer.modes import MarsTrainer

    original = MarsTrainer._submit_batch_to_rollout
    kind, step = os.environ["KILL"].split(":")

    def submit_batch_to_rollout(self, batch):
        number = original(self, batch)
        if self.global_steps == int(step):
            actor = {
                "agent_loop_worker": lambda: self.agent_loop_manager.agent_loop_workers[0],
                "rollout_server": lambda: self._rollout_server_managers()[-1].server_handles[0],
                "reward_worker": lambda: self.get_reward_handles()[0],
            }[kind]()
            Path(os.environ["KILLED_FILE"]).touch()
            os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        return number

    MarsTrainer._submit_batch_to_rollout = submit_batch_to_rollout


wrapt.register_post_import_hook(_install, "verl.trainer.ppo.v1")
