"""Do the images reach the log-probs? Asked before the first step (``algorithm.probe.see``, ``verl-mars doctor --see``).

The rollout engine answers some rows greedily twice: with their images, and with every image replaced by a grey one of
the same size, so that the tokens stay and only the pixels go. The trainer then computes the log-probs of the same
answers. If the images are lost on the way to one of the two, that one is as sure of its answer without them.
"""

import json
import math
import statistics
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from verl.experimental.agent_loop import AgentLoopManager

from verl_mars import store
from verl_mars.rollout.validation import MARK, ProbeSettings
from verl_mars.rows import LOOK, Key, as_list, as_rows
from verl_mars.store import Batch
from verl_mars.trainer.rescore import rescore
from verl_mars.trainer.trainer import ViewTrainer, rows_multiple, trajectories_of
from verl_mars.views import OtherPixels, parts_of

if TYPE_CHECKING:
    from verl.utils.dataset.rl_dataset import RLHFDataset

LEAST_DIFFERENCE = 0.01
"""Nats by which the images have to move a log-prob of half of the rows. Without pixels it is 0 but for rounding."""

ROUNDINGS = 4
"""Times the trainer's own rounding (:attr:`Sight.rounding`) by which they have to move it, if that is more: two passes
in bfloat16 over one row, in other company, differ by more than 0.01."""

MOST_DISAGREEMENT = 0.1
"""Nats a token by which engine and trainer may differ on half of the rows; bfloat16 makes about 0.01."""

LOOKS = ("fused", "blank")
"""The views that are compared."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer of the engine to one view of a row, with the log-probs of its tokens."""

    tokens: tuple[int, ...]
    engine: tuple[float, ...]
    trainer: tuple[float, ...]
    again: tuple[float, ...] = ()
    """The trainer's in another pass."""


@dataclass(frozen=True)
class Sight:
    """The findings. Medians over the rows, in nats."""

    rows: int
    engine_difference: float
    """How far the images move the engine's log-probs (:func:`difference`)."""
    trainer_difference: float
    fused_disagreement: float
    """Mean over an answer's tokens of the distance between the log-probs of engine and trainer."""
    blank_disagreement: float
    """The same for the answers to the grey images."""
    rounding: float = 0.0
    """The largest distance on an answer between two passes of the trainer, with its rows in another order."""

    @property
    def least_difference(self) -> float:
        """Nats that are more than rounding."""
        return max(LEAST_DIFFERENCE, ROUNDINGS * self.rounding)

    def faults(self) -> list[str]:
        """A sentence for each thing that is wrong; none for a model that sees."""
        found = []
        moved = {"rollout engine": self.engine_difference, "trainer": self.trainer_difference}
        for name, other in (("rollout engine", "trainer"), ("trainer", "rollout engine")):
            if not moved[name] >= self.least_difference:
                found.append(
                    f"the {name} does not see the images: with and without them its log-probs differ by "
                    f"{moved[name]:.4f} nats on half of {self.rows} rows, those of the {other} by {moved[other]:.4f}, "
                    f"and less than {self.least_difference:.2g} may be rounding; the model would be trained without "
                    "its images. Check that actor_rollout_ref.model.path has its vision weights and its processor, and "
                    "that data.image_key names the images"
                )
        views = {"their images": self.fused_disagreement, "grey images in their place": self.blank_disagreement}
        for name, value in views.items():
            if not value <= MOST_DISAGREEMENT:
                found.append(
                    f"rollout engine and trainer disagree on the answers to {self.rows} rows with {name}: by "
                    f"{value:.4f} nats a token, up to {MOST_DISAGREEMENT} are allowed. They are not fed the same "
                    "images or do not have the same weights; check processor settings, image sizes and rollout.dtype"
                )
        return found


def difference(tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> float:
    """The largest distance between two views' log-probs that their answers show, in nats.

    Up to the first token at which the answers part, both views score the same tokens in the same place. There one view
    gives x to its token a and the other y to its token b, so the other gives at most 1 - y to a, and the first at most
    1 - x to b: the log-probs of a or b differ by at least log x - log(1 - y) and log y - log(1 - x). With equal views
    x + y <= 1, and both are at most 0.

    Args:
        tokens: of the two answers.
        log_probs: of their tokens, by the same model.
    """
    (first, second), (of_first, of_second) = tokens, log_probs
    found = 0.0
    for a, b, x, y in zip(first, second, of_first, of_second, strict=False):
        if a != b:
            bounds = (x - _log_rest(y), y - _log_rest(x))
            return max(found, *bounds)
        found = max(found, abs(x - y))
    return found


def _log_rest(log_prob: float) -> float:
    """log(1 - p), from log p; that of a certain token is cut off at 1e-12."""
    return math.log(max(-math.expm1(min(log_prob, 0.0)), 1e-12))


def sight_of(pairs: Sequence[tuple[Answer, Answer]]) -> Sight:
    """The findings on pairs of answers: with the images, and with grey ones.

    Raises:
        ValueError: there is no pair.
    """
    if not pairs:
        raise ValueError("no row was answered with and without its images: nothing is known of the model's sight")

    def moved(side: str) -> float:
        return statistics.median(
            difference((fused.tokens, blank.tokens), (getattr(fused, side), getattr(blank, side)))
            for fused, blank in pairs
        )

    def apart(view: int) -> float:
        return statistics.median(
            statistics.fmean(abs(x - y) for x, y in zip(pair[view].engine, pair[view].trainer, strict=True))
            for pair in pairs
        )

    rounding = statistics.median(
        max((abs(x - y) for x, y in zip(answer.trainer, answer.again, strict=False)), default=0.0)
        for pair in pairs
        for answer in pair
    )
    return Sight(len(pairs), moved("engine"), moved("trainer"), apart(0), apart(1), rounding)


class SightFound(RuntimeError):
    """Ends a run of ``algorithm.probe.see_only`` with the findings: Ray may lose the last lines that an actor prints,
    but not an exception."""


class LooksFirst(ViewTrainer):
    """Refuses to train a model that does not see its images, if ``algorithm.probe.see`` asks for it."""

    def fit(self, agent_loop_manager: AgentLoopManager) -> None:
        """Run verl's loop, after a look at the model's sight.

        Raises:
            ValueError: the model is not shown its images; the message says where they are lost.
            SightFound: the run was to end here.
        """
        settings = ProbeSettings.of(self.config.algorithm)
        if settings.see:
            self.agent_loop_manager = agent_loop_manager
            sight = self._look(settings.see)
            faults = sight.faults()
            line = MARK + json.dumps({**asdict(sight), "faults": faults})
            if settings.see_only:
                raise SightFound(line)
            print(line, flush=True)
            if faults:
                raise ValueError("algorithm.probe.see refuses this run:\n" + "\n".join(f"  - {f}" for f in faults))
        super().fit(agent_loop_manager)

    def _look(self, rows: int) -> Sight:
        """Roll out, rescore and compare."""
        from verl.utils.dataset.rl_dataset import collate_fn

        chosen = rows_with_images(self.train_dataset, rows)
        data = collate_fn([self.train_dataset[i] for _ in LOOKS for i in chosen])
        uids = [str(uuid.uuid4()) for _ in range(len(LOOKS) * len(chosen))]
        data["uid"] = np.array(uids, dtype=object)
        data[LOOK] = np.array([look for look in LOOKS for _ in chosen], dtype=object)
        store.submit_validation(data, self.global_steps, self.agent_loop_manager)
        batch, _ = self.replay_buffer.sample(global_steps=self.global_steps, partition_id="val", batch_size=len(uids))
        try:
            self.checkpoint_manager.sleep_replicas()
            answers = self._answers(batch)
        finally:
            store.clear(batch)
            self.checkpoint_manager.update_weights(self.global_steps)
        couples = [(uids[i], uids[i + len(chosen)]) for i in range(len(chosen))]
        return sight_of([(answers[f], answers[b]) for f, b in couples if f in answers and b in answers])

    def _answers(self, batch: Batch) -> dict[str, Answer]:
        """The answers of a batch by uid, with the log-probs of engine and trainer."""
        fields = ["prompts", "responses", "response_mask", "position_ids", "rollout_log_probs", "multi_modal_inputs"]
        data = store.read(batch, fields)
        trajectories = trajectories_of(data)
        pixels = [getattr(inputs, "data", inputs) or {} for inputs in as_list(data["multi_modal_inputs"])]
        engine = as_rows(data["rollout_log_probs"])

        def log_probs(order: Sequence[int]) -> dict[int, torch.Tensor]:
            scored = rescore(
                [batch.keys[i] for i in order],
                [trajectories[i] for i in order],
                [OtherPixels(pixels[i]) for i in order],
                [engine[i] for i in order],
                self.actor_rollout_wg,
                1.0,  # greedy answers have the log-probs of temperature 1
                rows_multiple(self.config.actor_rollout_ref, self.actor_rollout_wg),
            )
            return dict(zip(order, scored.log_probs, strict=True))

        rows = range(len(batch.keys))
        trainer, again = log_probs(rows), log_probs(rows[::-1])
        answers = {}
        for i, row in enumerate(trajectories):
            sampled = row.response_mask.bool()
            if sampled.any():
                columns = (row.response, *(values[i].float() for values in (engine, trainer, again)))
                answers[Key.parse(batch.keys[i]).uid] = Answer(*(tuple(column[sampled].tolist()) for column in columns))
        return answers


def rows_with_images(dataset: "RLHFDataset", count: int) -> list[int]:
    """Numbers of up to ``count`` rows with images, from all over a data set.

    Raises:
        ValueError: no row has images.
    """
    found: list[int] = []
    spread = max(1, len(dataset) // count)
    for i in sorted(range(len(dataset)), key=lambda i: (i % spread, i)):
        kinds = {part["type"] for part in parts_of(dataset[i]["raw_prompt"])}
        if "image" in kinds and kinds <= {"image", "text"}:
            found.append(i)
            if len(found) == count:
                return found
    if not found:
        raise ValueError(
            "algorithm.probe.see: no row of data.train_files has images (and no video or audio); check data.image_key "
            "and the <image> in the prompts"
        )
    return found
