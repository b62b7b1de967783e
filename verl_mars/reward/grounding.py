"""Task ``grounding``: boxes with labels against the true boxes, in [0, 1].

With P predicted and N true boxes, M a one-to-one matching of predicted and true boxes of equal labels, and
g(IoU) = IoU above ``iou_threshold`` (0.3), else 0::

    acc = 2 * max_M sum_(p, t) in M g(IoU(p, t)) / (P + N),        1 where P = N = 0

This is the F1 score of soft precision (sum / P) and soft recall (sum / N). A perfect answer earns 1 whatever N is; a
box too many, a box missing and a wrong label all cost; an image without objects is right only when the answer says so
with an empty list. A predicted box that is not four finite numbers, or has no area inside the image, still counts in P.

The authors sum g / N, times 1 + 0.3 ln N, less a penalty for boxes in excess: up to 1.72, not comparable between
rows; labels are never looked at, images without objects earn 0 whatever the answer (see ``authors``).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from verl_mars.reward.boxes import Box, read_boxes
from verl_mars.reward.coordinates import scale_of_row
from verl_mars.reward.settings import RewardSettings
from verl_mars.reward.truth import Boxes, Row, read_true_boxes
from verl_mars.reward.verdict import Verdict

MATCH_IOU = 0.5
"""A matched pair above this IoU is a found object, in ``precision``, ``recall`` and ``f1``."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grounding:
    """Scores of one answer."""

    acc: float
    """The formula above."""

    iou: float
    """Mean over the true boxes of their match's IoU, ungated; without true boxes 1 for no boxes, else 0."""

    found: int
    """Matched pairs with an IoU above 0.5."""

    predicted: int
    true: int

    @property
    def precision(self) -> float:
        """Found over predicted; with no box predicted, 1 where there is nothing to find, else 0."""
        return self.found / self.predicted if self.predicted else float(self.true == 0)

    @property
    def recall(self) -> float:
        """Found over true; with nothing to find, 1 where no box is predicted, else 0."""
        return self.found / self.true if self.true else float(self.predicted == 0)

    @property
    def f1(self) -> float:
        """2 found / (predicted + true), 1 where both are 0."""
        total = self.predicted + self.true
        return 2.0 * self.found / total if total else 1.0


def score(answer: str | None, ground_truth: Any, row: Row, settings: RewardSettings) -> Verdict:
    """Verdict on an answer. Its form has one part here: one JSON value, each item a box with a label.

    An answer that cannot be read earns nothing, also where there is nothing to find: silence is not an empty list.
    """
    truth = read_true_boxes(ground_truth, row)
    scale = scale_of_row(truth.frame, truth.size, row, settings)
    said = None if answer is None else read_boxes(answer)
    if said is None or said.problem:
        nothing = {"iou": 0.0, "precision": 0.0, "recall": 0.0, "f1": 0.0, "boxes_predicted": 0.0}
        return Verdict(
            error=said.problem if said else "",
            form=(False,),
            extra=nothing | {"boxes_true": float(len(truth.boxes))},
        )
    found = judge(said.boxes, truth, scale, settings.iou_threshold)
    return Verdict(
        acc=found.acc,
        form=(said.well_formed,),
        extra={
            "iou": found.iou,
            "precision": found.precision,
            "recall": found.recall,
            "f1": found.f1,
            "boxes_predicted": float(found.predicted),
            "boxes_true": float(found.true),
        },
    )


def judge(boxes: list[Box], truth: Boxes, scale: tuple[float, float], iou_threshold: float) -> Grounding:
    """Compare the boxes of an answer with the true ones.

    A box without a label may match where the truth has one label only: the question left nothing to name. Boxes are
    cut at the edges of the image where its size is known. Cost: P x N, plus one assignment over the pairs that touch.
    """
    count, wanted = len(boxes), len(truth.boxes)
    if not count or not wanted:
        return Grounding(float(count == wanted), float(count == wanted), 0, count, wanted)
    overlaps = iou_matrix(_to_original(boxes, truth, scale), np.asarray(truth.boxes, dtype=np.float64))
    overlaps *= _labels_agree(boxes, truth)
    gated = np.where(overlaps > iou_threshold, overlaps, 0.0)
    pairs = best_match(gated)
    ungated = pairs if np.array_equal(gated, overlaps) else best_match(overlaps)
    matched = overlaps[pairs]
    return Grounding(
        acc=float(2.0 * gated[pairs].sum() / (count + wanted)),
        iou=float(overlaps[ungated].sum() / wanted),
        found=int((matched > MATCH_IOU).sum()),
        predicted=count,
        true=wanted,
    )


def _to_original(boxes: list[Box], truth: Boxes, scale: tuple[float, float]) -> Floats:
    """(P, 4) boxes in pixels of the original image, cut at its edges; a box that is none has no area."""
    corners = np.array([box.corners or (0.0, 0.0, 0.0, 0.0) for box in boxes], dtype=np.float64)
    with np.errstate(over="ignore"):
        corners *= np.array([scale[0], scale[1], scale[0], scale[1]])
    width, height = truth.size or (np.inf, np.inf)
    bounds = np.array([width, height, width, height], dtype=np.float64)
    return np.clip(corners, 0.0, np.minimum(bounds, 1e12))


def _labels_agree(boxes: list[Box], truth: Boxes) -> NDArray[np.bool_]:
    """(P, N): the predicted box may stand for the true one."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(map(_label, truth.labels)))}
    wanted = np.array([numbers[_label(label)] for label in truth.labels])
    unnamed = 0 if len(numbers) == 1 else -1
    given = np.array([unnamed if box.label is None else numbers.get(_label(box.label), -1) for box in boxes])
    return given[:, None] == wanted[None, :]


def _label(text: str) -> str:
    return " ".join(text[:200].casefold().split())


def iou_matrix(first: Floats, second: Floats) -> Floats:
    """(P, 4) and (N, 4) boxes to (P, N) intersection over union; a box without area (or turned around) gives 0."""
    width = np.minimum(first[:, None, 2], second[None, :, 2]) - np.maximum(first[:, None, 0], second[None, :, 0])
    height = np.minimum(first[:, None, 3], second[None, :, 3]) - np.maximum(first[:, None, 1], second[None, :, 1])
    shared = np.clip(width, 0.0, None) * np.clip(height, 0.0, None)
    of_first, of_second = _areas(first), _areas(second)
    union = of_first[:, None] + of_second[None, :] - shared
    whole = (of_first > 0)[:, None] & (of_second > 0)[None, :]
    return np.divide(shared, union, out=np.zeros_like(shared), where=whole & (union > 0))


def _areas(boxes: Floats) -> Floats:
    return np.clip(boxes[:, 2] - boxes[:, 0], 0.0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0.0, None)


def best_match(values: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The one-to-one pairs (rows, columns) with the largest sum of ``values`` >= 0; pairs worth 0 are left out.

    Rows and columns without any value are left out before the assignment, which keeps a thousand stray boxes cheap.
    """
    rows = np.flatnonzero(values.any(axis=1))
    columns = np.flatnonzero(values.any(axis=0))
    if not rows.size:
        return rows, columns[:0]
    part = values[np.ix_(rows, columns)]
    chosen_rows, chosen_columns = linear_sum_assignment(part, maximize=True)
    worth = part[chosen_rows, chosen_columns] > 0
    return rows[chosen_rows[worth]], columns[chosen_columns[worth]]
