"""The warm start: from random weights to a model that follows the format and answers about half of the scenes.

1. The vision tower learns the content of each cell of a picture through a linear probe, which is then discarded. After
   that the tower is frozen.
2. The language model learns ``<think>place</think><answer>...</answer>`` on the fused view and on each mono view. In a
   share of the conflicting scenes the teacher trusts RGB, the wrong source: the model learns to be misled by both
   sources together, but not by the right one alone. Reinforcement learning has to repair this interference.
3. Supervised training stops once the model is good enough on separate scenes, which leaves room to learn.

Track ``default`` ends there. Track ``interference`` continues with a teacher that is always misled, until the fused
view is far below the right source alone on conflicting scenes. Track ``broken_form`` is the same, but the model answers
many a depth picture alone without ``<answer>``: a quarter of its answers to the auxiliary sensor alone score 0. Track
``entrenched`` is ``interference`` five times as long: the model is so sure of the wrong source that it hardly ever
samples another answer, and reinforcement learning has next to nothing to reinforce.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from verl_mars.toy import world
from verl_mars.toy.forward import Prompts, batch_prompts, patches, response_log_probs, sample, see
from verl_mars.toy.model import (
    END,
    HIDDEN,
    TOKENS_PER_IMAGE,
    Qwen2_5_VLForConditionalGeneration,
    build_model,
    build_tokenizer,
    tokenize_prompt,
)
from verl_mars.toy.world import Scenes, parse_answer

MAX_RESPONSE = 12  # tokens; the longest right answer has 9


@dataclass(frozen=True)
class Lesson:
    """One stage of supervised training.

    Attributes:
        steps: most optimizer steps.
        misled: share of the conflicting scenes, in the fused view, in which the teacher trusts RGB.
        until: regime -> lowest and highest greedy accuracy of the fused view. The lesson ends when all hold; if empty,
            after all steps.
        adam: learning rate of AdamW.
        muon: learning rate of Muon.
        warmup: steps of linear warm-up.
        batch: scenes of a step.
        check_every: steps between two measurements of accuracy.
        check_from: first step with a measurement.
    """

    steps: int
    misled: float
    until: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    adam: float = 1.5e-3
    muon: float = 0.02
    warmup: int = 30
    batch: int = 64
    check_every: int = 10
    check_from: int = 60


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the result of a warm start.

    Attributes:
        lessons: stages of the language model, in order.
        scenes: training scenes.
        gate_scenes: separate scenes on which accuracy is measured.
        vision_steps: steps of the vision tower.
        vision_batch: scenes of such a step.
        vision_rate: its learning rate.
        mono_views: share of prompts in a mono view.
        answer_weight: weight of the answer's first token in the loss; a color is one of nine tokens and by far the
            hardest.
        tag_weight: weight of the tags in the loss.
        breaks_form: the teacher answers a depth picture alone without ``<answer>``.
        mix: share of each regime among the training scenes.
    """

    lessons: tuple[Lesson, ...]
    scenes: int = 4000
    gate_scenes: int = 400
    vision_steps: int = 60
    vision_batch: int = 64
    vision_rate: float = 2e-3
    mono_views: float = 0.4
    answer_weight: float = 4.0
    tag_weight: float = 0.3
    breaks_form: bool = False
    mix: Mapping[str, float] = field(
        default_factory=lambda: {
            world.COMPLEMENTARY: 0.4,
            world.REDUNDANT: 0.15,
            world.DOMINANT: 0.2,
            world.CONFLICTING: 0.25,
        }
    )


# Misled in 7 of 10: at temperature 1 a conflicting scene is still answered right about one time in four, so that
# reinforcement learning finds what it has to learn. Ended while the color is being learned, which goes fast.
_FIRST = Lesson(steps=300, misled=0.7, until={world.COMPLEMENTARY: (0.7, 1.0), world.CONFLICTING: (0.0, 0.35)})
# At temperature 1 a conflicting scene is answered right a few times in a hundred: most groups fail as a whole.
_LOCK = Lesson(steps=60, misled=1.0, adam=5e-4, muon=5e-3, warmup=1)
_MISLED = (replace(_FIRST, until={world.COMPLEMENTARY: (0.85, 1.0)}), _LOCK)
# After five times as long: 3 times in a thousand; one group of 8 in seventy has a right answer.
_ENTRENCHED = (_MISLED[0], replace(_LOCK, steps=300))
TRACKS: Mapping[str, Recipe] = MappingProxyType(
    {
        "default": Recipe(lessons=(_FIRST,)),
        "interference": Recipe(lessons=_MISLED),
        "broken_form": Recipe(lessons=_MISLED, breaks_form=True),
        "entrenched": Recipe(lessons=_ENTRENCHED),
    }
)


def warm_start(
    recipe: Recipe, seed: int, threads: int = 1, progress: bool = True
) -> Qwen2_5_VLForConditionalGeneration:
    """Train a model by `recipe`. On one machine, the result depends only on `recipe`, `seed` and `threads`.

    Raises:
        RuntimeError: a lesson ended without reaching its accuracy.
    """
    with torch_threads(threads):
        scenes = world.make_scenes(recipe.scenes, [seed, 0], recipe.mix)
        rng = np.random.default_rng([seed, 1])
        model = build_model(seed)
        teach_vision(model, scenes, recipe, rng, progress)
        teach(model, scenes, recipe, seed, rng, progress)
    return model.eval()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Classes of a cell's content for the probe. RGB: 4 colors, empty, night. Auxiliary: target, other, empty, off.
_EMPTY, _NIGHT, _OTHER, _TARGET, _AUX_EMPTY, _OFF, _CONTENTS = 4, 5, 6, 7, 8, 9, 10
# Classes of its mark. RGB: no cue, cue. Auxiliary: which sensor.
_MARKS = 4


def cell_labels(scenes: Scenes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Content and mark of each cell of each picture: two arrays (N, 2, 4)."""
    cells = np.arange(4)
    rgb = np.where(scenes.present, scenes.color, _EMPTY)
    rgb = np.where(scenes.night[:, None], _NIGHT, rgb)
    sensed = np.where(cells == scenes.target[:, None], _TARGET, np.where(scenes.present, _OTHER, _AUX_EMPTY))
    sensed = np.where(scenes.off[:, None], _OFF, sensed)
    cued = (cells == scenes.cue[:, None]) & ~scenes.night[:, None]
    sensor = np.repeat(np.where(scenes.off, 0, 2 + scenes.auxiliary)[:, None], 4, axis=1)
    return np.stack([rgb, sensed], axis=1), np.stack([cued, sensor], axis=1)


def teach_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    scenes: Scenes,
    recipe: Recipe,
    rng: np.random.Generator,
    progress: bool = False,
) -> float:
    """Pre-train the vision tower to show content, mark and place of every cell. Returns the accuracy on content."""
    tower = model.model.visual
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        probe = torch.nn.Linear(HIDDEN, _CONTENTS + _MARKS + 4)
    content, mark = (torch.from_numpy(labels.astype(np.int64)) for labels in cell_labels(scenes))
    place = torch.arange(4).repeat(recipe.vision_batch * world.IMAGES)
    optimizer = torch.optim.AdamW([*tower.parameters(), *probe.parameters()], recipe.vision_rate)
    schedule = _schedule([optimizer], recipe.vision_steps, warmup=20)
    bar = tqdm(range(recipe.vision_steps), "warm start: vision", disable=not progress, unit="step")
    seen_right = 0.0
    for step in bar:
        schedule(step)
        rows = rng.integers(0, len(scenes), recipe.vision_batch)
        visual = see(model, patches(scenes.images[rows].reshape(-1, world.SIZE, world.SIZE, 3)))
        what, beside, where = probe(visual.flatten(0, 1)).split([_CONTENTS, _MARKS, 4], dim=-1)
        truth = content[rows].flatten()
        loss = (
            F.cross_entropy(what, truth) + F.cross_entropy(beside, mark[rows].flatten()) + F.cross_entropy(where, place)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen_right = (what.argmax(-1) == truth).float().mean().item()
        bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{seen_right:.0%}", refresh=False)
    return seen_right


@torch.no_grad()
def visual_tokens(model: Qwen2_5_VLForConditionalGeneration, images: NDArray[np.uint8], chunk: int = 250) -> Tensor:
    """(N, K, 56, 56, 3) pictures -> (N, K, 4, H) visual tokens."""
    parts = [
        see(model, patches(images[at : at + chunk].reshape(-1, world.SIZE, world.SIZE, 3)))
        for at in range(0, len(images), chunk)
    ]
    return torch.cat(parts).reshape(*images.shape[:2], TOKENS_PER_IMAGE, -1)


class Course:
    """Training data of the language model: prompts, visual tokens, right, misled and untagged responses."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, scenes: Scenes) -> None:
        tokenizer = build_tokenizer()
        rows = range(len(scenes))
        self.scenes = scenes
        distinct = {scenes.question(row): row for row in rows}
        number = {question: i for i, question in enumerate(distinct)}
        self._which = torch.tensor([number[scenes.question(row)] for row in rows])
        self._ids = [tokenize_prompt(tokenizer, scenes.messages(row)) for row in distinct.values()]
        self._prompts = batch_prompts(self._ids, model.config.image_token_id, tokenizer.pad_token_id, MAX_RESPONSE)
        self.visual = visual_tokens(model, scenes.images)
        misled = [world.QUADRANTS[cell] for cell in scenes.decoy]
        right = [_response(scenes.thought(row), scenes.answer(row)) for row in rows]
        wrong = [_response(place, place) for place in misled]
        untagged = [f"<think>{scenes.thought(row)}</think>{scenes.answer(row)}{END}" for row in rows]
        every = right + wrong + untagged
        padded = tokenizer(every, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
        self.right, self.wrong, self.untagged = padded.chunk(3)
        tags = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "<answer>", "</answer>", END])
        self.is_tag = torch.isin(self.right, torch.tensor(tags[:4]))
        opens = self.right == tags[2]
        self.is_answer = torch.zeros_like(self.is_tag)
        self.is_answer[:, 1:] = opens[:, :-1]
        self.counts, self.untagged_counts = (kind != tokenizer.pad_token_id for kind in (self.right, self.untagged))

    def prompts(self, rows: NDArray[np.int64] | Tensor) -> Prompts:
        which = self._which[torch.as_tensor(rows)]
        shared = self._prompts
        return Prompts(shared.ids[which], shared.positions[:, which], shared.mask[which], shared.image_at[which])

    def prompt_ids(self) -> list[list[int]]:
        """Token ids of every scene's prompt."""
        return [self._ids[which] for which in self._which.tolist()]


def _response(thought: str, answer: str) -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>{END}"


def teach(
    model: Qwen2_5_VLForConditionalGeneration,
    scenes: Scenes,
    recipe: Recipe,
    seed: int,
    rng: np.random.Generator,
    progress: bool = False,
) -> None:
    """Supervised lessons for the language model; the vision tower stays as it is."""
    course = Course(model, scenes)
    gate = Course(model, world.make_scenes(recipe.gate_scenes, [seed, 2]))
    for number, lesson in enumerate(recipe.lessons, 1):
        name = f"warm start: lesson {number} of {len(recipe.lessons)}"
        with tqdm(total=lesson.steps, desc=name, disable=not progress, unit="step") as bar:
            accuracy, reached = _teach_lesson(model, course, gate, recipe, lesson, rng, bar)
        if not reached:
            rounded = {regime: round(value, 2) for regime, value in accuracy.items()}
            raise RuntimeError(
                f"{name} did not get where it should in {lesson.steps} steps: accuracy {rounded}, wanted (from, to) "
                f"{dict(lesson.until)}; try another seed"
            )


def _teach_lesson(
    model: Qwen2_5_VLForConditionalGeneration,
    course: Course,
    gate: Course,
    recipe: Recipe,
    lesson: Lesson,
    rng: np.random.Generator,
    bar: tqdm,
) -> tuple[dict[str, float], bool]:
    """The accuracy when it was last measured, and whether the lesson ended where it should."""
    scenes = course.scenes
    language = model.model.language_model
    trained = [*language.parameters(), *model.lm_head.parameters()]
    matrices = [p for p in language.layers.parameters() if p.ndim == 2]
    others = [p for p in trained if all(p is not matrix for matrix in matrices)]
    # Muon on the layers' matrices: the two-hop lookup behind a color (which cell is hot, which color has that cell)
    # appears after about 100 steps, with AdamW alone after about 400.
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lesson.muon, weight_decay=0.01),
        torch.optim.AdamW(others, lesson.adam, betas=(0.9, 0.98)),
    ]
    schedule = _schedule(optimizers, lesson.steps, lesson.warmup)
    conflicting = scenes.regime == world.REGIMES.index(world.CONFLICTING)
    misled = conflicting & (rng.random(len(scenes)) < lesson.misled)
    accuracy: dict[str, float] = {}
    reached = False
    for step in range(lesson.steps):
        schedule(step)
        rows = rng.integers(0, len(scenes), lesson.batch)
        chance = rng.random(lesson.batch)
        fused = chance >= recipe.mono_views
        source = (chance >= recipe.mono_views / 2).astype(np.int64)  # of a mono view: half RGB, half auxiliary
        shown = np.where(fused[:, None], np.arange(world.IMAGES), source[:, None])
        visual = course.visual[torch.from_numpy(rows)[:, None], torch.from_numpy(shown)]
        wrong = torch.from_numpy(misled[rows] & fused)
        responses = torch.where(wrong[:, None], course.wrong[rows], course.right[rows])
        weights = course.counts[rows].float()
        weights = weights + course.is_answer[rows] * (recipe.answer_weight - 1)
        weights = weights + course.is_tag[rows] * (recipe.tag_weight - 1)
        if recipe.breaks_form:
            by_depth = scenes.auxiliary[rows] == world.SOURCES.index(world.DEPTH) - 1
            broken = torch.from_numpy(~fused & (source == 1) & by_depth)
            responses = torch.where(broken[:, None], course.untagged[rows], responses)
            weights = torch.where(broken[:, None], course.untagged_counts[rows].float(), weights)
        log_p = response_log_probs(model, course.prompts(rows), visual, responses)
        loss = -(log_p * weights).sum() / weights.sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if lesson.until and step + 1 >= lesson.check_from and (step + 1) % lesson.check_every == 0:
            accuracy = _fused_accuracy(model, gate)
            reached = all(low <= accuracy[regime] <= high for regime, (low, high) in lesson.until.items())
        overall = f"{accuracy['all']:.0%}" if accuracy else "-"
        bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=overall, refresh=False)
        bar.update()
        if reached:
            break
    return accuracy, reached or not lesson.until


def _schedule(optimizers: list[torch.optim.Optimizer], steps: int, warmup: int) -> Callable[[int], None]:
    """Linear warm-up, then a cosine down to a twentieth of each optimizer's rate."""
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def at(step: int) -> None:
        share = min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        for optimizer, base in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * share

    return at


def _fused_accuracy(model: Qwen2_5_VLForConditionalGeneration, course: Course) -> dict[str, float]:
    """Greedy accuracy of the fused view: overall under `all`, and of each regime."""
    scenes, tokenizer = course.scenes, build_tokenizer()
    responses = sample(model, course.prompt_ids(), course.visual, MAX_RESPONSE)
    texts = tokenizer.batch_decode([response.token_ids for response in responses])
    right = np.array([parse_answer(text.removesuffix(END)) == scenes.answer(row) for row, text in enumerate(texts)])
    by_regime = {name: float(right[scenes.regime == number].mean()) for number, name in enumerate(world.REGIMES)}
    return {"all": float(right.mean()), **by_regime}
