"""The rewards that the MARS authors published, for people who compare with the paper (``variant=authors``).

Formulas of ``verl/utils/reward_score/{grounding,vqa}.py`` in AI9Stars/MARS at 3eee0fb, reimplemented. Kept, because
they are the published numbers: the first ``<answer>`` counts; one part in four of a point for each of one non-empty
thought, one non-empty answer and (grounding) one ```` ```json ```` block; substrings pass for the truth; labels, order
and coordinate frames are not looked at; an image without objects earns nothing for its boxes. Not kept: the crashes.
A response without ``<answer>`` (``AttributeError``), a box of NaN, one turned around whose area cancels a true one's
(a NaN reward, which stops verl's trainer), several boxes under wandb (``NameError``): such a response or box earns 0,
the rest of the formula stands.

``acc`` is the accuracy part, ``format`` the format part in the authors' points, ``score`` their sum: up to 1.5 for
answers in words, for N boxes up to 0.75 + 1 + 0.3 ln N (N > 1).
"""

import json
from collections.abc import Sequence

import numpy as np

from verl_mars.fields import FieldDict
from verl_mars.tasks.base import AnyTask, Truth
from verl_mars.tasks.grounding import GroundingTruth, best_match, iou_matrix

IOU_THRESHOLD = 0.3
DIFFICULTY = 0.3
EXCESS_FACTOR = 0.5
_MAX_BOXES = 2_000
_THINK = ("<think>", "</think>")
_ANSWER = ("<answer>", "</answer>")


def score(text: str, task: AnyTask, truth: Truth) -> FieldDict:
    """Keys of the result that the authors' formula fills.

    Raises:
        SampleError: a task for which the authors have no formula.
    """
    answers = _between(text, *_ANSWER)
    answer = answers[0].strip() if answers else None
    thoughts = _between(text, *_THINK)
    form = 0.25 * (len(thoughts) == 1 and bool(thoughts[0].strip()))
    form += 0.25 * (len(answers) == 1 and bool(answer))
    error = "" if answer is not None else "no <answer>...</answer>"
    keys: dict[str, float] = {}
    if isinstance(truth, GroundingTruth):
        form += 0.25 * (len(answers) == 1 and len(_json_blocks(answers[0].strip())) == 1)
        boxes = _read_boxes(text if answer is None else answer)
        if boxes is None:
            error = error or "no JSON list of objects in a ```json block"
        accuracy = boxes_reward(boxes or [], truth.boxes)
        keys = {"boxes_predicted": float(len(boxes or [])), "boxes_true": float(len(truth.boxes))}
    else:
        published = task.published(truth)
        accuracy = 0.0 if answer is None else words_reward(answer, published)
    return {
        "score": form + accuracy,
        "acc": accuracy,
        "format": form,
        "error": error,
        "answered": float(not error),
    } | keys


def words_reward(answer: str, truth_text: str) -> float:
    """1 where one of the two contains the other, in lower case; the empty answer is in everything."""
    said, true = answer.strip().lower(), truth_text.strip().lower()
    return float(said in true or true in said)


def boxes_reward(boxes: list[object], true_boxes: Sequence[Sequence[float]]) -> float:
    """The accuracy part of P predicted against N true boxes.

    ``max(0, S / N * (1 + 0.3 ln N) - min(0.5 * max(P - N, 0) / N, 1))`` with S the sum of g(IoU) = IoU above 0.3, else
    0, over the assignment with the largest sum of IoUs. Items without four corners are not counted in P.
    """
    if not boxes or not true_boxes:
        return 0.0
    kept = [corners for corners in map(_corners, boxes) if corners is not None]
    if not kept:
        return 0.0
    overlaps = iou_matrix(np.array(kept, dtype=np.float64), np.array(true_boxes, dtype=np.float64))
    matched = overlaps[best_match(overlaps)].astype(np.float32).astype(np.float64)  # the authors count an IoU of 0.3
    earned = float(matched[matched > IOU_THRESHOLD].sum())
    count, wanted = len(kept), len(true_boxes)
    earned *= (1.0 + DIFFICULTY * float(np.log(wanted))) / wanted
    return max(0.0, earned - min(EXCESS_FACTOR * max(count - wanted, 0) / wanted, 1.0))


def _between(text: str, left: str, right: str) -> list[str]:
    """What ``re.findall(left + "(.*?)" + right, text, re.DOTALL)`` finds, in linear time."""
    found = []
    start = text.find(left)
    while start >= 0:
        end = text.find(right, start + len(left))
        if end < 0:
            break
        found.append(text[start + len(left) : end])
        start = text.find(left, end + len(right))
    return found


def _json_blocks(text: str) -> list[str]:
    return _between(text, "```json", "```")


def _read_boxes(text: str) -> list[object] | None:
    """The ``bbox_2d`` of each object in the first block (None for an object without), None where it cannot be read."""
    blocks = _json_blocks(text)
    if not blocks:
        return None
    block = blocks[0].strip().replace("'bbox_2d'", '"bbox_2d"').replace("'[", "[").replace("]'", "]")
    try:
        items = json.loads(block, parse_int=float)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or len(items) > _MAX_BOXES or not all(isinstance(item, dict) for item in items):
        return None
    return [item.get("bbox_2d") for item in items]


def _corners(box: object) -> tuple[float, ...] | None:
    """Four numbers; None for an item that is not counted; no area for one that is counted and matches nothing."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    numbers = all(isinstance(number, float) and abs(number) < 1e12 for number in box)
    return tuple(box) if numbers else (0.0,) * 4
