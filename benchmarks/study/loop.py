"""One training of the study in one process: the product's world, model, views, rewards and advantages, without verl.

The update is that of ``toy_mars_grpo`` in verl: 16 prompts a step in 4 mini-batches, AdamW at 1e-4, clip 0.2, dual clip
3, loss averaged over the tokens of a mini-batch, gradients clipped to norm 1, no KL term. The vision tower is frozen,
so the visual tokens of a picture are computed once for all runs.

Each random choice has a separate generator, seeded by run, step and purpose: arms of one seed see the same prompts in
the same order with the same sampling noise.

Shapes: B = 16 G rows of a step, G rollouts of a prompt, K = 2 anchors, R response tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from study.arms import Arm, Track
from verl_mars.cpu.sampling import Response
from verl_mars.fields import FieldDict
from verl_mars.methods.base import Inputs
from verl_mars.methods.table import METHODS
from verl_mars.reward import compute_score
from verl_mars.rows import AnchorRows
from verl_mars.toy import world
from verl_mars.toy.evaluate import load
from verl_mars.toy.forward import response_log_probs, sample
from verl_mars.toy.rows import DATA_SOURCE, make_row
from verl_mars.toy.warmstart import MAX_RESPONSE, Course

if TYPE_CHECKING:  # imported by verl_mars.toy, after what it has to define first
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

PROMPTS = 16
MINI_BATCHES = 4
LEARNING_RATE = 1e-4
CLIP, DUAL_CLIP = 0.2, 3.0
REWARD = {"accuracy_weight": 0.9, "format_weight": 0.1}
SOURCES = world.IMAGES
_DATA, _FUSED, _MONO, _SHUFFLE, _UPDATE = range(5)


@dataclass(frozen=True)
class Scored:
    """Responses to rows of a course.

    Attributes:
        responses: the samples.
        reward: (N,) score.
        accuracy: (N,) 1 where the answer is right.
        form: (N,) 1 where the form is kept.
    """

    responses: Sequence[Response]
    reward: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    form: NDArray[np.float64]

    @property
    def tokens(self) -> int:
        return sum(len(response.token_ids) for response in self.responses)

    @property
    def entropy(self) -> float:
        """Mean of -log p over the sampled tokens: an unbiased estimate of the entropy at temperature 1."""
        values = [value for response in self.responses for value in response.log_probs]
        return -sum(values) / len(values)


class World:
    """The scenes of a file of the toy, ready to be answered under every view."""

    def __init__(
        self, model: "Qwen2_5_VLForConditionalGeneration", tokenizer: "PreTrainedTokenizerFast", scenes: world.Scenes
    ) -> None:
        self.course = Course(model, scenes)
        self.ids = self.course.prompt_ids()
        self.tokenizer = tokenizer
        self.regimes = scenes.regime
        self._rows = [make_row(scenes, row, "train", ["", ""]) for row in range(len(scenes))]

    def __len__(self) -> int:
        return len(self._rows)

    def answer(
        self,
        model: "Qwen2_5_VLForConditionalGeneration",
        rows: NDArray[np.int64],
        source: int | None = None,
        temperature: float = 0.0,
        seed: Sequence[int] = (0,),
    ) -> Scored:
        """One scored response for each of the rows; ``source``: shown that one in place of both, as ``repeat`` does."""
        visual = self.course.visual[torch.from_numpy(rows)]  # (N, K, 4, H)
        if source is not None:
            visual = visual[:, [source] * SOURCES]
        seeds = np.random.SeedSequence(seed).generate_state(len(rows), np.uint64).tolist()
        ids = [self.ids[row] for row in rows]
        responses = sample(model, ids, visual, MAX_RESPONSE, temperature, seeds)
        texts = self.tokenizer.batch_decode([r.token_ids for r in responses], skip_special_tokens=True)
        scores = [
            compute_score(
                DATA_SOURCE,
                text,
                self._rows[row]["reward_model"]["ground_truth"],
                self._rows[row]["extra_info"],
                truncated=not response.ended,
                **REWARD,
            )
            for row, text, response in zip(rows, texts, responses, strict=True)
        ]
        reward, accuracy, form = (np.array([each[key] for each in scores], float) for key in ("score", "acc", "format"))
        return Scored(responses, reward, accuracy, form)


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
    trained = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.0)
    order: list[int] = []
    drawn = np.random.default_rng([seed, _DATA])
    window: list[dict[str, float]] = []
    spent = {"tokens": 0, "rollouts": 0}
    yield {"step": 0, **evaluate(model, heldout), **spent}
    for step in range(1, track.steps + 1):
        if len(order) < PROMPTS:
            order = drawn.permutation(len(training)).tolist()
        prompts, order = np.array(order[:PROMPTS]), order[PROMPTS:]
        with torch.no_grad():
            rows = np.repeat(prompts, arm.rollouts)
            fused = training.answer(model, rows, None, 1.0, (seed, step, _FUSED))
            anchors = _anchors(model, training, prompts, arm, (seed, step)) if arm.estimator == "mars" else None
            advantages, metrics = _advantages(arm, fused, anchors, (seed, step, _SHUFFLE))
        for done in (fused, *(anchors or ())):
            spent = {"tokens": spent["tokens"] + done.tokens, "rollouts": spent["rollouts"] + len(done.responses)}
        window.append(metrics | _groups(fused, advantages, arm.rollouts) | {"entropy": fused.entropy})
        rng = np.random.default_rng([seed, step, _UPDATE])
        _update(model, optimizer, trained, training, rows, fused, advantages, rng)
        if step % track.every == 0:
            means = {name: float(np.nanmean([row.get(name, math.nan) for row in window])) for name in window[0]}
            window.clear()
            yield {"step": step, **evaluate(model, heldout, views=step == track.steps), **spent, "training": means}


def evaluate(model: "Qwen2_5_VLForConditionalGeneration", heldout: World, views: bool = True) -> FieldDict:
    """Greedy accuracy: overall, of each regime, and of each source alone."""
    rows = np.arange(len(heldout))
    with torch.no_grad():
        fused = heldout.answer(model, rows)
        alone = [heldout.answer(model, rows, source) for source in range(SOURCES)] if views else []
    by_regime = {
        name: float(fused.accuracy[heldout.regimes == number].mean()) for number, name in enumerate(world.REGIMES)
    }
    return {
        "accuracy": float(fused.accuracy.mean()),
        "form": float(fused.form.mean()),
        "by_regime": by_regime,
        "alone": [float(each.accuracy.mean()) for each in alone],
    }


def _anchors(
    model: "Qwen2_5_VLForConditionalGeneration",
    training: World,
    prompts: NDArray[np.int64],
    arm: Arm,
    seed: tuple[int, int],
) -> list[Scored]:
    """K answers to each prompt, from each source alone."""
    temperature = 1.0 if arm.settings.get("anchor_decoding") == "sampled" else 0.0
    return [training.answer(model, prompts, k, temperature, (*seed, _MONO, k)) for k in range(SOURCES)]


def _advantages(
    arm: Arm, fused: Scored, anchors: Sequence[Scored] | None, seed: Sequence[int]
) -> tuple[Tensor, dict[str, float]]:
    """(B,) and metrics, from the estimators that a run of verl calls."""
    count, group = len(fused.reward), arm.rollouts
    rewards = torch.from_numpy(fused.reward).float()[:, None]  # (B, 1): one token stands for the response
    mask = torch.ones_like(rewards)
    uids = np.array([str(row // group) for row in range(count)], dtype=object)
    if anchors is None:
        from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

        return compute_grpo_outcome_advantage(rewards, mask, uids)[0][:, 0], {}
    which = np.arange(PROMPTS)
    if arm.shuffled:
        ring = np.random.default_rng(seed).permutation(PROMPTS)
        which[ring] = np.roll(ring, 1)  # never its own
    rows = np.repeat(which, group)

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(each, name)[rows] for each in anchors], axis=1)).float()  # (B, K)

    algorithm = OmegaConf.create({"mars": dict(arm.settings), "norm_adv_by_std_in_grpo": True})
    method = METHODS["mars"](algorithm)
    ones = torch.ones(count, dtype=torch.bool)
    inputs = Inputs(
        rewards=rewards,
        response_mask=mask,
        index=uids,
        config=algorithm,
        real=ones,
        last_output=torch.arange(count),
        tags=[{"response_len": len(response.token_ids)} for response in fused.responses],
        anchors=AnchorRows(
            scores=column("reward"),
            versions=torch.zeros(count, SOURCES),
            sources=[[f"source{k}" for k in range(SOURCES)]] * count,
            tokens=torch.zeros(count, dtype=torch.float64),
            seconds=torch.zeros(count, dtype=torch.float64),
            values={"acc": column("accuracy"), "format": column("form")},
        ),
        reward_details={"acc": torch.from_numpy(fused.accuracy).float()},
    )
    result = method.advantages(inputs)
    metrics = method.metrics(inputs, result)
    kept = {name.removeprefix("mars/"): value for name, value in metrics.items() if name in _METRICS}
    return result.advantages[:, 0], kept


_METRICS = [f"mars/{name}" for name in ("info_gain", "shift_share", "shift_share_solved", "pushed_up_unsolved")]


def _groups(fused: Scored, advantages: Tensor, group: int) -> dict[str, float]:
    """Shares of groups: all right, all wrong, with a gradient."""
    right = fused.accuracy.reshape(-1, group)
    teaches = advantages.abs().reshape(-1, group).amax(1) > 1e-7
    return {
        "reward": float(fused.reward.mean()),
        "solved": float((right.min(1) == 1).mean()),
        "unsolved": float((right.max(1) == 0).mean()),
        "with_gradient": float(teaches.float().mean()),
    }


def _update(
    model: "Qwen2_5_VLForConditionalGeneration",
    optimizer: torch.optim.Optimizer,
    trained: Sequence[Tensor],
    training: World,
    rows: NDArray[np.int64],
    fused: Scored,
    advantages: Tensor,
    rng: np.random.Generator,
) -> None:
    """Four steps of PPO's clipped loss (verl's ``vanilla``), a mini-batch each."""
    length = max(len(response.token_ids) for response in fused.responses)
    pad = training.tokenizer.pad_token_id
    tokens = torch.full((len(rows), length), pad)
    old = torch.zeros(len(rows), length)
    mask = torch.zeros(len(rows), length)
    for row, response in enumerate(fused.responses):
        size = len(response.token_ids)
        tokens[row, :size] = torch.tensor(response.token_ids)
        old[row, :size] = torch.tensor(response.log_probs)
        mask[row, :size] = 1.0
    for chosen in np.array_split(rng.permutation(len(rows)), MINI_BATCHES):
        total = mask[chosen].sum()
        chosen = chosen[(advantages[chosen].abs() > 0).numpy()]  # the others have no gradient
        if len(chosen) == 0:
            continue
        prompts = training.course.prompts(rows[chosen])
        visual = training.course.visual[torch.from_numpy(rows[chosen])]
        new = response_log_probs(model, prompts, visual, tokens[chosen])
        value = advantages[chosen][:, None]
        ratio = (new - old[chosen]).exp()
        loss = torch.maximum(-value * ratio, -value * ratio.clamp(1 - CLIP, 1 + CLIP))
        loss = torch.where(value < 0, torch.minimum(loss, -value * DUAL_CLIP), loss)
        optimizer.zero_grad()
        ((loss * mask[chosen]).sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
