"""The agent-loop worker that rolls out mono sessions beside the fused ones."""

import asyncio
import gc
import hashlib
import logging
import time
from dataclasses import replace
from typing import Any

from verl.trainer.ppo.v1.agent_loop_tq import apply_greedy_sampling_params

from verl_mars import _compat
from verl_mars.rollout.anchors import KNOWN_FIELD, Anchor, Anchors
from verl_mars.rollout.fields import VIEW_FIELD
from verl_mars.rollout.reward_workers import LivingRewardWorkers
from verl_mars.settings import MarsSettings, group_estimator
from verl_mars.views import Mono, Row, Source, sources_of_row

logger = logging.getLogger(__name__)

_SEEDED_ENGINES = ("transformers",)
"""Rollout engines that take a seed for each request at no cost. vLLM takes one too but samples slower with it."""

_Worker: Any = _compat.agent_loop_worker_class()


class MarsAgentLoopWorker(LivingRewardWorkers, _Worker):
    """verl's ``AgentLoopWorkerTQ`` plus K mono sessions for each training prompt.

    The mono sessions start first and run beside the n fused sessions of the prompt, in the same request to the engine.
    They are scored by the same reward manager, against their source's own ground truth where it has one. A fused
    trajectory waits for the anchors of its prompt before it is written to TransferQueue, so they are there before verl
    marks the group finished. A mono trajectory is never written. A failed mono session leaves its anchor out.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mars = MarsSettings.from_algorithm(self.config.algorithm)
        self.with_anchors = group_estimator(self.config.algorithm) == "mars"
        rollout = self.config.actor_rollout_ref.rollout
        self.seeds_sessions = rollout.name in _SEEDED_ENGINES or bool(rollout.get("full_determinism", False))
        self.anchors_of_prompt: dict[str, asyncio.Task[Anchors]] = {}
        # What is there by now stays. Every full garbage collection would walk over all of it: half a second in which
        # no session of this worker goes on.
        gc.freeze()

    async def _run_prompt(self, prompt: Row, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        self.ask_reward_workers()
        if trajectory["validate"] or not self.with_anchors:
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        uid = prompt["uid"]
        known = prompt.pop(KNOWN_FIELD, "")
        anchors = asyncio.create_task(self._roll_out_anchors(dict(prompt), sampling_params, trajectory, known))
        self.anchors_of_prompt[uid] = anchors
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        finally:
            del self.anchors_of_prompt[uid]
            anchors.cancel()  # without effect unless every fused session failed before it asked for the anchors

    async def _run_agent_loop(self, sampling_params: dict, trajectory: dict, **kwargs: Any) -> Any:
        if self.seeds_sessions:
            identity = (kwargs["index"], kwargs.get(VIEW_FIELD, "fused"), kwargs["session_id"])
            sampling_params = dict(sampling_params, seed=self._session_seed(trajectory, *identity))
        return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> Any:
        if VIEW_FIELD in kwargs:
            outputs = output if isinstance(output, list) else [output]
            await self._compute_score(outputs, kwargs=kwargs)
            version = outputs[-1].extra_fields.get("max_global_steps")
            return Anchor(
                kwargs[VIEW_FIELD],
                float(outputs[-1].reward_score),
                float("nan") if version is None else float(version),
                sum(len(output.response_ids) for output in outputs),
            )
        return await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        """verl's; then a fused training session waits for the anchors of its prompt.

        Its own score does not wait for them. verl calls this before it writes ``kwargs`` with the trajectory.
        """
        await super()._compute_score(outputs, kwargs=kwargs)
        if VIEW_FIELD not in kwargs and kwargs["uid"] in self.anchors_of_prompt:
            kwargs.update((await self.anchors_of_prompt[kwargs["uid"]]).fields())

    async def _roll_out_anchors(self, prompt: Row, sampling_params: dict, trajectory: dict, known: str) -> Anchors:
        """All mono sessions of one prompt, side by side; none if its anchors are ``known`` from an earlier epoch.

        Never raises: what fails is logged and missing.
        """
        if known:
            return Anchors.known(known)
        start = time.monotonic()
        try:
            sources = sources_of_row(prompt)
        except ValueError as error:
            logger.error("prompt uid %s (index %s) has no anchors: %s", prompt["uid"], prompt.get("index"), error)
            return Anchors.missing(["unknown"])
        if len(sources) == 1:  # its mono view is its fused view: an anchor would be one more rollout
            return Anchors.missing([sources[0].name])
        planned = [(source, i) for source in sources for i in range(self.mars.anchors_per_source)]
        anchors = await asyncio.gather(*(self._anchor(s, i, prompt, sampling_params, trajectory) for s, i in planned))
        return Anchors(tuple(anchors), time.monotonic() - start)

    async def _anchor(
        self, source: Source, number: int, prompt: Row, sampling_params: dict, trajectory: dict
    ) -> Anchor:
        """One mono session; without a score where it failed."""
        params = dict(sampling_params)
        if self.mars.anchors_per_source == 1:
            apply_greedy_sampling_params(params)
        if self.mars.anchor_max_tokens is not None:
            params["max_tokens"] = self.mars.anchor_max_tokens
        view = Mono(source, self.mars.mono_prompt)
        try:
            row = view.render(prompt)
            row.pop("__rollout_n__", None)
            row.pop("__do_sample__", None)
            session = self._run_agent_loop(
                params, trajectory, trace=False, session_id=number, **{VIEW_FIELD: view.name}, **row
            )
            anchor: Anchor = await asyncio.wait_for(session, self.mars.anchor_timeout_seconds)
            return replace(anchor, source=source.name)
        except Exception as error:  # one failed session, of whatever kind, must not take its group down
            cause = str(error).strip().rpartition("\n")[2]  # of a Ray error: the line after the remote traceback
            logger.error(
                "prompt uid %s (index %s): the session of %s failed, its anchor is missing: %s: %s",
                *(prompt["uid"], prompt.get("index"), view.name, type(error).__name__, cause),
            )
            return Anchor(source.name)

    def _session_seed(self, trajectory: dict, index: Any, view: str, session: int) -> int:
        """A seed from what the session is, never from when it happens to run."""
        seed = self.config.actor_rollout_ref.rollout.get("seed", 0)
        identity = (seed, trajectory["step"], trajectory["validate"], index, view, session)
        return int.from_bytes(hashlib.blake2b(repr(identity).encode(), digest_size=4).digest(), "big") >> 1
