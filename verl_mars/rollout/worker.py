"""The agent-loop worker that rolls out what the run's method asks for, beside the fused sessions."""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from verl.trainer.ppo.v1.agent_loop_tq import apply_greedy_sampling_params

from verl_mars import _compat, store
from verl_mars.fields import FieldDict, Fields
from verl_mars.images.reference import VisualInputs
from verl_mars.liveness.reward_workers import LivingRewardWorkers
from verl_mars.methods.base import Presentation, PromptContext, Session
from verl_mars.methods.table import method_of
from verl_mars.rollout.validation import ProbeSettings, sessions_alone
from verl_mars.rows import ANCHOR_DETAILS, KNOWN_ANCHORS, LOOK, OTHER_VISUAL_INPUTS, VIEW, Anchor, Anchors
from verl_mars.views import Row, with_images

if TYPE_CHECKING:
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

    Output: TypeAlias = AgentLoopOutput | list[AgentLoopOutput]

MonoScore = tuple[float, float, int, dict[str, float], str | None]
"""Score, weights version, sampled tokens, numeric reward details and, if kept, text of a further session."""

logger = logging.getLogger(__name__)

SEED_KEYS = {"transformers": "seed", "vllm": "seed", "sglang": "sampling_seed", "trtllm": "seed"}
"""What a request's seed is called in the sampling parameters of each rollout engine. SGLang fails on a key that it does
not know, so an engine that is not listed gets none."""

LOOK_TOKENS = 64
"""Longest answer of a prompt that is marked with :data:`~verl_mars.rows.LOOK`."""

_SEEDED_AT_NO_COST = ("transformers",)
"""Engines whose sessions always have a seed; the others sample slower with one."""


def seed_key(rollout: Fields) -> str | None:
    """Under which key a session's seed is handed to the engine; None: sessions are not seeded.

    Args:
        rollout: the section ``actor_rollout_ref.rollout``.
    """
    wanted = rollout["name"] in _SEEDED_AT_NO_COST or bool(rollout.get("full_determinism", False))
    if wanted and rollout["name"] not in SEED_KEYS:
        logger.warning(
            "actor_rollout_ref.rollout.full_determinism=true: sessions of the engine %r have no seed each; known: %s",
            rollout["name"],
            ", ".join(SEED_KEYS),
        )
    return SEED_KEYS.get(rollout["name"]) if wanted else None


@dataclass
class RunningPrompt:
    """A training prompt while its sessions run."""

    presentation: Presentation
    anchors: "asyncio.Task[Anchors] | None" = None
    validates: bool = False
    other_inputs: "asyncio.Task[VisualInputs] | None" = None
    """Visual inputs of the presentation's other images, made once for all sessions."""


class MarsAgentLoopWorker(LivingRewardWorkers):
    """verl's ``AgentLoopWorkerTQ`` with the method's further sessions and its way to show images.

    Further sessions start first and run beside the n fused sessions of the prompt, in the same request to the engine.
    They are scored by the same reward manager, against their source's own ground truth if it has one. A fused
    trajectory waits for the anchors of its prompt before it is written to TransferQueue, so they are there before verl
    marks the group finished. A mono trajectory is never written. A failed mono session leaves its anchor out.
    """

    probing = ProbeSettings()
    keeps_responses = False
    """Whether answers of mono sessions are kept with the fused ones, for the dumps of rollouts."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.method = method_of(self.config.algorithm)
        rollout = self.config.actor_rollout_ref.rollout
        self.seed_key = seed_key(rollout)
        self.running_prompts: dict[str, RunningPrompt] = {}
        folders = ("rollout_data_dir", "validation_data_dir")
        self.keeps_responses = any(self.config.trainer.get(folder) for folder in folders)
        self.probing = ProbeSettings.of(self.config.algorithm)
        _compat.freeze_startup_objects()

    # ------------------------------------------------------------ a prompt

    async def _run_prompt(self, prompt: Row, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        self.ask_reward_workers()
        if LOOK in prompt:
            prompt, sampling_params = await self._for_look(prompt, sampling_params)
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        uid, known, validates = prompt["uid"], prompt.pop(KNOWN_ANCHORS, ""), trajectory["validate"]
        if validates and not self.probing.validate_sources:
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        try:
            context = self._prompt_context(prompt, trajectory)
            presentation = Presentation(prompt) if validates else await self.method.present(prompt, context)
        except Exception as error:  # one prompt that cannot be shown, for whatever reason, must not stall the run
            logger.error("prompt uid %s (index %s) cannot be shown: %s", uid, prompt.get("index"), error)
            await store.mark_failed(uid)
            return
        running = self.running_prompts[uid] = RunningPrompt(presentation, validates=validates)
        prompt = presentation.prompt
        if validates or self.method.anchoring is not None:
            anchors = self._roll_out_anchors(dict(prompt), sampling_params, trajectory, known)
            running.anchors = asyncio.create_task(anchors)
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        finally:
            del self.running_prompts[uid]
            if running.anchors is not None:
                running.anchors.cancel()  # no effect unless every fused session failed before it asked for the anchors

    def _prompt_context(self, prompt: Row, trajectory: dict) -> PromptContext:
        return PromptContext(
            step=trajectory["step"],
            total_steps=self.config.trainer.total_training_steps,
            seed=lambda purpose: self._session_seed(trajectory, prompt["index"], purpose, 0),
            load_images=self._load_images,
        )

    async def _for_look(self, prompt: Row, sampling_params: dict) -> tuple[Row, dict]:
        """A prompt that is marked with :data:`LOOK`, and its sampling: greedy, short, with log-probs."""
        params = {
            **sampling_params,
            "logprobs": True,
            "max_tokens": min(LOOK_TOKENS, self.config.data.max_response_length),
        }
        apply_greedy_sampling_params(params)
        row = {**prompt, "__rollout_n__": 1}
        if row.pop(LOOK) == "blank":
            images = await self._load_images(row["raw_prompt"])
            row = with_images(row, [new_image("RGB", image.size, (128, 128, 128)) for image in images])
        return row, params

    async def _load_images(self, messages: Sequence[Fields]) -> list[Image]:
        """The images of a conversation as the agent loop loads them: decoded, at the size that the model sees.

        Raises:
            ValueError: the conversation has videos or audio.
        """
        patch_size = getattr(getattr(self.processor, "image_processor", None), "patch_size", 14)
        load = getattr(self.dataset_cls, "process_multi_modal_info", None) or self.dataset_cls.process_vision_info
        images, *others = await load(messages, image_patch_size=patch_size, config=self.config.data)
        if any(others):
            raise ValueError(
                f"algorithm.adv_estimator={self.method.name} shows images in another way; "
                "this prompt has videos or audio"
            )
        return list(images or [])

    # ------------------------------------------------------------ a session

    async def _run_agent_loop(self, sampling_params: dict, trajectory: dict, **kwargs: Any) -> Any:
        if self.seed_key is not None:
            identity = (kwargs["index"], kwargs.get(VIEW, "fused"), kwargs["session_id"])
            sampling_params = {**sampling_params, self.seed_key: self._session_seed(trajectory, *identity)}
        return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)

    async def _agent_loop_postprocess(self, output: "Output", validate: bool, **kwargs: Any) -> "MonoScore | None":
        if VIEW in kwargs:
            return await self._score_mono_session(output if isinstance(output, list) else [output], kwargs)
        running = self.running_prompts.get(kwargs["uid"])
        if running is not None and running.presentation.other_images is not None:
            kwargs[OTHER_VISUAL_INPUTS] = await self._other_inputs(running, output)
        if running is not None and running.presentation.stored_messages is not None:
            kwargs["raw_prompt"] = running.presentation.stored_messages
        return await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _compute_score(self, outputs: "list[AgentLoopOutput]", kwargs: FieldDict) -> None:
        """Score a session; a fused training session then waits for the anchors of its prompt.

        Its own score does not wait for them. verl calls this before it writes ``kwargs`` with the trajectory.
        """
        await super()._compute_score(outputs, kwargs=kwargs)
        running = None if VIEW in kwargs else self.running_prompts.get(kwargs["uid"])
        if running is not None and running.anchors is not None:
            anchors = await running.anchors
            if not running.validates:
                kwargs.update(anchors.fields(self._anchor_values))
            if running.validates or self.keeps_responses:
                outputs[-1].extra_fields.setdefault("reward_extra_info", {})[ANCHOR_DETAILS] = anchors.details()

    def scored_again(self, session: FieldDict) -> bool:
        """Fused sessions only: the anchor of a mono session whose scorer died is missing."""
        return VIEW not in session

    def _session_seed(self, trajectory: dict, index: int, view: str, session: int) -> int:
        """A seed from what the session is, never from when it happens to run."""
        seed = self.config.actor_rollout_ref.rollout.get("seed", 0)
        identity = (seed, trajectory["step"], trajectory["validate"], index, view, session)
        return int.from_bytes(hashlib.blake2b(repr(identity).encode(), digest_size=4).digest(), "big") >> 1

    async def _other_inputs(self, running: RunningPrompt, output: "Output") -> VisualInputs:
        """The visual inputs of the images that a trajectory is rescored under."""
        other_images = running.presentation.other_images
        if not other_images:
            return {}
        last = output[-1] if isinstance(output, list) else output
        shown = (last.multi_modal_data or {}).get("images") or []
        if len(shown) != len(other_images):
            raise ValueError(
                f"the trajectory has {len(shown)} images and its prompt {len(other_images)}: "
                f"algorithm.adv_estimator={self.method.name} cannot rescore images that a tool returned"
            )
        if running.other_inputs is None:
            other = last.model_copy(update={"multi_modal_data": {"images": list(other_images)}})
            running.other_inputs = asyncio.create_task(self.visual_inputs(other))
        return await asyncio.shield(running.other_inputs)

    async def visual_inputs(self, output: "AgentLoopOutput") -> VisualInputs:
        """The visual inputs of an output as a field of a row, computed off the event loop."""
        tokens = torch.tensor([*output.prompt_ids, *output.response_ids])
        inputs = await asyncio.to_thread(self._compute_multi_modal_inputs, output, tokens)
        inputs.pop("mm_token_type_ids", None)  # needed for position ids only, which the trajectory has already
        return inputs

    # ------------------------------------------------------------ anchors

    @property
    def _anchor_values(self) -> tuple[str, ...]:
        return () if self.method.anchoring is None else self.method.anchoring.anchor_values

    async def _roll_out_anchors(self, prompt: Row, sampling_params: dict, trajectory: dict, known: str) -> Anchors:
        """All further sessions of one prompt, side by side; none if its anchors are ``known`` from an earlier epoch.

        Never raises: failures are logged, and their anchors are missing.
        """
        if known:
            return Anchors.known(known)
        start = time.monotonic()
        try:
            sessions: Sequence[Session] = ()
            if trajectory["validate"]:
                sessions = sessions_alone(prompt, self.method.mono_prompt)
            elif self.method.anchoring is not None:
                sessions = self.method.anchoring.sessions(prompt)
        except ValueError as error:
            logger.error("prompt uid %s (index %s) has no anchors: %s", prompt["uid"], prompt.get("index"), error)
            return Anchors.missing(["unknown"])
        if all(session.view is None for session in sessions):
            return Anchors.missing([session.source for session in sessions])
        anchors = await asyncio.gather(*(self._anchor(s, prompt, sampling_params, trajectory) for s in sessions))
        return Anchors(tuple(anchors), time.monotonic() - start)

    async def _anchor(self, session: Session, prompt: Row, sampling_params: dict, trajectory: dict) -> Anchor:
        """One further session; without a score if it failed."""
        if session.view is None:
            return Anchor(session.source)
        params = dict(sampling_params)
        if session.greedy:
            apply_greedy_sampling_params(params)
        params.update(session.sampling)
        try:
            row = session.view.render(prompt)
            row.pop("__rollout_n__", None)
            row.pop("__do_sample__", None)
            marks = {VIEW: session.view.name}
            running = self._run_agent_loop(params, trajectory, trace=False, session_id=session.number, **marks, **row)
            score, version, tokens, values, text = await asyncio.wait_for(running, session.timeout_seconds)
            values["truncated"] = float(tokens >= params.get("max_tokens", self.config.data.max_response_length))
            names = ("acc",) if trajectory["validate"] else self._anchor_values
            kept = {name: values.get(name, math.nan) for name in names}
            return Anchor(session.source, score, version, tokens, kept, text)
        except Exception as error:  # one failed session, of whatever kind, must not take its group down
            cause = str(error).strip().rpartition("\n")[2]  # of a Ray error: the line after the remote traceback
            logger.error(
                "prompt uid %s (index %s): the session of %s failed, its anchor is missing: %s: %s",
                *(prompt["uid"], prompt.get("index"), session.view.name, type(error).__name__, cause),
            )
            return Anchor(session.source)

    async def _score_mono_session(self, outputs: "list[AgentLoopOutput]", kwargs: FieldDict) -> MonoScore:
        await self._compute_score(outputs, kwargs=kwargs)
        last = outputs[-1]
        version = last.extra_fields.get("max_global_steps")
        details = last.extra_fields.get("reward_extra_info") or {}
        numbers = {name: float(value) for name, value in details.items() if isinstance(value, int | float)}
        tokens = sum(len(output.response_ids) for output in outputs)
        text = self.tokenizer.decode(last.response_ids, skip_special_tokens=True) if self.keeps_responses else None
        return float(last.reward_score), math.nan if version is None else float(version), tokens, numbers, text
