"""The advantages of a step of the study, from the estimators that a run of verl calls.

What the trainer hands to a method is made here without it: the old log-probs are the sampler's, the other view is that
of ``Method.views``, shown to the policy in one batch.

Shapes: B = N G rows, P prompt tokens, R response tokens, K pictures or anchors of a prompt, M pictures, H hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from study.answers import SOURCES, World
from study.arms import Arm
from study.rollout import SHUFFLE, At, Rollout, images_of, pixels_of
from verl_mars.fields import FieldDict
from verl_mars.methods.base import Inputs, Method, RowsToView, ViewContext
from verl_mars.methods.reshaping import base_advantages
from verl_mars.methods.table import METHODS
from verl_mars.rows import NOISY, OTHER_VISUAL_INPUTS, AnchorRows
from verl_mars.toy.forward import (
    Prompts,
    mrope_positions,
    patches,
    response_distributions,
    response_log_probs,
    see,
)
from verl_mars.toy.model import PATCH, TOKENS_PER_IMAGE, build_processor
from verl_mars.toy.world import SIZE
from verl_mars.views import Trajectory

if TYPE_CHECKING:  # imported by verl_mars.toy, after what it has to define first
    from PIL.Image import Image
    from transformers import Qwen2_5_VLForConditionalGeneration

OTHER_METHODS = tuple(f"{name}/" for name in METHODS if name != "mars")
OF_MARS = ("info_gain", "shift_share", "shift_share_solved", "pushed_up_unsolved")
"""The metrics of MARS that are recorded, without ``mars/``; of other methods all are, by their full name."""


@dataclass(frozen=True)
class Padded:
    """The responses of a step, filled up on the right."""

    tokens: Tensor  # (B, R)
    log_probs: Tensor  # (B, R) of the policy that sampled them; 0 beyond
    mask: Tensor  # (B, R) 1 on responses


def padded(rollout: Rollout, pad_token: int) -> Padded:
    """The fused responses of a rollout."""
    responses = rollout.fused.responses
    tokens = pad_sequence([torch.tensor(each.token_ids) for each in responses], True, pad_token)
    log_probs = pad_sequence([torch.tensor(each.log_probs) for each in responses], True)
    mask = pad_sequence([torch.ones(len(each.token_ids)) for each in responses], True)
    return Padded(tokens, log_probs, mask)


def method_of(arm: Arm) -> Method:
    """The method of an arm; without settings for those that are verl's own estimators."""
    algorithm = OmegaConf.create({arm.estimator: dict(arm.settings), "norm_adv_by_std_in_grpo": True})
    return METHODS[arm.estimator](algorithm) if arm.estimator in METHODS else Method(algorithm)


def advantages(
    model: "Qwen2_5_VLForConditionalGeneration",
    world: World,
    arm: Arm,
    method: Method,
    rollout: Rollout,
    sampled: Padded,
    at: At,
) -> tuple[Tensor, dict[str, float]]:
    """(B, R) and the method's metrics."""
    inputs = _inputs(arm, rollout, sampled, at)
    if arm.estimator not in METHODS:
        return base_advantages(arm.estimator, inputs, "the study's arm"), {}
    if method.needs_entropy:
        inputs = replace(inputs, entropy=_entropy(model, world, rollout, sampled))
    if method.rescores:
        inputs = replace(inputs, view_log_probs=_view_log_probs(model, world, method, rollout, inputs, at))
        if arm.shuffled:
            inputs = _with_shuffled_tokens(inputs, at.rng(SHUFFLE))
    result = method.advantages(inputs)
    metrics = method.metrics(inputs, result)
    return result.advantages, recorded(metrics)


def means(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over the steps that have the metric."""
    names = dict.fromkeys(name for step in window for name in step)
    return {name: float(np.nanmean([step.get(name, np.nan) for step in window])) for name in names}


def recorded(metrics: Mapping[str, float]) -> dict[str, float]:
    """What of a method's metrics the results have, by its name there."""
    short = {name: f"mars/{name}" for name in OF_MARS}
    others = {name: name for name in metrics if name.startswith(OTHER_METHODS)}
    return {name: metrics[full] for name, full in (short | others).items() if full in metrics}


def _inputs(arm: Arm, rollout: Rollout, sampled: Padded, at: At) -> Inputs:
    """What a method gets in any case: rewards on the last token of each response, uids, anchors if there are any."""
    fused = rollout.fused
    count = len(fused.reward)
    rewards = torch.zeros_like(sampled.mask)
    rewards[torch.arange(count), sampled.mask.sum(1).long() - 1] = torch.from_numpy(fused.reward).float()
    prompts = np.arange(count) // rollout.group
    return Inputs(
        rewards=rewards,
        response_mask=sampled.mask,
        index=np.array([str(prompt) for prompt in prompts], dtype=object),
        config=OmegaConf.create({"norm_adv_by_std_in_grpo": True}),
        real=torch.ones(count, dtype=torch.bool),
        last_output=torch.arange(count),
        tags=[{"response_len": len(response.token_ids)} for response in fused.responses],
        anchors=_anchor_rows(rollout, _of_others(prompts, at) if arm.shuffled else prompts)
        if rollout.anchors
        else None,
        log_probs=sampled.log_probs,
        fields={NOISY: [rollout.presentations[prompt].prompt.get(NOISY, False) for prompt in prompts]},
        reward_details={"acc": torch.from_numpy(fused.accuracy).float()},
    )


def _of_others(prompts: NDArray[np.int64], at: At) -> NDArray[np.int64]:
    """(B,) another prompt for each prompt."""
    which = np.arange(prompts.max() + 1)
    ring = at.rng(SHUFFLE).permutation(len(which))
    which[ring] = np.roll(ring, 1)  # never its own
    return which[prompts]


def _anchor_rows(rollout: Rollout, prompts: NDArray[np.int64]) -> AnchorRows:
    """The anchors of these prompts, one row each."""

    def column(name: str) -> Tensor:  # (B, K)
        return torch.from_numpy(np.stack([getattr(each, name)[prompts] for each in rollout.anchors], axis=1)).float()

    nothing = torch.zeros(len(prompts), dtype=torch.float64)
    return AnchorRows(
        scores=column("reward"),
        versions=torch.zeros(len(prompts), SOURCES),
        sources=[[f"source{k}" for k in range(SOURCES)]] * len(prompts),
        tokens=nothing,
        seconds=nothing,
        values={"acc": column("accuracy"), "format": column("form")},
    )


def _with_shuffled_tokens(inputs: Inputs, rng: np.random.Generator) -> Inputs:
    """With the view log-probs of each response in another order, so that weights have their distribution alone."""
    order = torch.arange(inputs.response_mask.shape[1]).repeat(len(inputs.real), 1)  # (B, R)
    for row, length in enumerate(inputs.response_mask.sum(1).long().tolist()):
        order[row, :length] = torch.from_numpy(rng.permutation(length))
    moved = {name: getattr(inputs, name).gather(1, order) for name in ("log_probs", "view_log_probs")}
    return replace(inputs, **moved)


def _entropy(model: "Qwen2_5_VLForConditionalGeneration", world: World, rollout: Rollout, sampled: Padded) -> Tensor:
    """(B, R) of the policy under the view that it sampled from, in nats."""
    prompts = world.course.prompts(np.repeat(rollout.scenes, rollout.group))
    shown = rollout.visual.repeat_interleave(rollout.group, 0)
    every = response_distributions(model, prompts, shown, sampled.tokens)
    return -(every.exp() * every).sum(-1) * sampled.mask


def _view_log_probs(
    model: "Qwen2_5_VLForConditionalGeneration",
    world: World,
    method: Method,
    rollout: Rollout,
    inputs: Inputs,
    at: At,
) -> Tensor:
    """(B, R) under the method's other view; those of the own view where a row has none."""
    own, other = [], []
    for presentation in rollout.presentations:
        images = presentation.other_images
        own += [visual_inputs(images_of(presentation.prompt))] * rollout.group
        other += [visual_inputs(images) if images else {}] * rollout.group
    scenes = np.repeat(rollout.scenes, rollout.group).tolist()
    trajectories = [
        trajectory(model, world.ids[scene], response.token_ids, pixels)
        for scene, response, pixels in zip(scenes, rollout.fused.responses, own, strict=True)
    ]
    fields: FieldDict = {"multi_modal_inputs": own, "index": scenes, OTHER_VISUAL_INPUTS: other, **inputs.fields}
    views = method.views(
        RowsToView(
            keys=[str(row) for row in range(len(scenes))],
            real=inputs.real,
            trajectories=trajectories,
            fields={name: fields[name] for name in method.view_fields},
        ),
        ViewContext(OmegaConf.create(), _processor(), at.step, at.seed),
    )
    shown = {
        row: seen
        for row, (view, one) in enumerate(zip(views, trajectories, strict=True))
        if view is not None and (seen := view.show(one)) is not None
    }
    assert inputs.log_probs is not None
    result = inputs.log_probs.clone()
    for row, values in zip(shown, trajectory_log_probs(model, list(shown.values())), strict=True):
        result[row, : len(values)] = values
    return result


def trajectory(
    model: "Qwen2_5_VLForConditionalGeneration", prompt: Sequence[int], response: Sequence[int], pixels: FieldDict
) -> Trajectory:
    """A response with its prompt and visual inputs, as verl feeds it to the policy."""
    positions = mrope_positions(prompt, model.config.image_token_id, len(response))
    return Trajectory(
        prompt=torch.tensor(prompt),
        response=torch.tensor(response),
        response_mask=torch.ones(len(response), dtype=torch.long),
        position_ids=torch.cat((torch.arange(positions.shape[1])[None], positions)),
        visual_inputs=pixels,
    )


def trajectory_log_probs(
    model: "Qwen2_5_VLForConditionalGeneration", trajectories: Sequence[Trajectory]
) -> list[Tensor]:
    """(R,) of each response, as its trajectory shows the prompt: all with the same number of pictures."""
    if not trajectories:
        return []
    width = max(len(trajectory.prompt) for trajectory in trajectories)
    room = max(len(trajectory.response) for trajectory in trajectories)
    ids = torch.zeros(len(trajectories), width, dtype=torch.long)
    positions = torch.zeros(3, len(trajectories), width + room, dtype=torch.long)
    mask = torch.ones(len(trajectories), width + room, dtype=torch.long)
    for row, trajectory in enumerate(trajectories):
        start = width - len(trajectory.prompt)
        ids[row, start:] = trajectory.prompt
        mask[row, :start] = 0
        rest = trajectory.position_ids[1:]
        positions[:, row, start : start + rest.shape[1]] = rest
    places = [(row == model.config.image_token_id).nonzero()[:, 0] for row in ids]
    prompts = Prompts(ids, positions, mask, torch.stack(places))
    responses = pad_sequence([trajectory.response for trajectory in trajectories], True)
    values = response_log_probs(model, prompts, _seen(model, trajectories), responses)
    return [row[: len(trajectory.response)] for row, trajectory in zip(values, trajectories, strict=True)]


def _seen(model: "Qwen2_5_VLForConditionalGeneration", trajectories: Sequence[Trajectory]) -> Tensor:
    """(B, K, 4, H) visual tokens; pixels that several trajectories share pass the tower once."""
    distinct = {id(pixels): pixels for t in trajectories if (pixels := t.visual_inputs.get("pixel_values")) is not None}
    if not distinct:
        return torch.zeros(len(trajectories), 0, TOKENS_PER_IMAGE, model.config.text_config.hidden_size)
    pixels = torch.stack(list(distinct.values()))  # (M / K, K * 16, 1176)
    tokens = see(model, pixels.reshape(len(pixels) * SOURCES, -1, pixels.shape[-1]))
    of = dict(zip(distinct, tokens.reshape(len(pixels), SOURCES, TOKENS_PER_IMAGE, -1), strict=True))
    return torch.stack([of[id(t.visual_inputs["pixel_values"])] for t in trajectories])


def visual_inputs(images: Sequence["Image"]) -> FieldDict:
    """What the processor makes of a prompt's pictures."""
    side = SIZE // PATCH
    pixels = patches(pixels_of(images)).flatten(0, 1)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]] * len(images))}


_processor = cache(build_processor)
