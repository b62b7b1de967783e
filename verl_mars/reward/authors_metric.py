"""The MARS authors' evaluation (``evaluation/eval_qwen.py`` of AI9Stars/MARS at 3eee0fb), reimplemented.

For people who want to know how much of a published number is the metric. Its faults are kept, because they are the
metric: a grounding answer that cannot be read is left out of the count; boxes in excess cost nothing; answers in words
are looked for as whole words in the whole output, thoughts included, and the other way round, so that an empty output
is right. Not kept: a division by zero where two boxes have no area at all (``crashed`` counts such rows; no overlap).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

CORRECT_IOU = 0.5
_MAX_BOXES = 2_000
_NUMBER, _FLOAT = r"(\d{1,300})", r"(\d{1,300}\.\d{1,300})"
_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        rf"\({_NUMBER},\s*{_NUMBER}\),\s*\({_NUMBER},\s*{_NUMBER}\)",
        rf"\[{_FLOAT},\s*{_FLOAT},\s*{_FLOAT},\s*{_FLOAT}\]",
        rf"\({_FLOAT},{_FLOAT}\),\({_FLOAT},{_FLOAT}\)",
        rf"\({_FLOAT},\s*{_FLOAT},\s*{_FLOAT},\s*{_FLOAT}\)",
        rf"\[{_NUMBER},\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\]",
        rf"<box>{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}</box>",
    )
]
_SYMBOLS = re.compile(r"[^\w\s:]+")


@dataclass(frozen=True, slots=True)
class AuthorsMetric:
    """What their script prints, and what it does not."""

    rows: int
    counted: int
    correct: int
    miou_sum: float | None
    crashed: int

    @property
    def accuracy(self) -> float | None:
        """Correct over counted; None where nothing was counted (their script divides by zero)."""
        return self.correct / self.counted if self.counted else None

    @property
    def accuracy_of_all(self) -> float:
        """The same with rows that were left out as wrong."""
        return self.correct / self.rows if self.rows else 0.0

    @property
    def miou(self) -> float | None:
        """Mean over the counted rows of the mean IoU over the true boxes; None for words, or nothing counted."""
        return None if self.miou_sum is None or not self.counted else self.miou_sum / self.counted


def grounding_metric(rows: Iterable[tuple[str, Sequence[Sequence[float]]]]) -> AuthorsMetric:
    """Their metric of (output, true boxes) pairs."""
    total = counted = correct = crashed = 0
    summed = 0.0
    for output, true_boxes in rows:
        total += 1
        block = _json_block(output)
        if block is None:
            continue
        miou, divided_by_zero = _mean_iou(true_boxes, _boxes_in(block))
        counted += 1
        crashed += divided_by_zero
        summed += miou
        correct += miou > CORRECT_IOU
    return AuthorsMetric(total, counted, correct, summed, crashed)


def words_metric(rows: Iterable[tuple[str, str]]) -> AuthorsMetric:
    """Their metric of (output, ground truth) pairs, the ground truth as their files hold it ("three or 3")."""
    total = correct = 0
    for output, truth in rows:
        total += 1
        said, true = _cleaned(output.strip().lower()), _cleaned(truth.strip().lower())
        correct += _holds(said, true) or _holds(true, said)
    return AuthorsMetric(total, total, correct, None, 0)


def _json_block(output: str) -> str | None:
    """The first fenced block of JSON in the first answer; None where they skip the row."""
    start = output.find("<answer>")
    end = output.find("</answer>", start + len("<answer>")) if start >= 0 else -1
    if end < 0:
        return None
    answer = output[start + len("<answer>") : end].strip()
    start = answer.find("```json")
    end = answer.find("```", start + len("```json")) if start >= 0 else -1
    return answer[start + len("```json") : end].strip() if end >= 0 else None


def _boxes_in(block: str) -> list[list[float]]:
    for pattern in _PATTERNS:
        boxes = [[float(number) for number in match] for match in pattern.findall(block)]
        if boxes:
            return boxes[:_MAX_BOXES]
    return []


def _mean_iou(true_boxes: Sequence[Sequence[float]], boxes: Sequence[Sequence[float]]) -> tuple[float, bool]:
    if not true_boxes or not boxes:
        return float(not true_boxes and not boxes), False
    true, said = np.asarray(true_boxes, dtype=np.float64), np.asarray(boxes, dtype=np.float64)
    low = np.maximum(true[:, None, :2], said[None, :, :2])
    high = np.minimum(true[:, None, 2:], said[None, :, 2:])
    sides = high - low
    touching = (sides >= 0).all(axis=2)
    shared = np.where(touching, sides.prod(axis=2), 0.0)
    areas = [(corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (true, said)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    ious = np.divide(shared, union, out=np.zeros_like(shared), where=touching & (union != 0))
    rows, columns = linear_sum_assignment(-ious)
    return float(ious[rows, columns].sum() / len(true_boxes)), bool((touching & (union == 0)).any())


def _holds(text: str, words: str) -> bool:
    r"""Whether ``\bwords\b`` is found in ``text``, case ignored; no words at all are found in any text with a word."""
    return len(words) <= len(text) and re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None


def _cleaned(text: str) -> str:
    """Their ``clean_prediction_symbols``: symbols at the edges of words go; in linear time."""
    text = text.replace("-", " ")
    text = re.sub(r"(?<!\w):(?=\w)|(?<=\w):(?!\w)", " ", text)
    text = _SYMBOLS.sub(lambda run: _before_word(run), text)
    text = _SYMBOLS.sub(lambda run: _after_word(run), text)
    return " ".join(text.split())


def _is_word(text: str, position: int) -> bool:
    return 0 <= position < len(text) and (text[position].isalnum() or text[position] == "_")


def _before_word(run: re.Match[str]) -> str:
    r"""``re.sub(r"(?<!\w)[^\w\s:]+(?=\w)", "", text)`` for one run of symbols."""
    if not _is_word(run.string, run.end()):
        return run.group()
    return run.group()[:1] if _is_word(run.string, run.start() - 1) else ""


def _after_word(run: re.Match[str]) -> str:
    r"""``re.sub(r"(?<=\w)[^\w\s:]+(?!\w)", "", text)`` for one run of symbols."""
    if not _is_word(run.string, run.start() - 1):
        return run.group()
    return run.group()[-1:] if _is_word(run.string, run.end()) else ""
