"""What a step of the study rolls out: the responses to its prompts, shown as the method shows them, and anchors."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.answers import SOURCES, Scored, World, alone, joined
from study.arms import Arm
from verl_mars.fields import Fields
from verl_mars.methods.base import FinishedGroups, Method, Presentation, PromptContext
from verl_mars.toy.warmstart import visual_tokens
from verl_mars.views import Row, image_parts

if TYPE_CHECKING:  # imported by verl_mars.toy, after what it has to define first
    from PIL.Image import Image
    from transformers import Qwen2_5_VLForConditionalGeneration

PROMPTS = 16
DATA, FUSED, MONO, SHUFFLE, UPDATE = range(5)
"""What random numbers of a step are for."""
MOST_DRAWS = 100
"""Dynamic sampling ends the run if so many draws do not fill a step."""


@dataclass(frozen=True)
class At:
    """A step of a run."""

    seed: int
    step: int
    steps: int

    def rng(self, purpose: int) -> np.random.Generator:
        """The step's generator for one purpose."""
        return np.random.default_rng((self.seed, self.step, purpose))


@dataclass(frozen=True)
class Rollout:
    """N prompts with G responses each, and K anchors or none."""

    scenes: NDArray[np.int64]  # (N,)
    presentations: Sequence[Presentation]  # (N,)
    visual: Tensor  # (N, K, 4, H) what the policy was shown
    fused: Scored  # (N * G), prompt by prompt
    anchors: Sequence[Scored]  # K times (N,)

    @property
    def group(self) -> int:
        """G."""
        return len(self.fused.responses) // len(self.scenes)

    @property
    def parts(self) -> list[Scored]:
        """All that was generated."""
        return [self.fused, *self.anchors]

    def take(self, prompts: Sequence[int]) -> "Rollout":
        """Those of these numbers."""
        chosen = np.array(prompts, int)
        rows = (chosen[:, None] * self.group + np.arange(self.group)).ravel()
        return Rollout(
            self.scenes[chosen],
            [self.presentations[prompt] for prompt in prompts],
            self.visual[chosen],
            self.fused.take(rows),
            [anchor.take(chosen) for anchor in self.anchors],
        )


def roll_out(
    model: "Qwen2_5_VLForConditionalGeneration",
    world: World,
    arm: Arm,
    method: Method,
    draw: Callable[[int], NDArray[np.int64]],
    at: At,
) -> tuple[Rollout, dict[str, int]]:
    """The rollout of a step, and what it cost.

    With dynamic sampling, groups that teach nothing are replaced by those of other prompts, as verl's replay buffer
    does.

    Args:
        model: the policy.
        world: scenes to train on.
        arm: says how many rollouts, and whether groups are filtered.
        method: says how prompts are shown, which have anchors, and what a group teaches.
        draw: the next prompts, by their number.
        at: seeds the samples.

    Raises:
        RuntimeError: hardly any group teaches.
    """
    kept: list[Rollout] = []
    spent = {"tokens": 0, "rollouts": 0}
    for number in range(MOST_DRAWS):
        missing = PROMPTS - sum(len(part.scenes) for part in kept)
        if not missing:
            return _joined(kept), spent
        rolled = _roll_out(model, world, arm, method, draw(missing), at, (number,) if number else ())
        for part in rolled.parts:
            spent["tokens"] += part.tokens
            spent["rollouts"] += len(part.responses)
        kept.append(rolled.take(_teaching(rolled, method)) if arm.dapo else rolled)
    raise RuntimeError(f"step {at.step}: {MOST_DRAWS} draws of prompts had too few groups that teach anything")


def _roll_out(
    model: "Qwen2_5_VLForConditionalGeneration",
    world: World,
    arm: Arm,
    method: Method,
    scenes: NDArray[np.int64],
    at: At,
    draw: tuple[int, ...],
) -> Rollout:
    rows = [world.row(scene) for scene in scenes]
    presentations = asyncio.run(_present(method, rows, at))
    visual = world.visual(scenes)
    for number, (presentation, row) in enumerate(zip(presentations, rows, strict=True)):
        if presentation.prompt["raw_prompt"] is not row["raw_prompt"]:
            visual[number] = visual_tokens(model, pixels_of(images_of(presentation.prompt))[None])[0]
    seed = (at.seed, at.step)
    fused = world.answer(
        model,
        np.repeat(scenes, arm.rollouts),
        visual.repeat_interleave(arm.rollouts, 0),
        1.0,
        (*seed, FUSED, *draw),
        arm.top_p,
    )
    anchors: list[Scored] = []
    if method.anchoring is not None:
        temperature = 1.0 if arm.settings.get("anchor_decoding") == "sampled" else 0.0
        shown = [alone(visual, source) for source in range(SOURCES)]
        anchors = [world.answer(model, scenes, one, temperature, (*seed, MONO, k)) for k, one in enumerate(shown)]
    if arm.dapo:
        fused, anchors = fused.with_overlong_penalty(), [anchor.with_overlong_penalty() for anchor in anchors]
    return Rollout(scenes, presentations, visual, fused, anchors)


async def _present(method: Method, rows: Sequence[Row], at: At) -> list[Presentation]:
    """As an agent-loop worker asks for them."""

    def context(row: Row) -> PromptContext:
        def seed(purpose: str) -> int:
            identity = [at.seed, at.step, row["extra_info"]["index"], *purpose.encode()]
            return int(np.random.SeedSequence(identity).generate_state(1)[0]) % 2**31

        async def load_images(messages: Sequence[Fields]) -> list["Image"]:
            return images_of(row)

        return PromptContext(at.step, at.steps, seed, load_images)

    return list(await asyncio.gather(*(method.present(row, context(row)) for row in rows)))


def images_of(row: Row) -> list["Image"]:
    """The images of a prompt."""
    return [part["image"] for part in image_parts(row["raw_prompt"])]


def pixels_of(images: Sequence["Image"]) -> NDArray[np.uint8]:
    """(K, 56, 56, 3)."""
    return np.stack([np.asarray(image) for image in images])


def _teaching(rollout: Rollout, method: Method) -> list[int]:
    """The prompts whose groups teach: whose rewards differ, or whose anchors give an advantage, if the method asks."""
    count = len(rollout.scenes)
    rewards = rollout.fused.reward.reshape(count, -1)
    equal = [prompt for prompt in range(count) if np.ptp(rewards[prompt]) == 0]
    gone = set(equal)
    if equal and method.group_filter is not None:
        group = rollout.group
        anchors = np.stack([anchor.reward[equal] for anchor in rollout.anchors], axis=1).repeat(group, 0)
        groups = FinishedGroups(
            [str(prompt) for prompt in equal for _ in range(group)],
            torch.from_numpy(rewards[equal].ravel()).float(),
            {"anchor_scores": torch.from_numpy(anchors).float()},
        )
        verdicts = method.group_filter.verdicts(groups)
        gone = {prompt for prompt in equal if verdicts[str(prompt)] is not None}
    return [prompt for prompt in range(count) if prompt not in gone]


def _joined(parts: Sequence[Rollout]) -> Rollout:
    if len(parts) == 1:
        return parts[0]
    return Rollout(
        np.concatenate([part.scenes for part in parts]),
        [each for part in parts for each in part.presentations],
        torch.cat([part.visual for part in parts]),
        joined([part.fused for part in parts]),
        [joined(of_source) for of_source in zip(*(part.anchors for part in parts), strict=True)],
    )
