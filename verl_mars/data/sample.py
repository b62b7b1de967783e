"""What a converter yields: samples, before prompts are written and images are opened; and what a converter is."""

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from verl_mars.config import explain, faults
from verl_mars.data.paths import Root
from verl_mars.errors import SampleError, UsageError
from verl_mars.tasks.base import Truth

ImageKind = Literal["auto", "depth", "intensity"]
DepthUnit = Literal["mm", "m", "sunrgbd"]


@dataclass(frozen=True)
class ImageRef:
    """An image file as the raw data names it.

    ``kind``: what a 16-bit or float image holds; ``auto`` takes it for depth where its source is called so, else for
    intensity. ``unit``: of raw depth values; ``sunrgbd`` is millimetres, rotated left by three bits.
    ``crop``: (left, top, right, bottom) to keep, for images with a border; boxes are in pixels before the crop.
    """

    path: str
    """Relative to the root, or absolute and inside it."""
    kind: ImageKind = "auto"
    unit: DepthUnit = "mm"
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Boxes:
    """A grounding truth whose image has not been opened yet."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """(x1, y1, x2, y2) in pixels of the file as it is stored."""
    labels: tuple[str, ...]
    frame: int = 0
    """Position of the boxes' image among the sample's images."""
    size: tuple[int, int] | None = None
    """(width, height) that the annotation gives; must be the file's own, or its upright one where EXIF turns it."""
    fractions: bool = False
    """Boxes are in parts of the image's width and height."""
    clip: bool = False
    """Boxes may reach beyond the image and are cut at its edge; else such a box is a fault."""


@dataclass(frozen=True)
class SourceSample:
    """One source of a sample."""

    name: str
    images: tuple[ImageRef, ...]
    label: str | None = None
    """What the prompt calls it; ``None``: its name."""
    question: str | None = None
    """What is asked about this source alone; ``None``: the sample's question."""
    truth: "Boxes | Truth | None" = None
    """Its own ground truth, where its frame is not aligned with the others."""
    text: str | None = None
    """Published wording for this source alone; used with the prompt style ``official``."""


@dataclass(frozen=True)
class Sample:
    """One prompt-to-be with all its sources."""

    sample_id: str
    task: str
    question: str
    truth: "Boxes | Truth"
    sources: tuple[SourceSample, ...]
    origin: str
    """File and record it comes from, for messages."""
    split: str | None = None
    """``None``: by a hash of the group."""
    group: str | None = None
    """Scene, video or pair; all samples of one group go to one split. ``None``: the sample itself."""
    ability: str = "multi_source_vqa"
    data_source: str | None = None
    """``None``: the converter's name."""
    text: str | None = None
    """Published wording of the fused prompt; used with the prompt style ``official``."""
    notes: tuple[tuple[str, str], ...] = ()
    """Further facts of the raw record, kept in ``extra_info.notes``."""

    @property
    def images(self) -> list[ImageRef]:
        """The images of all sources, in the row's order."""
        return [image for source in self.sources for image in source.images]


@dataclass(frozen=True)
class Reject:
    """A record that cannot become a row, and why."""

    origin: str
    code: str
    message: str
    sample_id: str | None = None

    @classmethod
    def of(cls, error: SampleError, origin: str, sample_id: str | None = None) -> "Reject":
        """From the error that stopped the sample."""
        return cls(origin, error.code, str(error), sample_id)


@dataclass
class Findings:
    """Known shortcuts and leaks, and what the converter counts while it reads."""

    texts: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        """Report something, once."""
        if text not in self.texts:
            self.texts.append(text)


class Options(BaseModel):
    """Settings of one converter, set with ``--set key=value``; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Converter(ABC):
    """Turns one raw data set into samples. Thin: no prompts, no opened images, no splits by row."""

    name: ClassVar[str]
    title: ClassVar[str]
    licence: ClassVar[str]
    url: ClassVar[str]
    layout: ClassVar[str]
    """The raw layout under ``--root``."""
    version: ClassVar[int] = 1
    """Raised when the same raw data give other samples than before."""
    caveats: ClassVar[tuple[str, ...]] = ()
    """Known shortcuts, leaks and gaps of the data set; printed and written into the manifest."""
    default_style: ClassVar[str] = "labelled"
    draws: ClassVar[bool] = False
    """Images are usually rendered, so more processes are worth starting."""
    options: ClassVar[type[Options]] = Options

    @abstractmethod
    def samples(self, root: Root, options: Any, findings: Findings) -> Iterator[Sample | Reject]:
        """The samples in an order that depends on the raw data alone.

        Raises:
            DataError: nothing can be read at all, for example because the layout is another one.
        """

    def parse_options(self, given: dict[str, str]) -> Options:
        """Options from ``key=value`` texts.

        Raises:
            UsageError: an unknown key or a value that does not fit, with what is allowed.
        """
        try:
            return self.options.model_validate(given)
        except ValidationError as error:
            wrong = "; ".join(fault.sentence for fault in faults(error, self.options))
            allowed = ", ".join(self.options.model_fields) or "none"
            raise UsageError(f"--set {wrong}; options of {self.name}: {allowed}") from None

    def describe_options(self) -> Iterator[tuple[str, str, str]]:
        """(name, default, description) of each option."""
        for name, info in self.options.model_fields.items():
            yield name, str(info.default), inspect.cleandoc(info.description or "")


def attempt(make: Callable[[], Sample], origin: str, sample_id: str | None = None) -> Sample | Reject:
    """The sample that ``make`` returns, or why it cannot."""
    try:
        return make()
    except SampleError as error:
        return Reject.of(error, origin, sample_id)
    except ValidationError as error:
        return Reject.of(explain(error, "record"), origin, sample_id)
