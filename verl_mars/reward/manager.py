"""The reward manager ``mars`` for verl's reward loop.

``reward.reward_manager.name=mars`` scores each response with :func:`verl_mars.reward.compute_score`, or with the user's
own function where ``reward.custom_reward_function.path`` is set. To that it adds what only the manager knows: the
frame that the model answers in, whether the response was cut off, DAPO's overlong penalty.
"""

import inspect
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.utils.fs import copy_to_local

from verl_mars.errors import RowError
from verl_mars.fields import FieldDict, Fields
from verl_mars.reward.score import score_response
from verl_mars.reward.settings import RewardSettings
from verl_mars.tasks.grounding import Grounding
from verl_mars.vision.checkpoint import read_family, read_limits
from verl_mars.vision.families import needs_limits

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from verl.experimental.reward_loop.reward_manager.base import RawRewardFn


class MarsRewardManager(RewardManagerBase):
    """Scores one response at a time; fused and mono sessions alike.

    A score depends on the response, the row's ground truth and its ``extra_info`` alone, never on who asks. The row's
    ``extra_info`` is left as it is (verl's own managers write into it).

    Raises:
        ValueError: when it is made, for an unknown or impossible setting in ``reward.reward_kwargs``.
        RowError: (from ``run_single``) the row is at fault; the message names it.
    """

    def __init__(
        self,
        config: "DictConfig",
        tokenizer: "PreTrainedTokenizerBase",
        compute_score: "RawRewardFn",
        reward_router_address: str | None = None,
        reward_model_tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.settings = read_settings(config)
        # verl passes its own default_compute_score where the user has no function; the path decides, as in verl.
        custom = config.reward.get("custom_reward_function") or {}
        self.compute_score = compute_score if custom.get("path") else None
        self.is_async_reward_score = inspect.iscoroutinefunction(self.compute_score)
        self.reward_model_kwargs: FieldDict = {}
        if reward_router_address is not None:
            self.reward_model_kwargs = {
                "reward_router_address": reward_router_address,
                "reward_model_tokenizer": reward_model_tokenizer,
            }
        self._stop_ids = {
            token for token in (tokenizer.eos_token_id, getattr(tokenizer, "pad_token_id", None)) if token is not None
        }

    async def run_single(self, data: DataProto) -> FieldDict:
        """verl's hook: ``{"reward_score": float, "reward_extra_info": dict}`` for the last sequence of ``data``."""
        item = data[-1:][0]
        responses = item.batch["responses"]
        length = int(item.batch["attention_mask"][-responses.shape[-1] :].sum())
        ids = responses[:length]
        fields = item.non_tensor_batch
        truncated = self._is_truncated(ids)
        if self.compute_score is None:
            result = await self.loop.run_in_executor(None, self._score, fields, ids, truncated)
        else:
            result = await self._score_custom(fields, ids)
        extra = dict(result)
        score = float(extra["score"])
        if not math.isfinite(score):
            raise ValueError(f"the score of a response is {score}; rewards must be finite (row {_name(fields)})")
        penalty = overlong_penalty(length, self.settings)
        if penalty is not None:
            score += penalty
            if self.settings.overlong_buffer_cfg is not None and self.settings.overlong_buffer_cfg.log:
                extra |= {"overlong_reward": penalty, "overlong": penalty < 0}
        return {"reward_score": score, "reward_extra_info": extra}

    def _score(self, fields: Fields, ids: "Tensor", truncated: bool) -> FieldDict:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        extra_info = dict(fields.get("extra_info") or {})
        settings = self.settings
        if extra_info.get("task") == Grounding.name and settings.variant == "mars":
            settings = self._with_frame(extra_info)
        return score_response(
            fields["data_source"], text, _ground_truth(fields), extra_info, settings, truncated=truncated
        )

    async def _score_custom(self, fields: Fields, ids: "Tensor") -> FieldDict:
        """Call the user's function as verl's ``naive`` manager does, on a copy of the row's ``extra_info``."""
        text = await self.loop.run_in_executor(None, lambda: self.tokenizer.decode(ids, skip_special_tokens=True))
        extra_info = dict(fields.get("extra_info") or {})
        extra_info.update(fields.get("tool_extra_fields") or {})
        extra_info["num_turns"] = fields.get("__num_turns__")
        extra_info["rollout_reward_scores"] = fields.get("reward_scores", {})
        arguments = {
            "data_source": fields["data_source"],
            "solution_str": text,
            "ground_truth": _ground_truth(fields),
            "extra_info": extra_info,
            **self.reward_model_kwargs,
        }
        assert self.compute_score is not None
        if self.is_async_reward_score:
            result = await self.compute_score(**arguments)
        else:
            result = await self.loop.run_in_executor(None, lambda: self.compute_score(**arguments))
        return dict(result) if isinstance(result, Mapping) else {"score": result, "acc": result}

    def _is_truncated(self, ids: "Tensor") -> bool:
        """The response fills the largest length and does not end in a stop token."""
        limit = self.config.actor_rollout_ref.rollout.response_length
        return len(ids) >= limit and int(ids[-1]) not in self._stop_ids

    def _with_frame(self, extra_info: FieldDict) -> RewardSettings:
        """Fill in the frame of boxes, if neither the run nor the row names one; the settings with the image limits."""
        if self.settings.coordinates is None and extra_info.get("coordinates") is None:
            extra_info["coordinates"] = self._family
        name = self.settings.coordinates or extra_info["coordinates"]
        if self.settings.image_processor is not None or not needs_limits(name):
            return self.settings
        return self._settings_with_limits

    @cached_property
    def _family(self) -> str:
        path = self.config.actor_rollout_ref.model.path
        name = read_family(copy_to_local(path))
        print(f"reward manager mars: boxes are read as {name!r}, unless a row says otherwise; model {path}")
        return name

    @cached_property
    def _settings_with_limits(self) -> RewardSettings:
        path = copy_to_local(self.config.actor_rollout_ref.model.path)
        limits = read_limits(path, self.config.data.get("mm_processor_kwargs"))
        return self.settings.model_copy(update={"image_processor": limits})


def read_settings(config: "DictConfig") -> RewardSettings:
    """The settings under ``reward.reward_kwargs`` of verl's configuration.

    Raises:
        ValueError: an unknown key or an impossible value.
    """
    return RewardSettings.from_mapping(config.reward.get("reward_kwargs"), "reward.reward_kwargs")


def overlong_penalty(length: int, settings: RewardSettings) -> float | None:
    """DAPO's soft overlong punishment of a response of ``length`` tokens; None where it is not enabled.

    0 up to ``max_resp_len - len`` tokens, then falling linearly to ``-penalty_factor`` at ``max_resp_len`` (DAPO,
    arXiv 2503.14476, equation 13; verl's ``dapo`` manager, whose result this equals).
    """
    buffer = settings.overlong_buffer_cfg
    if buffer is None or not buffer.enable or settings.max_resp_len is None:
        return None
    excess = length - (settings.max_resp_len - buffer.len)
    return min(-excess / buffer.len * buffer.penalty_factor, 0.0)


def _ground_truth(fields: Fields) -> object:
    reward_model = fields.get("reward_model")
    if not isinstance(reward_model, Mapping) or "ground_truth" not in reward_model:
        raise RowError(f"row ({_name(fields)}): reward_model has no 'ground_truth'")
    return reward_model["ground_truth"]


def _name(fields: Fields) -> str:
    info = fields.get("extra_info") or {}
    return f"data source {str(fields.get('data_source'))!r}, index {info.get('index')!r}"
