"""The rollout server of the engine ``transformers``: gathers requests that arrive together and samples them as a batch.

One Ray actor with the whole model. Its event loop admits and gathers requests; a single thread does everything that
touches the model, so sampling and loading weights never overlap.
"""

import asyncio
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import ray
import torch
from omegaconf import DictConfig
from PIL.Image import Image
from transformers import PreTrainedConfig, PreTrainedModel
from verl.plugin.platform import get_platform
from verl.utils import normalize_token_ids
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.model import convert_weight_keys, get_hf_auto_model_class
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.config import HFModelConfig
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.utils import get_max_position_embeddings, get_vision_placeholder_token_ids

from verl_mars._compat import freeze_startup_objects
from verl_mars.cpu.requests import EngineSettings, Options, Pending, digest, image_options, read_sampling_params
from verl_mars.cpu.sampling import BatchSampler, Prompt, Request, Response, SamplingParams

logger = logging.getLogger(__name__)

T = TypeVar("T")

_WORTH_A_WARNING = 0.01


def refuse_linear_attention(config: PreTrainedConfig) -> None:
    """The sampler reorders a cache of keys and values, which layers of linear attention (Qwen3.5) do not have.

    Raises:
        ValueError: the model has such layers.
    """
    if "linear_attention" in (getattr(config.get_text_config(decoder=True), "layer_types", None) or []):
        raise ValueError(
            f"a model of type {config.model_type!r} has layers of linear attention, which "
            "actor_rollout_ref.rollout.name=transformers cannot sample from; use another rollout engine (vllm), or a "
            "model with attention in all layers"
        )


class TransformersServer:
    """The server actor, with the methods that verl's replicas, clients and agent loops call.

    A request's random numbers come from ``seed`` among its sampling parameters where it has one. Otherwise from
    ``actor_rollout_ref.rollout.seed``, the version of the weights, its prompt, images and sampling parameters, and how
    many equal requests came before under these weights: the responses of a group are reproducible, their order is not.
    Each replica counts separately, so several replicas are reproducible with seeds only.
    """

    def __init__(self, config: DictConfig, model_config: DictConfig, replica_rank: int) -> None:
        self.config = omega_conf_to_dataclass(config)
        self.model_config: HFModelConfig = omega_conf_to_dataclass(model_config, dataclass_type=HFModelConfig)
        self.settings = EngineSettings.from_config(self.config)
        self.replica_rank = replica_rank
        self.device = torch.device(get_platform().device_name)
        self._longest = self.config.max_model_len or get_max_position_embeddings(self.model_config.hf_config)
        self.global_steps: int | None = None
        self.processor = self.model_config.processor
        if self.config.full_determinism:
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.model = self._load_model()
        self.sampler = BatchSampler(
            self.model,
            stop_token_ids=self._stop_token_ids(),
            forbidden_token_ids=self._forbidden_token_ids(),
            max_rows=self.config.max_num_seqs,
            max_prompt_tokens=self.config.max_num_batched_tokens,
        )
        self._parameters = convert_weight_keys(dict(self.model.state_dict(keep_vars=True)), self.model)
        self._unloaded: set[int] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: list[Pending] = []
        self._like_it: Counter[bytes] = Counter()
        self._closed = self._rejecting = False
        self._arrived, self._idle, self._reopened = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._whole = asyncio.Event()  # cleared while the weights are of two versions
        self._whole.set()
        self._failed_update: Exception | None = None
        self._sampling = 0
        self._serving: asyncio.Task[None] | None = None
        freeze_startup_objects()

    def _load_model(self) -> PreTrainedModel:
        refuse_linear_attention(self.model_config.hf_config)
        model_class = get_hf_auto_model_class(self.model_config.hf_config)
        model = model_class.from_pretrained(
            self.model_config.local_path,
            config=self.model_config.hf_config,
            dtype=PrecisionType.to_dtype(self.config.dtype),
            attn_implementation=self.model_config.override_config.get("attn_implementation", "sdpa"),
            trust_remote_code=self.model_config.trust_remote_code,
        )
        return model.to(self.device).eval()

    def _stop_token_ids(self) -> list[int]:
        ids = self.model.generation_config.eos_token_id
        ids = [ids] if isinstance(ids, int) else list(ids or [])
        return [i for i in [*ids, self.model_config.tokenizer.eos_token_id] if i is not None]

    def _forbidden_token_ids(self) -> list[int]:
        """Placeholders, behind which verl would look for an image, and ids that the tokenizer cannot decode.

        verl's vLLM server never draws them either.
        """
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        beyond = range(len(self.model_config.tokenizer), vocabulary)
        return [*get_vision_placeholder_token_ids(self.processor), *beyond]

    def get_server_address(self) -> str:
        """The identity of this server for verl's load balancer; nothing listens there."""
        return f"{ray.util.get_node_ip_address()}:{os.getpid()}"

    # ------------------------------------------------------------ requests

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: Options,
        request_id: str,
        image_data: list[Image] | None = None,
        video_data: list[object] | None = None,
        audio_data: list[object] | None = None,
        mm_processor_kwargs: Options | None = None,
    ) -> TokenOutput:
        """Sample one response.

        Raises:
            ValueError: a sampling parameter that is unknown or impossible, a prompt without room for an answer, images
                that do not match the prompt's placeholders, videos or audio.
        """
        if video_data or audio_data:
            raise ValueError("the rollout engine transformers reads text and images, no video or audio")
        ids = tuple(int(i) for i in normalize_token_ids(prompt_ids))
        images, processor_kwargs = list(image_data or []), dict(mm_processor_kwargs or {})
        params = read_sampling_params(sampling_params, len(ids), self.config, self._longest)
        while self._closed:
            if self._rejecting:
                return self._output(Response(), False, self.global_steps)
            await self._reopened.wait()
        identity = digest(ids, images, processor_kwargs)
        seed = sampling_params.get("seed")
        waiting = Pending(
            *(ids, images, processor_kwargs, identity, params),
            seed=self._derived_seed(identity, params) if seed is None else int(seed),
            log_probs=bool(sampling_params.get("logprobs", False)),
            answer=asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(waiting)
        self._start_serving()
        self._arrived.set()
        return await waiting.answer

    def _derived_seed(self, identity: bytes, params: SamplingParams) -> int:
        like_it = identity + repr(params).encode()
        number = self._like_it[like_it]
        self._like_it[like_it] += 1
        name = repr((self.config.seed, self.replica_rank, self.global_steps, number)).encode() + like_it
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")

    # ------------------------------------------------------------ batches

    def _start_serving(self) -> None:
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            await self._gather()
            await self._whole.wait()
            limit = self.config.max_num_seqs
            batch, self._waiting = self._waiting[:limit], self._waiting[limit:]
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self._answer(batch)

    async def _gather(self) -> None:
        """Wait until no more requests arrive. Those of one training step arrive over tens of milliseconds."""
        known = -1
        while known < len(self._waiting) < self.config.max_num_seqs:
            known = len(self._waiting)
            await asyncio.sleep(self.settings.gather_seconds)

    async def _answer(self, batch: list[Pending]) -> None:
        self._idle.clear()
        self._sampling = len(batch)
        version = self.global_steps
        try:
            if self._failed_update is not None:
                raise RuntimeError("the weights are incomplete, their last update failed") from self._failed_update
            results: list[Response | Exception] = await self._in_thread(self._sample, batch)
        except Exception as error:  # of any kind: a request without an answer would block forever
            logger.exception("a batch of %d requests failed", len(batch))
            results = [error] * len(batch)
        finally:
            self._sampling = 0
            self._idle.set()
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(self._output(result, waiting.log_probs, version))

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        def call() -> T:
            try:
                return function(*args)
            except StopIteration as error:  # asyncio cannot pass this one on; the caller would block forever
                raise RuntimeError(f"iteration ended early: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _sample(self, batch: list[Pending]) -> "list[Response | Exception]":
        prompts: dict[bytes, Prompt | ValueError] = {}
        for waiting in batch:
            if waiting.identity not in prompts:
                try:
                    prompts[waiting.identity] = self._read(waiting)
                except ValueError as error:
                    prompts[waiting.identity] = error
        results: list[Response | Exception] = []
        requests = []
        for waiting in batch:
            prompt = prompts[waiting.identity]
            if isinstance(prompt, Prompt):
                requests.append(Request(prompt, waiting.params, waiting.seed))
        responses = iter(self.sampler.sample(requests, lambda: self._closed))
        for waiting in batch:
            prompt = prompts[waiting.identity]
            results.append(next(responses) if isinstance(prompt, Prompt) else prompt)
        return results

    def _read(self, waiting: Pending) -> Prompt:
        """Run the image processor and lay out the positions, as verl does for the actor."""
        placeholder = getattr(self.processor, "image_token_id", None)
        inputs: dict[str, torch.Tensor] = {}
        tokens = 0
        if waiting.images:
            if self.processor is None:
                raise ValueError(f"{len(waiting.images)} images were given, but the model has no image processor")
            kwargs = image_options(waiting.processor_kwargs)
            inputs = dict(self.processor.image_processor(images=waiting.images, return_tensors="pt", **kwargs))
            if "image_grid_thw" not in inputs:
                raise ValueError(
                    "the rollout engine transformers reads images of the Qwen-VL family only; "
                    f"this model's image processor returns {sorted(inputs)}"
                )
            merge = self.processor.image_processor.merge_size
            tokens = int(inputs["image_grid_thw"].prod(-1).sum()) // merge**2
        found = waiting.prompt_ids.count(placeholder) if placeholder is not None else 0
        if tokens != found:
            raise ValueError(
                f"the prompt has {found} image placeholder tokens, but its {len(waiting.images)} images make {tokens}"
            )
        positions = self.sampler.positions(waiting.prompt_ids, placeholder, inputs)
        return Prompt(waiting.prompt_ids, positions, inputs, tokens)

    def _output(self, response: Response, log_probs: bool, version: int | None) -> TokenOutput:
        return TokenOutput(
            token_ids=response.token_ids,
            log_probs=response.log_probs if log_probs else None,
            stop_reason="completed" if response.finished else "aborted",
            extra_fields={"global_steps": version},
        )

    # ------------------------------------------------------------ weights

    async def begin_weights(self) -> None:
        """Begin a new version of all weights. Batches wait until it is complete."""
        self._whole.clear()
        self._failed_update = None
        self._unloaded = {id(p) for p in self._parameters.values()}

    async def load_weights(self, bucket: dict[str, torch.Tensor]) -> None:
        """Load a part of the new version.

        Raises:
            ValueError: names or shapes that the model does not have.
        """
        try:
            await self._in_thread(self._load, bucket)
        except Exception as error:  # of any kind: nothing may be sampled from half an update
            self._refuse_update(error)
            raise

    @torch.no_grad()
    def _load(self, bucket: dict[str, torch.Tensor]) -> None:
        unknown = sorted(set(bucket) - set(self._parameters))
        if unknown:
            raise ValueError(f"the trainer sent {len(unknown)} weights that the model does not have: {_some(unknown)}")
        for name, tensor in bucket.items():
            parameter = self._parameters[name]
            if parameter.shape != tensor.shape:
                raise ValueError(f"weight {name} is {tuple(tensor.shape)}, the model's {tuple(parameter.shape)}")
            parameter.copy_(tensor)
            self._unloaded.discard(id(parameter))  # tied weights are one: either name will do

    def _refuse_update(self, error: Exception) -> None:
        self._failed_update = error
        self._whole.set()

    async def finish_weights(self, global_steps: int | None) -> None:
        """Complete the new version and use it from now on.

        Raises:
            ValueError: weights of the model for which nothing was sent.
        """
        missing = sorted(name for name, p in self._parameters.items() if id(p) in self._unloaded)
        if missing:
            error = ValueError(f"the trainer sent no values for {len(missing)} weights of the model: {_some(missing)}")
            self._refuse_update(error)
            raise error
        self._like_it.clear()
        share = self.sampler.take_forbidden_share()
        if share > _WORTH_A_WARNING:
            logger.warning(
                "under the weights of step %s the policy put %.1f%% of its probability on image placeholders and "
                "unknown ids, which are never drawn: what was sampled is that far from the policy",
                *(self.global_steps, 100 * share),
            )
        if global_steps is not None:
            self.global_steps = global_steps
        self._whole.set()

    # ------------------------------------------------------------ control

    async def abort_all_requests(self, reject_request: bool = False) -> dict[str, int]:
        """End every request with the tokens sampled so far, and admit no more until `resume_generation`.

        Args:
            reject_request: answer requests that arrive in the meantime as aborted, instead of letting them wait.
        """
        self._closed, self._rejecting = True, reject_request  # the sampling thread sees this before its next token
        self._reopened.clear()
        number = len(self._waiting) + self._sampling
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if not request.answer.done():  # its caller may have given up
                request.answer.set_result(self._output(Response(), request.log_probs, self.global_steps))
        await self._idle.wait()  # the weights may be exchanged as soon as this returns
        return {"aborted_count": number}

    async def resume_generation(self) -> None:
        self._closed = self._rejecting = False
        self._reopened.set()

    async def sleep(self) -> None:
        """Free the device for the trainer if ``free_cache_engine`` is set and the device is an accelerator."""
        if self.config.free_cache_engine and self.device.type != "cpu":
            await self._in_thread(self._move_model, torch.device("cpu"))

    async def wake_up(self) -> None:
        await self._in_thread(self._move_model, self.device)

    def _move_model(self, device: torch.device) -> None:
        if self.model.device.type != device.type:
            self.model.to(device)
            get_platform().empty_cache()

    async def clear_kv_cache(self) -> None:
        """Nothing to clear: no cache outlives its batch."""

    release_kv_cache = resume_kv_cache = clear_kv_cache

    async def start_profile(self, **kwargs: object) -> None:
        logger.warning("the rollout engine transformers has no profiler; only the trainer is profiled")

    async def stop_profile(self) -> None:
        """Nothing was started."""


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
