"""The arms of ``step_time.py`` and ``gpu_steps.py``: one run of verl whose steps are GRPO, MARS, ... in turn.

All but one are the product as it is, with the section ``algorithm`` set for each step. ``two_phase`` is the way of the
authors' code, which exists here only: all mono sessions of a batch are rolled out and scored, and when the
last one is done its fused sessions start.
"""

import asyncio

import ray
from omegaconf import DictConfig, open_dict
from step_time_arms import ARMS, arm_of
from tensordict import TensorDict
from verl.utils.debug import marked_timer

from verl_mars import _compat
from verl_mars.fields import FieldDict
from verl_mars.methods import Method
from verl_mars.methods.table import method_of
from verl_mars.rollout.image_sharing import SharesImages
from verl_mars.rollout.manager import MarsAgentLoopManager
from verl_mars.rows import Anchors
from verl_mars.trainer.divergence_worker import WORKERS
from verl_mars.trainer.modes import MarsTrainerSync
from verl_mars.views import Row

SETTINGS: dict[str, FieldDict] = {
    "grpo": {"adv_estimator": "grpo"},
    "mars": {"adv_estimator": "mars"},
    "two_phase": {"adv_estimator": "mars"},
    "pgpo": {"adv_estimator": "pgpo", "pgpo": {"base": "grpo", "divergence": "sampled"}},
    "pgpo_exact": {"adv_estimator": "pgpo", "pgpo": {"base": "grpo", "divergence": "exact"}},
}
"""Of ``algorithm``, for each arm."""


def method_of_step(config: DictConfig, step: int) -> Method:
    """The method of a step, after setting ``algorithm`` for its arm."""
    with open_dict(config):
        for key, value in SETTINGS[arm_of(step)].items():
            config.algorithm[key] = value
    return method_of(config.algorithm)


class ArmsWorker(SharesImages):
    """Rolls out the prompts of each step as its arm does."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.mono_only = False
        self.of_first_phase: dict[str, Anchors] = {}

    async def generate_sequences(self, batch: TensorDict) -> None:
        self.method = method_of_step(self.config, int(batch["global_steps"]))
        await super().generate_sequences(batch)

    async def roll_out_first_phase(self, batch: TensorDict) -> None:
        """All mono sessions of these prompts, from start to score."""
        self.mono_only = True
        await self.generate_sequences(batch)
        await asyncio.gather(*self.background_tasks)
        self.mono_only = False

    async def _run_prompt(self, prompt: Row, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        if not self.mono_only:
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        anchors = await self._roll_out_anchors(dict(prompt), sampling_params, trajectory, "")
        self.of_first_phase[prompt["uid"]] = anchors

    async def _roll_out_anchors(self, prompt: Row, sampling_params: dict, trajectory: dict, known: str) -> Anchors:
        done = self.of_first_phase.pop(prompt["uid"], None)
        if done is not None:
            return done
        return await super()._roll_out_anchors(prompt, sampling_params, trajectory, known)


class ArmsManager(MarsAgentLoopManager):
    """Ends the first phase of all workers before their second begins, where the arm has two."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(ArmsWorker)

    def generate_sequences(self, prompts: TensorDict) -> None:
        if arm_of(int(prompts["global_steps"])) == "two_phase":
            chunks = prompts.chunk(len(self.agent_loop_workers))
            pairs = zip(self.agent_loop_workers, chunks, strict=False)
            ray.get([worker.roll_out_first_phase.remote(chunk) for worker, chunk in pairs])
        super().generate_sequences(prompts)


class ArmsTrainer(MarsTrainerSync):
    """Sets the estimator of each step, and times what comes before verl's timer ``gen`` starts."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        with open_dict(config):
            config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = f"{__name__}.{ArmsManager.__name__}"

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if "pgpo_exact" in ARMS:
            _compat.exchange_worker_classes(self.role_worker_mapping, WORKERS)

    def prepare_step(self) -> dict:
        self.method = method_of_step(self.config, self.global_steps)
        with marked_timer("submit", self.timing_raw):
            return super().prepare_step()
