"""The agent-loop worker that draws VOGUE's branch of each prompt and shows noisy groups their noisy images."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from PIL.Image import Image

from verl_mars.algos.vogue import noisy_probability
from verl_mars.rollout.fields import NOISY, OTHER_VISUAL_INPUTS, VIEW_FIELD
from verl_mars.rollout.worker import MarsAgentLoopWorker
from verl_mars.settings import VogueSettings
from verl_mars.views import Noise, Noisy, Row, with_images

logger = logging.getLogger(__name__)


@dataclass
class NoisyGroup:
    """A prompt of the noisy branch while its sessions run."""

    raw_prompt: Any
    other_images: list[Image]
    """Of the view that the group is not rolled out on."""
    other_inputs: Mapping[str, Any] | None = None
    """What the processor makes of them, made once for all sessions."""


class BranchingWorker(MarsAgentLoopWorker):
    """Draws for each training prompt whether its group is noisy; without effect unless ``adv_estimator`` is ``vogue``.

    In the variant ``paper`` every session of a noisy group, mono sessions included, is rolled out on the noisy images
    and its trajectories carry the raw ones beside; in ``released`` it is the other way round. The images are perturbed
    at the size at which the model sees them, with draws that depend on the prompt and the step alone.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        algorithm = self.config.algorithm
        self.vogue = VogueSettings.from_algorithm(algorithm) if algorithm.adv_estimator == "vogue" else None
        self.noisy_groups: dict[str, NoisyGroup] = {}

    async def _run_prompt(self, prompt: Row, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        if self.vogue is None or trajectory["validate"]:
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        uid = prompt["uid"]
        try:
            prompt = await self._branch(prompt, trajectory)
        except Exception as error:  # one prompt that cannot be shown, for whatever reason, must not stall the run
            logger.error("prompt uid %s (index %s) cannot be perturbed: %s", uid, prompt.get("index"), error)
            await tq.async_kv_put(key=uid, partition_id="train", tag={"status": "failure"})
            return
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        finally:
            self.noisy_groups.pop(uid, None)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> Any:
        if self.vogue is not None and not validate and VIEW_FIELD not in kwargs:
            group = self.noisy_groups.get(kwargs["uid"])
            kwargs[OTHER_VISUAL_INPUTS] = {} if group is None else self._other_inputs(group, output)
            if group is not None:
                kwargs["raw_prompt"] = group.raw_prompt  # names the images; the perturbed ones are not worth keeping
        return await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _branch(self, prompt: Row, trajectory: dict) -> Row:
        """The prompt as its branch is shown it."""
        settings = self.vogue
        assert settings is not None
        total_steps = self.config.trainer.total_training_steps
        probability = noisy_probability(trajectory["step"], total_steps, settings.noisy_start, settings.noisy_end)
        draw = self._session_seed(trajectory, prompt["index"], "branch", 0) / 2**31
        images = await self._load_images(prompt["raw_prompt"]) if draw < probability else []
        prompt = {**prompt, NOISY: bool(images)}
        if not images:
            return prompt
        view = Noisy(Noise(**settings.noise.model_dump()), self._session_seed(trajectory, prompt["index"], "noise", 0))
        task = (prompt.get("extra_info") or {}).get("task")
        noisy_images = await asyncio.to_thread(view.perturb, images, task)
        on_noisy = settings.variant == "paper"
        group = NoisyGroup(prompt["raw_prompt"], other_images=images if on_noisy else noisy_images)
        self.noisy_groups[prompt["uid"]] = group
        return with_images(prompt, noisy_images) if on_noisy else prompt

    async def _load_images(self, messages: list[dict]) -> list[Image]:
        """The images of a conversation as the agent loop loads them: decoded, at the size that the model sees."""
        patch_size = getattr(getattr(self.processor, "image_processor", None), "patch_size", 14)
        load = getattr(self.dataset_cls, "process_multi_modal_info", None) or self.dataset_cls.process_vision_info
        images, *others = await load(messages, image_patch_size=patch_size, config=self.config.data)
        if any(others):
            raise ValueError("algorithm.adv_estimator=vogue perturbs images; this prompt has videos or audio")
        return list(images or [])

    def _other_inputs(self, group: NoisyGroup, output: Any) -> Mapping[str, Any]:
        """The visual inputs of the view that the trajectory is to be scored under."""
        last = output[-1] if isinstance(output, list) else output
        shown = (last.multi_modal_data or {}).get("images") or []
        if len(shown) != len(group.other_images):
            raise ValueError(
                f"the trajectory has {len(shown)} images and its prompt {len(group.other_images)}: "
                "algorithm.adv_estimator=vogue cannot perturb images that a tool returned"
            )
        if group.other_inputs is None:
            other = last.model_copy(update={"multi_modal_data": {"images": group.other_images}})
            inputs = self._compute_multi_modal_inputs(other, torch.tensor([*last.prompt_ids, *last.response_ids]))
            inputs.pop("mm_token_type_ids", None)  # of the position ids only, which the trajectory has already
            group.other_inputs = inputs
        return group.other_inputs
