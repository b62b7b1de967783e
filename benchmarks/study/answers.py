"""The study's world: scenes that a model answers under any view, and the scores of its answers.

The vision tower is frozen, so the visual tokens of a picture are computed once for all runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from verl_mars.cpu.sampling import Response
from verl_mars.fields import FieldDict
from verl_mars.reward import compute_score
from verl_mars.reward.settings import OverlongBuffer, RewardSettings
from verl_mars.toy import world
from verl_mars.toy.forward import sample
from verl_mars.toy.rows import DATA_SOURCE, make_row
from verl_mars.toy.warmstart import MAX_RESPONSE, Course

if TYPE_CHECKING:  # imported by verl_mars.toy, after what it has to define first
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

REWARD = {"accuracy_weight": 0.9, "format_weight": 0.1}
OVERLONG = RewardSettings(max_resp_len=MAX_RESPONSE, overlong_buffer_cfg=OverlongBuffer(enable=True, len=2))
"""Of the toy's DAPO recipes."""
SOURCES = world.IMAGES


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

    def take(self, rows: NDArray[np.int64]) -> "Scored":
        """Those of these numbers."""
        responses = [self.responses[row] for row in rows]
        return Scored(responses, self.reward[rows], self.accuracy[rows], self.form[rows])

    def with_overlong_penalty(self) -> "Scored":
        """With DAPO's penalty for length in the reward."""
        from verl_mars.reward.manager import overlong_penalty  # imports verl

        penalty = [overlong_penalty(len(response.token_ids), OVERLONG) or 0.0 for response in self.responses]
        return replace(self, reward=self.reward + np.array(penalty))


def joined(parts: Sequence[Scored]) -> Scored:
    """One after the other."""
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("reward", "accuracy", "form"))
    return Scored([response for part in parts for response in part.responses], *columns)


class World:
    """The scenes of a file of the toy, ready to be answered under every view."""

    def __init__(
        self, model: "Qwen2_5_VLForConditionalGeneration", tokenizer: "PreTrainedTokenizerFast", scenes: world.Scenes
    ) -> None:
        self.course = Course(model, scenes)
        self.ids = self.course.prompt_ids()
        self.tokenizer = tokenizer
        self.images = scenes.images
        self.regimes = scenes.regime
        self._rows = [make_row(scenes, row, "train", ["", ""]) for row in range(len(scenes))]

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, scene: int) -> FieldDict:
        """The row of a scene as an agent loop gets it, but for the text, which the tokens have."""
        parts = [{"type": "image", "image": Image.fromarray(pixels)} for pixels in self.images[scene]]
        return {**self._rows[scene], "raw_prompt": [{"role": "user", "content": parts}]}

    def visual(self, scenes: NDArray[np.int64]) -> Tensor:
        """(N, K, 4, H) visual tokens."""
        return self.course.visual[torch.from_numpy(scenes)]

    def answer(
        self,
        model: "Qwen2_5_VLForConditionalGeneration",
        scenes: NDArray[np.int64],
        visual: Tensor | None = None,
        temperature: float = 0.0,
        seed: Sequence[int] = (0,),
        top_p: float = 1.0,
    ) -> Scored:
        """One scored response for each of the scenes.

        Args:
            model: answers.
            scenes: (N,).
            visual: (N, K, 4, H) what it is shown; None: the scenes' own pictures.
            temperature: 0 is greedy.
            seed: of the samples.
            top_p: of the samples.
        """
        seeds = np.random.SeedSequence(seed).generate_state(len(scenes), np.uint64).tolist()
        shown = self.visual(scenes) if visual is None else visual
        responses = sample(model, [self.ids[scene] for scene in scenes], shown, MAX_RESPONSE, temperature, seeds, top_p)
        texts = self.tokenizer.batch_decode([r.token_ids for r in responses], skip_special_tokens=True)
        scores = [
            compute_score(
                DATA_SOURCE,
                text,
                self._rows[scene]["reward_model"]["ground_truth"],
                self._rows[scene]["extra_info"],
                truncated=not response.ended,
                **REWARD,
            )
            for scene, text, response in zip(scenes, texts, responses, strict=True)
        ]
        reward, accuracy, form = (np.array([each[key] for each in scores], float) for key in ("score", "acc", "format"))
        return Scored(responses, reward, accuracy, form)


def alone(visual: Tensor, source: int) -> Tensor:
    """(N, K, 4, H) visual tokens with one source in place of each, as the view ``repeat`` shows it."""
    return visual[:, [source] * SOURCES]
