"""What a task is: the form of its ground truth, how a prompt asks for the answer, its scorer and its metrics.

A task is one file of this folder and one line of :data:`verl_mars.tasks.TASKS`. The data check, the conversion, the
prompts, the rewards and the offline scorer all read that table.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from verl_mars.config import Settings, explain
from verl_mars.errors import SampleError
from verl_mars.fields import FieldDict, Fields
from verl_mars.vision.families import frame_named
from verl_mars.vision.resize import ImageLimits, Size

Floats = NDArray[np.float64]
Sizes = Sequence[Sequence[float]]
"""``extra_info.image_sizes``: [width, height] of each image, as a row holds them."""

Ratio = tuple[Floats, Floats]
"""(R,) numerators and (R,) denominators of R rows; the metric is the ratio of their sums."""

MAX_CHARS = 2000
"""A longer answer is no short answer: it counts as wrong, with an error."""

_MAX_JSON = 1_000_000
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _checked_text(value: str) -> str:
    if not value.strip():
        raise SampleError("answer", "an answer is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can name one: \ud800
        raise SampleError("answer", f"{value[:60]!r} holds half a character") from error
    return value


Text = Annotated[str, AfterValidator(_checked_text)]


class Truth(BaseModel):
    """A ground truth. A row holds it as JSON text, so that every task has one Arrow type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """The text for ``reward_model.ground_truth``: the same for the same truth, whole floats as integers."""
        return _ENCODER.encode(_plain(self.model_dump()))

    def in_words(self) -> str:
        """The answer in a few words, to count how often each is right."""
        raise NotImplementedError

    def check_images(self, sizes: Sizes | None, images: Sequence[int] | None = None) -> None:
        """Check that the truth is about images of its row.

        Args:
            sizes: ``extra_info.image_sizes``, None if the row has none.
            images: positions of the images that the truth may be about; None: unknown.

        Raises:
            SampleError: it is not.
        """


T = TypeVar("T", bound=Truth)


def _frame_name(value: str) -> str:
    frame_named(value)
    return value


FrameName = Annotated[str, AfterValidator(_frame_name)]


class ScoringSettings(Settings):
    """Settings that scorers read; part of ``reward.reward_kwargs``."""

    coordinates: FrameName | None = None
    """The frame of an answer's boxes. Overrides ``extra_info["coordinates"]`` and the model's own."""

    image_processor: ImageLimits | None = None
    """The model's image processor, for frames of the image as seen. Overrides what the model's files say."""

    iou_threshold: float = Field(default=0.3, ge=0, lt=1, allow_inf_nan=False)
    """A matched pair of boxes earns its IoU only above this."""

    math_timeout_seconds: float = Field(default=1.0, gt=0, le=60, allow_inf_nan=False)
    """An expression that math-verify cannot settle in this time counts as wrong, with an error."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of scoring one answer."""

    acc: float = 0.0
    """In [0, 1]."""

    pred: str | None = ""
    """The answer as it was understood, for verl's majority vote; None for a task that has no such thing."""

    error: str = ""
    """Why there was nothing to score; "" where there was."""

    form: tuple[bool, ...] = ()
    """Parts of the answer's form that only the task can judge."""

    details: Mapping[str, float | None] = field(default_factory=dict)
    """Values of the task's own keys."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What a file of predictions says beside a plain ground truth."""

    label: str = "object"
    size: Size | None = None
    choices: object = None
    question: object = None


class Task(ABC, Generic[T]):
    """One kind of question. Subclasses hold no state."""

    name: ClassVar[str]
    """The value of ``extra_info.task``."""

    truth: type[T]
    example: ClassVar[str]
    """A ground truth, for messages."""

    instruction: ClassVar[str]
    """How a prompt asks for the answer."""

    weights: ClassVar[tuple[float, float]] = (2.0 / 3.0, 1.0 / 3.0)
    """Default weights of accuracy and format: the authors' 1 : 0.5, scaled so that a perfect answer scores 1."""

    keys: ClassVar[tuple[str, ...]] = ()
    """Keys of a result that only this task fills."""

    @abstractmethod
    def score(self, answer: str, truth: T, info: Fields, settings: ScoringSettings) -> Verdict:
        """Score one answer. Never raises because of what the answer holds.

        Args:
            answer: "" if the response has none. The row is checked all the same, so that a bad one shows at once.
            truth: the ground truth.
            info: the row's ``extra_info``.
            settings: of the run.

        Raises:
            SampleError: the row is at fault.
        """

    def read(self, value: object) -> T:
        """The ground truth in a JSON text, or in the mapping that such a text holds.

        Raises:
            SampleError: no JSON object, or a key or value that the task does not have.
        """
        hint = f"{self.name} needs {self.example}"
        try:
            if isinstance(value, str):
                if len(value) > _MAX_JSON:
                    raise SampleError("ground_truth", f"{len(value)} characters long, at most {_MAX_JSON} are allowed")
                value = _DECODER.decode(value)
            return self.truth.model_validate(value)
        except (json.JSONDecodeError, RecursionError) as error:
            raise SampleError("ground_truth", f"{str(value)[:80]!r} is no JSON text ({error}); {hint}") from error
        except ValueError as error:
            raise explain(error, "ground_truth", hint, self.truth) from error

    def read_for_row(self, value: object, key: str, sizes: Sizes | None, images: Sequence[int] | None = None) -> T:
        """:meth:`read` and :meth:`Truth.check_images` of the ground truth that a row holds under ``key``.

        Raises:
            SampleError: its key begins with ``key``.
        """
        try:
            truth = self.read(value)
            truth.check_images(sizes, images)
        except SampleError as error:
            place = ": ".join(filter(None, (key, error.problem.key)))
            raise SampleError(error.code, error.problem.message, place) from error
        return truth

    def metrics(self, results: Sequence[Fields]) -> dict[str, Ratio]:
        """Metrics of R results beside the means that every task has."""
        return {}

    def untagged(self, text: str) -> tuple[str | None, bool]:
        """The answer in a text without ``<answer>``, and whether it keeps the form; (None, False): there is none."""
        return None, False

    plain_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of a JSON object that is a plain ground truth, not one in the form of a row."""

    def from_plain(self, value: object, hints: Hints) -> object:
        """A ground truth as files of predictions hold it, in the form of a row; unknown forms stay as they are.

        Raises:
            ValueError: a value that needs more than the file says.
        """
        return value

    def published(self, truth: T) -> str:
        """The ground truth as the MARS authors' files hold it.

        Raises:
            SampleError: they have no formula for this task.
        """
        raise SampleError("task", f"variant=authors has no formula for task {self.name!r}")


AnyTask = Task[Any]
"""A task, whatever its ground truth."""


def column(results: Sequence[Fields], key: str) -> Floats:
    """(R,) values of one key, 0 where a result has none."""
    return np.array([result[key] or 0.0 for result in results], dtype=np.float64)


def _unique_keys(pairs: list[tuple[str, object]]) -> FieldDict:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SampleError("ground_truth", f"the key {twice!r} is given twice")
    return keys


def _refuse_constant(name: str) -> None:
    raise SampleError("ground_truth", f"{name} is not a finite number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
