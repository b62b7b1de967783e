"""The agent-loop worker that handles the images of a prompt once (``data.images_once``).

The n fused sessions of a prompt and its further sessions show the same images. verl's worker loads and processes them
in each session, and writes a copy of the patches into each row. Here a prompt's images are loaded and cut to patches
once, in threads, and the rows refer to one stored copy (:mod:`verl_mars.images`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.utils.tokenizer import get_processor_token_id

from verl_mars import store
from verl_mars.fields import FieldDict, Fields
from verl_mars.images.once import Media, PromptImages, SharedImageProcessor, SharedProcessor, once_for_all, owner_of
from verl_mars.images.reference import PARTITION, StoredInputs, VisualInputs, name_of, size_of
from verl_mars.images.room import Room
from verl_mars.images.sending import SendsImagesOnce
from verl_mars.images.settings import ImagesOnce
from verl_mars.rollout.worker import MarsAgentLoopWorker
from verl_mars.rows import IMAGE_COSTS, VIEW
from verl_mars.views import Row

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from transformers import ProcessorMixin
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
    from verl.workers.rollout.llm_server import LLMServerClient

    from verl_mars.rollout.worker import MonoScore, Output

logger = logging.getLogger(__name__)

OF_ANY_TEXT = frozenset({"images_seqlens", "mm_token_type_ids"})
"""Inputs beside the processed images that are the same for every response: the former depends on the images alone, and
of the latter verl reads only whether it is there."""


@dataclass(frozen=True)
class PreparedInputs:
    """The visual inputs of sessions that show the same images."""

    shared: Mapping[str, torch.Tensor]
    """Outputs of the image processor, one object for all sessions."""
    own: Fields
    """Everything else that the processor said of the first session."""
    name: str = ""
    """Under which the shared ones are stored; empty: they are not."""
    limit: int = 0

    def of(self, compute: Callable[[], Fields]) -> VisualInputs:
        """The visual inputs of one session; ``compute``: verl's way, which is asked where the text matters."""
        own = dict(self.own)
        if not own.keys() <= OF_ANY_TEXT:
            own = {key: value for key, value in compute().items() if key not in self.shared}
        if self.name:
            return StoredInputs(self.name, size_of(self.shared), self.limit, own, self.shared)
        return {**self.shared, **own}


@dataclass
class Scope:
    """A prompt while its sessions run."""

    uid: str
    images: PromptImages
    prepared: "dict[Hashable, asyncio.Task[PreparedInputs]]" = field(default_factory=dict)
    """By the images shown, the number of their placeholders, and whether they are stored."""


_scope: ContextVar[Scope | None] = ContextVar("scope", default=None)


class SharesImages(MarsAgentLoopWorker):
    """verl-mars' worker with the images of a prompt handled once."""

    processor: "ProcessorMixin"
    dataset_cls: type[RLHFDataset]
    llm_client: "LLMServerClient"

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.share_images()

    def share_images(self) -> None:
        """Put what shares before the run's own processor, loader and client, if the run's settings say so."""
        settings = ImagesOnce.of(self.config)
        self.sharing = settings.enable and self.processor is not None
        if not self.sharing:
            return
        self.limit = settings.max_bytes
        self.room = Room(self.limit)
        self.owners: dict[int, PromptImages] = {}
        self.prepared: dict[int, PreparedInputs] = {}  # by the id of a session's output
        if getattr(self.processor, "image_processor", None) is not None:
            self.processor.image_processor = SharedImageProcessor(self.processor.image_processor, self.owners)
        self.processor = SharedProcessor(self.processor, self.owners)
        self.dataset_cls = shared_loading(self.dataset_cls)
        self.llm_client = SendsImagesOnce(self.llm_client, self.owners)

    # ------------------------------------------------------------ a prompt

    async def _run_prompt(self, prompt: Row, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        if not self.sharing:
            return await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        images = PromptImages(self.owners)
        _scope.set(Scope(prompt["uid"], images))
        try:
            try:
                await self._load_images(prompt["raw_prompt"])
            except Exception as error:  # whatever it is, each session meets it again and verl says it
                logger.debug("prompt uid %s: its images cannot be loaded: %s", prompt["uid"], error)
            async with self.room.take(images.pixels):
                await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        finally:
            self.room.learn(images.bytes, images.pixels)
            images.close()

    # ------------------------------------------------------------ a session

    async def _agent_loop_postprocess(self, output: "Output", validate: bool, **kwargs: object) -> "MonoScore | None":
        scope = None if VIEW in kwargs else _scope.get()  # a mono session becomes no row: its inputs are not read
        outputs = output if isinstance(output, list) else [output]
        try:
            if scope is not None:
                for one in outputs:
                    await self._prepare(scope, one, stored=not validate)
            return await super()._agent_loop_postprocess(output, validate, **kwargs)
        finally:
            if scope is not None:
                for one in outputs:
                    self.prepared.pop(id(one), None)

    def _compute_multi_modal_inputs(self, output: "AgentLoopOutput", input_ids: torch.Tensor) -> VisualInputs:
        prepared = self.prepared.get(id(output)) if self.sharing else None
        if prepared is None:
            return super()._compute_multi_modal_inputs(output, input_ids)
        compute = super()._compute_multi_modal_inputs
        return prepared.of(lambda: compute(output, input_ids))

    async def _compute_score(self, outputs: "list[AgentLoopOutput]", kwargs: FieldDict) -> None:
        """Score a session, then let its rows say what its images cost."""
        await super()._compute_score(outputs, kwargs=kwargs)
        scope = _scope.get()
        if scope is not None and VIEW not in kwargs:
            kwargs[IMAGE_COSTS] = self._costs(scope, [self.prepared.get(id(one)) for one in outputs])

    async def visual_inputs(self, output: "AgentLoopOutput") -> VisualInputs:
        """A reference to the stored inputs of these images."""
        scope = _scope.get()
        if scope is None:
            return await super().visual_inputs(output)
        for image in output.multi_modal_data["images"]:
            if id(image) not in self.owners:
                scope.images.adopt(image)
        try:
            await self._prepare(scope, output, stored=True)
            return await super().visual_inputs(output)
        finally:
            self.prepared.pop(id(output), None)

    # ------------------------------------------------------------ visual inputs

    async def _prepare(self, scope: Scope, output: "AgentLoopOutput", stored: bool) -> None:
        """Have the visual inputs of a session at hand before verl asks for them, if its images are the prompt's."""
        media = {key: value for key, value in (output.multi_modal_data or {}).items() if value}
        images = media.get("images") or []
        if media.keys() != {"images"} or owner_of(images, self.owners) is not scope.images:
            return
        tokens = [*output.prompt_ids, *output.response_ids]
        placeholders = tokens.count(get_processor_token_id(self.processor, "image"))
        key = (tuple(map(id, images)), placeholders, stored)
        self.prepared[id(output)] = await once_for_all(
            scope.prepared, key, lambda: self._computed(scope, output, tokens, stored)
        )

    async def _computed(
        self, scope: Scope, output: "AgentLoopOutput", tokens: Sequence[int], stored: bool
    ) -> PreparedInputs:
        inputs = await asyncio.to_thread(super()._compute_multi_modal_inputs, output, torch.tensor(tokens))
        shared = {key: value for key, value in inputs.items() if scope.images.made(value)}
        own = {key: value for key, value in inputs.items() if key not in shared}
        if not stored or not shared:
            return PreparedInputs(shared, own)
        name = await asyncio.to_thread(_timed_name, scope, shared)
        await store.keep(PARTITION, name, shared)
        return PreparedInputs(shared, own, name, self.limit)

    def _costs(self, scope: Scope, prepared: Sequence[PreparedInputs | None]) -> FieldDict:
        """CPU seconds of the prompt's images so far, and what the session's rows refer to: [name, bytes] each."""
        references = [[one.name, size_of(one.shared)] for one in prepared if one is not None and one.name]
        return {"seconds": scope.images.seconds, "references": references}


def _timed_name(scope: Scope, tensors: Mapping[str, torch.Tensor]) -> str:
    start = time.thread_time()
    name = name_of(scope.uid, tensors)
    scope.images.spent(start)
    return name


def shared_loading(dataset_cls: type[RLHFDataset]) -> type[RLHFDataset]:
    """A data set class whose images are loaded once a prompt.

    verl's own loader treats each image by itself, so each is loaded once. Of another loader only the results of whole
    conversations are used again.
    """
    if not hasattr(dataset_cls, "process_multi_modal_info"):
        return dataset_cls
    load_all = dataset_cls.process_multi_modal_info
    piecewise = all(
        getattr(getattr(dataset_cls, name, None), "__func__", None) is getattr(RLHFDataset, name).__func__
        for name in ("process_multi_modal_info", "_process_multi_modal_info")
    )

    class Shared(dataset_cls):
        @classmethod
        async def process_multi_modal_info(
            cls, messages: list[dict], image_patch_size: int, config: "DictConfig"
        ) -> Media:
            scope = _scope.get()
            if scope is None:
                return await load_all(messages, image_patch_size=image_patch_size, config=config)

            async def load(some: Sequence[Fields]) -> Media:
                if not piecewise:
                    return await load_all(some, image_patch_size=image_patch_size, config=config)
                return await asyncio.to_thread(timed, some)

            def timed(some: Sequence[Fields]) -> Media:
                start = time.thread_time()
                loaded = dataset_cls._process_multi_modal_info(some, image_patch_size=image_patch_size, config=config)
                scope.images.spent(start)
                return loaded

            return await scope.images.load(messages, load, piecewise)

    Shared.__name__, Shared.__qualname__ = dataset_cls.__name__, dataset_cls.__qualname__
    return Shared
