"""Requests to the rollout server: engine settings, verl's sampling parameters, and pending requests."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image

from verl_mars.cpu.sampling import SamplingParams

if TYPE_CHECKING:
    from verl.workers.config import RolloutConfig
    from verl.workers.rollout.replica import TokenOutput

Options = Mapping[str, Any]
_PARAMS = ("temperature", "top_p", "top_k", "repetition_penalty", "ignore_eos")
_LENGTHS = ("max_tokens", "max_new_tokens")


@dataclass(frozen=True)
class EngineSettings:
    """``actor_rollout_ref.rollout.engine_kwargs.transformers``.

    gather_seconds: a batch starts when no request has arrived for this long, or ``max_num_seqs`` are there.
    """

    gather_seconds: float = 0.03

    @classmethod
    def from_config(cls, config: "RolloutConfig") -> "EngineSettings":
        given = dict(config.engine_kwargs.get("transformers") or {})
        unknown = sorted(set(given) - {"gather_seconds"})
        if unknown:
            raise ValueError(
                f"actor_rollout_ref.rollout.engine_kwargs.transformers has unknown keys {unknown}; "
                "allowed is gather_seconds"
            )
        settings = cls(**given)
        if settings.gather_seconds < 0:
            raise ValueError(
                f"actor_rollout_ref.rollout.engine_kwargs.transformers.gather_seconds = {settings.gather_seconds}: "
                "allowed is 0 or above"
            )
        return settings


@dataclass
class Pending:
    """An admitted request without an answer."""

    prompt_ids: tuple[int, ...]
    images: list[Image]
    processor_kwargs: Options
    identity: bytes
    params: SamplingParams
    seed: int
    log_probs: bool
    answer: "asyncio.Future[TokenOutput]"


def read_sampling_params(given: Options, prompt_length: int, config: "RolloutConfig", longest: int) -> SamplingParams:
    """The sampling parameters of one request. Lengths are limited as in verl's vLLM server.

    Args:
        given: as agent loops give them. ``None`` stands for the default.
        config: ``actor_rollout_ref.rollout``.
        longest: prompt and answer together.

    Raises:
        ValueError: an unknown or impossible parameter, or a prompt without room for an answer.
    """
    allowed = {*_PARAMS, *_LENGTHS, "stop_token_ids", "seed", "logprobs"}
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise ValueError(
            f"the rollout engine transformers does not know the sampling parameters {unknown}; "
            f"allowed are {sorted(allowed)}"
        )
    room = longest - prompt_length
    if prompt_length < 1 or room < 1:
        raise ValueError(
            f"a prompt of {prompt_length} tokens leaves no room for an answer: at most {longest - 1} are allowed "
            "(actor_rollout_ref.rollout.max_model_len)"
        )
    default = min(config.response_length, config.prompt_length + config.response_length - prompt_length)
    wanted = next((given[name] for name in _LENGTHS if given.get(name) is not None), default)
    own = {name: given[name] for name in _PARAMS if given.get(name) is not None}
    own.setdefault("ignore_eos", config.ignore_eos)
    stop = tuple(given.get("stop_token_ids") or ())
    return SamplingParams(max_tokens=max(1, min(int(wanted), room)), stop_token_ids=stop, **own)


def digest(prompt_ids: tuple[int, ...], images: list[Image], processor_kwargs: Options) -> bytes:
    """Identity of a prompt: requests with the same digest share one prompt."""
    digest = hashlib.blake2b(repr((prompt_ids, sorted(processor_kwargs.items()))).encode(), digest_size=16)
    for image in images:
        pixels = np.asarray(image)
        digest.update(repr((getattr(image, "mode", None), pixels.shape, pixels.dtype.str)).encode())
        digest.update(pixels.tobytes())
    return digest.digest()


def image_options(processor_kwargs: Options) -> Options:
    """The part of ``data.mm_processor_kwargs`` that a processor passes to its image processor."""
    own = {
        key: value for key, value in processor_kwargs.items() if not key.endswith("_kwargs") and key != "sampling_rate"
    }
    return {**own, **processor_kwargs.get("images_kwargs", {})}
