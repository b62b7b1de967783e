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

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from verl_mars.errors import SampleError
from verl_mars.fields import Fields
from verl_mars.tasks import words
from verl_mars.tasks.base import Floats, Hints, Ratio, ScoringSettings, Sizes, Task, Text, Truth, Verdict, column
from verl_mars.tasks.boxes import BOX_KEYS, Box, box_of, read_boxes
from verl_mars.vision.families import Frame, frame_named
from verl_mars.vision.resize import ImageLimits, Size

MATCH_IOU = 0.5
"""A matched pair above this IoU is a found object, in ``precision``, ``recall`` and ``f1``."""

ANY_LABEL = "*"
"""The label of a true box that a box of any label matches: files of predictions may not name what is to be found."""

UNKNOWN_SIZE = (10**9, 10**9)
"""The size of an image that a file of predictions does not give: boxes in its pixels need none."""


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("a number is needed")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("a finite number is needed")
    return value


Coordinate = Annotated[float, BeforeValidator(_number), AfterValidator(_finite)]
Side = Annotated[int, BeforeValidator(_number), Field(gt=0)]


class GroundingTruth(Truth):
    """N boxes [x1, y1, x2, y2] in original pixels of image ``frame``, whose size is ``size`` = (width, height).

    No box at all is a truth too: nothing of the kind is to be seen.
    """

    boxes: list[tuple[Coordinate, Coordinate, Coordinate, Coordinate]]
    labels: list[Text]
    frame: Annotated[int, BeforeValidator(_number), Field(ge=0)]
    size: tuple[Side, Side]

    @model_validator(mode="after")
    def _boxes_fit(self) -> "GroundingTruth":
        if len(self.boxes) != len(self.labels):
            raise SampleError(
                "box", f"{len(self.boxes)} boxes but {len(self.labels)} labels: one label a box is needed"
            )
        width, height = self.size
        for number, box in enumerate(self.boxes):
            x1, y1, x2, y2 = box
            shown = [round(value, 3) for value in box]
            if x1 == x2 or y1 == y2:
                raise SampleError("zero_area", f"box {number} {shown} has no area")
            if x1 > x2 or y1 > y2:
                raise SampleError("box", f"box {number} {shown}: x1 < x2 and y1 < y2 are needed")
            if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                raise SampleError("box", f"box {number} {shown} leaves the image of {width} x {height} pixels")
        return self

    def in_words(self) -> str:
        return f"{len(self.boxes)} boxes"

    def check_images(self, sizes: Sizes | None, images: Sequence[int] | None = None) -> None:
        if images is not None and self.frame not in images:
            allowed = ", ".join(map(str, images)) or "none"
            raise SampleError("box", f"image {self.frame} is the boxes' frame, allowed: {allowed}", "frame")
        if sizes is None:
            return
        width, height = _size_of(sizes, self.frame, "image_sizes")
        if (width, height) != self.size:
            ours = f"{self.size[0]} x {self.size[1]}"
            raise SampleError(
                "size_mismatch", f"the ground truth says {ours}, extra_info.image_sizes {width} x {height}", "size"
            )


class Grounding(Task[GroundingTruth]):
    """Boxes with labels."""

    name = "grounding"
    truth = GroundingTruth
    example = '{"boxes": [[x1, y1, x2, y2]], "labels": ["person"], "frame": 0, "size": [W, H]}'
    instruction = (
        'The answer is a JSON list with one entry for each object, [{"bbox_2d": [x1, y1, x2, y2], "label": "..."}], '
        "or [] if there is none."
    )
    weights = (4.0 / 7.0, 3.0 / 7.0)  # the authors' 1 : 0.75
    plain_keys = BOX_KEYS
    keys = ("iou", "precision", "recall", "f1", "boxes_predicted", "boxes_true")

    def score(self, answer: str, truth: GroundingTruth, info: Fields, settings: ScoringSettings) -> Verdict:
        """The form has one part here: one JSON value, each item a box with a label.

        An answer that cannot be read earns nothing, also where there is nothing to find: silence is not an empty list.
        """
        frame = frame_named(settings.coordinates or info.get("coordinates") or "pixel")
        scale = scale_of_row(frame, truth, info, settings)
        said = read_boxes(answer)
        if said.problem:
            details = dict.fromkeys(self.keys, 0.0) | {"boxes_true": float(len(truth.boxes))}
            return Verdict(pred=None, error=said.problem, form=(False,), details=details)
        boxes = [box.y_first() for box in said.boxes] if frame.y_first else said.boxes
        acc, details = judge(boxes, truth, scale, settings.iou_threshold)
        return Verdict(acc, None, form=(said.well_formed,), details=details)

    def metrics(self, results: Sequence[Fields]) -> dict[str, Ratio]:
        """Shares of rows and of boxes; none under ``variant=authors``, which has no such keys."""
        if results[0]["iou"] is None:
            return {}
        ones = np.ones(len(results))
        iou, predicted, true = (column(results, key) for key in ("iou", "boxes_predicted", "boxes_true"))
        found = np.round(column(results, "precision") * predicted)
        return {
            "accuracy@0.5": ((iou > MATCH_IOU).astype(np.float64), ones),
            "mIoU": (iou, ones),
            "precision": (found, predicted),
            "recall": (found, true),
            "F1": (2.0 * found, predicted + true),
        }

    def from_plain(self, value: object, hints: Hints) -> object:
        """Boxes in the first image, each as four numbers or as answers give it (``{bbox_2d, label}``); as JSON or text.

        A box without a label gets ``hints.label``.
        """
        if isinstance(value, str):
            said = read_boxes(value)
            value = [] if said.problem else [{"bbox_2d": box.corners, "label": box.label} for box in said.boxes]
            if said.problem:
                raise ValueError(f"ground truth of boxes: {said.problem}")
        if isinstance(value, Mapping) or (isinstance(value, list) and _is_one_box(value)):
            value = [value]
        if not isinstance(value, list):
            return value
        labels = [item.get("label") or hints.label if isinstance(item, dict) else hints.label for item in value]
        boxes = [box_of(item) if isinstance(item, dict) else item for item in value]
        return {"boxes": boxes, "labels": labels, "frame": 0, "size": hints.size or UNKNOWN_SIZE}

    def published(self, truth: GroundingTruth) -> str:
        raise SampleError("task", "the truth of boxes is no text")


def scale_of_row(frame: Frame, truth: GroundingTruth, info: Fields, settings: ScoringSettings) -> tuple[float, float]:
    """What to multiply x and y of an answer with, to get pixels of the original image.

    Raises:
        SampleError: the size of the image is unknown, or no resize of verl can take it.
    """
    if frame.unit != "pixel" and truth.size == UNKNOWN_SIZE:
        raise SampleError("image_sizes", "the frame of the boxes needs the size of their image")
    seen = info.get("seen_sizes")
    seen_size = None if seen is None else _size_of(seen, truth.frame, "seen_sizes")
    return frame.scale(truth.size, settings.image_processor or ImageLimits(), seen_size)


def _size_of(sizes: Sizes, index: int, key: str) -> Size:
    """Entry ``index`` of ``extra_info[key]``; lists, tuples and numpy rows are all met in verl."""
    try:
        width, height = (float(number) for number in sizes[index])
        if width >= 1 and height >= 1 and width.is_integer() and height.is_integer():
            return int(width), int(height)
    except (TypeError, ValueError, IndexError, KeyError):
        pass
    shown = str(sizes)[:80]
    raise SampleError("image_sizes", f"{shown} has no [width, height] in pixels for image {index}", f"extra_info.{key}")


def judge(
    boxes: list[Box], truth: GroundingTruth, scale: tuple[float, float], iou_threshold: float
) -> tuple[float, dict[str, float]]:
    """Compare P boxes of an answer with the N true ones: ``acc`` and the values of the task's keys.

    ``iou`` is the mean over the true boxes of their match's IoU, ungated; without true boxes 1 for no boxes, else 0.
    ``precision``, ``recall`` and ``f1`` count matched pairs with an IoU above 0.5; where their denominator is 0 they
    are 1 if nothing was to be found and nothing was said, else 0.

    A box without a label may match where the truth has one label only: the question left nothing to name. Boxes are
    cut at the edges of the image. Cost: P x N, plus one assignment over the pairs that touch.
    """
    count, wanted = len(boxes), len(truth.boxes)
    acc = iou = float(count == wanted == 0)
    found = 0
    if count and wanted:
        overlaps = iou_matrix(_to_original(boxes, truth, scale), np.asarray(truth.boxes, dtype=np.float64))
        overlaps *= _labels_agree(boxes, truth)
        gated = np.where(overlaps > iou_threshold, overlaps, 0.0)
        pairs = best_match(gated)
        ungated = pairs if np.array_equal(gated, overlaps) else best_match(overlaps)
        acc = float(2.0 * gated[pairs].sum() / (count + wanted))
        iou = float(overlaps[ungated].sum() / wanted)
        found = int((overlaps[pairs] > MATCH_IOU).sum())
    nothing = float(count == wanted == 0)
    return acc, {
        "iou": iou,
        "precision": found / count if count else nothing,
        "recall": found / wanted if wanted else nothing,
        "f1": 2.0 * found / (count + wanted) if count + wanted else nothing,
        "boxes_predicted": float(count),
        "boxes_true": float(wanted),
    }


def _to_original(boxes: list[Box], truth: GroundingTruth, scale: tuple[float, float]) -> Floats:
    """(P, 4) boxes in pixels of the original image, cut at its edges; a box that is none has no area."""
    corners = np.array([box.corners or (0.0, 0.0, 0.0, 0.0) for box in boxes], dtype=np.float64)
    with np.errstate(over="ignore"):
        corners *= np.array([*scale, *scale])
    return np.clip(corners, 0.0, np.array([*truth.size, *truth.size], dtype=np.float64))


def _labels_agree(boxes: list[Box], truth: GroundingTruth) -> NDArray[np.bool_]:
    """(P, N): the predicted box may stand for the true one."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(map(_label, truth.labels)))}
    wanted = np.array([numbers[_label(label)] for label in truth.labels])
    unnamed = 0 if len(numbers) == 1 else -1
    given = np.array([unnamed if box.label is None else numbers.get(_label(box.label), -1) for box in boxes])
    return (given[:, None] == wanted[None, :]) | (wanted == numbers.get(ANY_LABEL, -2))[None, :]


def _is_one_box(value: list[object]) -> bool:
    return len(value) == 4 and not any(isinstance(item, list | dict) for item in value)


def _label(text: str) -> str:
    return _label_form(text[:200])


@lru_cache(maxsize=4096)  # a label comes with each of its boxes, in each response
def _label_form(text: str) -> str:
    return words.folded_form(words.tidy(text))


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
    from scipy.optimize import linear_sum_assignment  # late: the data check reads truths and needs no scipy

    rows = np.flatnonzero(values.any(axis=1))
    columns = np.flatnonzero(values.any(axis=0))
    if not rows.size:
        return rows, columns[:0]
    part = values[np.ix_(rows, columns)]
    chosen_rows, chosen_columns = linear_sum_assignment(part, maximize=True)
    worth = part[chosen_rows, chosen_columns] > 0
    return rows[chosen_rows[worth]], columns[chosen_columns[worth]]
