"""One training of the study in one process: the product's world, model, views, rewards and methods, without verl.

The update is that of ``toy_mars_grpo`` in verl: 16 prompts a step in 4 mini-batches, AdamW at 1e-4, clip 0.2, dual clip
3, loss averaged over the tokens of a mini-batch, gradients clipped to norm 1, no KL term. With DAPO the clips are those
of ``toy_dapo``, and groups that teach nothing are replaced.

Each random choice has a separate generator, seeded by run, step and purpose: arms of one seed see the same prompts in
the same order with the same sampling noise.

Shapes: B = 16 G rows of a step, G rollouts of a prompt, K = 2 anchors, R response tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.advantages import Padded, advantages, means, method_of, padded
from study.answers import SOURCES, Scored, World, alone
from study.arms import Arm, Track
from study.rollout import DATA, UPDATE, At, Rollout, roll_out
from verl_mars.fields import FieldDict
from verl_mars.toy import world
from verl_mars.toy.evaluate import load
from verl_mars.toy.forward import response_log_probs

if TYPE_CHECKING:  # imported by verl_mars.toy, after what it has to define first
    from transformers import Qwen2_5_VLForConditionalGeneration

MINI_BATCHES = 4
LEARNING_RATE = 1e-4
CLIP = (0.2, 0.2, 3.0)
CLIP_DAPO = (0.2, 0.28, 10.0)
"""Low, high, and the factor of the dual clip."""


def train(checkpoint: Path, training: World, heldout: World, arm: Arm, track: Track, seed: int) -> Iterator[FieldDict]:
    """Train from a warm start; yields the evaluation before the first step, and one after every `track.every` steps.

    Args:
        checkpoint: model folder of the warm start, which the worlds' visual tokens are from.
        training: scenes to train on.
        heldout: scenes to evaluate on.
        arm: how advantages are computed.
        track: length of the training.
        seed: of all random numbers.
    """
    model, _ = load(checkpoint)
    method = method_of(arm)
    trained = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.0)
    draw = _draws(len(training), np.random.default_rng([seed, DATA]))
    window: list[dict[str, float]] = []
    spent = {"tokens": 0, "rollouts": 0}
    yield {"step": 0, **evaluate(model, heldout), **spent}
    for step in range(1, track.steps + 1):
        at = At(seed, step, track.steps)
        with torch.no_grad():
            rollout, cost = roll_out(model, training, arm, method, draw, at)
            sampled = padded(rollout, training.tokenizer.pad_token_id)
            values, metrics = advantages(model, training, arm, method, rollout, sampled, at)
        spent = {name: spent[name] + cost[name] for name in spent}
        window.append(metrics | _groups(rollout, values) | {"entropy": rollout.fused.entropy})
        clip = CLIP_DAPO if arm.dapo else CLIP
        _update(model, optimizer, trained, training, rollout, sampled, values, clip, at.rng(UPDATE))
        if step % track.every == 0:
            training_means = means(window)
            window.clear()
            found = evaluate(model, heldout, views=step == track.steps)
            yield {"step": step, **found, **spent, "training": training_means}


def _draws(scenes: int, rng: np.random.Generator) -> Callable[[int], NDArray[np.int64]]:
    """The next scenes: all in an order that is drawn, then in another."""
    order: list[int] = []

    def draw(count: int) -> NDArray[np.int64]:
        nonlocal order
        if len(order) < count:
            order = rng.permutation(scenes).tolist()
        taken, order = np.array(order[:count]), order[count:]
        return taken

    return draw


def evaluate(model: "Qwen2_5_VLForConditionalGeneration", heldout: World, views: bool = True) -> FieldDict:
    """Greedy accuracy: overall, of each regime, and both of each source alone."""
    scenes = np.arange(len(heldout))
    with torch.no_grad():
        fused = heldout.answer(model, scenes)
        shown = [alone(heldout.visual(scenes), source) for source in range(SOURCES)] if views else []
        of_sources = [heldout.answer(model, scenes, visual) for visual in shown]
    return {
        "accuracy": float(fused.accuracy.mean()),
        "form": float(fused.form.mean()),
        "by_regime": _by_regime(fused, heldout),
        "alone": [float(each.accuracy.mean()) for each in of_sources],
        "alone_by_regime": [_by_regime(each, heldout) for each in of_sources],
    }


def _by_regime(answers: Scored, heldout: World) -> dict[str, float]:
    return {
        name: float(answers.accuracy[heldout.regimes == number].mean()) for number, name in enumerate(world.REGIMES)
    }


def _groups(rollout: Rollout, values: Tensor) -> dict[str, float]:
    """Shares of groups: all right, all wrong, with a gradient."""
    right = rollout.fused.accuracy.reshape(-1, rollout.group)
    teaches = values.abs().amax(1).reshape(-1, rollout.group).amax(1) > 1e-7
    return {
        "reward": float(rollout.fused.reward.mean()),
        "solved": float((right.min(1) == 1).mean()),
        "unsolved": float((right.max(1) == 0).mean()),
        "with_gradient": float(teaches.float().mean()),
    }


def _update(
    model: "Qwen2_5_VLForConditionalGeneration",
    optimizer: torch.optim.Optimizer,
    trained: Sequence[Tensor],
    training: World,
    rollout: Rollout,
    sampled: Padded,
    values: Tensor,
    clip: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    """Four steps of PPO's clipped loss (verl's ``vanilla``), a mini-batch each."""
    low, high, dual = clip
    for chosen in np.array_split(rng.permutation(len(values)), MINI_BATCHES):
        total = sampled.mask[chosen].sum()
        chosen = chosen[(values[chosen].abs().amax(1) > 0).numpy()]  # the others have no gradient
        if len(chosen) == 0:
            continue
        groups = chosen // rollout.group
        prompts = training.course.prompts(rollout.scenes[groups])
        new = response_log_probs(model, prompts, rollout.visual[groups], sampled.tokens[chosen])
        value = values[chosen]
        ratio = (new - sampled.log_probs[chosen]).exp()
        loss = torch.maximum(-value * ratio, -value * ratio.clamp(1 - low, 1 + high))
        loss = torch.where(value < 0, torch.minimum(loss, -value * dual), loss)
        optimizer.zero_grad()
        ((loss * sampled.mask[chosen]).sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
