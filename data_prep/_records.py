"""Records of other projects' formats as samples: clean question, answer, choices; which image is which source."""

import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from pydantic import Field

from verl_mars.data.answers import bare_answer, letter_of, list_choices, named_choice, split_lettered, without_letters
from verl_mars.data.box_forms import BoxForm, BoxUnit, boxes_of
from verl_mars.data.images import encoded_bytes
from verl_mars.data.paths import Root
from verl_mars.data.sample import (
    Boxes,
    Converter,
    Findings,
    ImageRef,
    Options,
    Reject,
    Sample,
    SourceSample,
    attempt,
)
from verl_mars.data.tables import Line, lines_of
from verl_mars.errors import SampleError
from verl_mars.fields import Fields
from verl_mars.tasks import TASKS, task_named
from verl_mars.tasks.base import Truth
from verl_mars.tasks.count import CountTruth
from verl_mars.tasks.math import MathTruth

IMAGE_TAG = re.compile(r"<image(?: \d{1,3})?>")
_NUMBER = re.compile(r"[+-]?\d+")
_HOW_MANY = re.compile(r"\bhow many\b|\bcount\b|\bnumber of\b", re.IGNORECASE)


class RecordOptions(Options):
    """Options of every converter of records."""

    file: str = Field(default="", description="File or folder under --root; by default the only one.")
    sources: str = Field(default="", description="rgb=0 ir=1, or rgb=*_rgb.*; by default each image is a source.")
    task: str = Field(default="auto", description="A task for all; auto: by the answer, and the counts say how.")
    data_source: str = Field(default="", description="Name of the data set; by default the file's.")
    boxes: BoxForm = Field(default="xyxy", description="xyxy, xywh, cxcywh: what the numbers of a box are.")
    units: BoxUnit = Field(default="pixels", description="pixels, fractions (0 to 1) or thousandths (0 to 1000).")
    label: str = Field(default="", description="Label of boxes that come without one.")


@dataclass
class Record:
    """The parts of one record, as its file holds them."""

    origin: str
    sample_id: str
    question: str
    answer: object
    images: list[object]
    choices: object = None
    labels: list[str] | None = None
    split: str | None = None
    group: str | None = None
    data_source: str | None = None
    units: BoxUnit | None = None
    notes: dict[str, str] = field(default_factory=dict)


def sample_of(record: Record, options: RecordOptions, findings: Findings) -> Sample:
    """The sample of a record. Every clean-up is counted in the findings.

    Raises:
        SampleError: no question, answer or image, a choice that is not listed, or an image without a source.
    """
    if not isinstance(record.question, str):
        raise SampleError("record", f"a text is needed, given {type(record.question).__name__}", "question")
    if not record.images:
        raise SampleError("source_images", "the record has no image", "images")
    question = _untagged(record.question, len(record.images), findings)
    answer = record.answer
    if isinstance(answer, str):
        answer = bare_answer(answer, findings)
    choices = _choices(record.choices)
    if choices is None and isinstance(answer, str) and letter_of(answer) is not None:
        question, choices = split_lettered(question)
        findings.counts["choices that were taken from the question"] += choices is not None
    elif choices:
        bare = without_letters(choices)
        findings.counts["choices whose own letters were removed"] += bare != choices
        choices = bare
    sources = _sources(record.images, options.sources)
    task, truth = _truth(question, answer, choices, record, options)
    findings.counts[f"records read as {task}"] += 1
    return Sample(
        sample_id=record.sample_id,
        task=task,
        question=f"{question}\n{list_choices(choices)}" if task == "mcq" and choices else question,
        truth=truth,
        sources=sources,
        origin=record.origin,
        split=record.split,
        group=record.group,
        data_source=options.data_source or record.data_source,
        notes=tuple(sorted(record.notes.items())),
    )


def _untagged(question: str, images: int, findings: Findings) -> str:
    """The question without its image tags, which conversion writes itself."""
    tags = len(IMAGE_TAG.findall(question))
    if tags and tags != images:
        raise SampleError("image_count", f"{tags} image tags in the question, but {images} images", "question")
    clean = IMAGE_TAG.sub("", question).strip()
    findings.counts["questions whose image tags were removed"] += tags > 0
    if not clean:
        raise SampleError("record", "empty", "question")
    return clean


def _choices(value: Any) -> list[str] | None:
    """Choices as a list: from a list, from a mapping of letters, or from the JSON text of one of them."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SampleError("choices", f"{value[:60]!r}, but a list is needed", "choices") from error
    if value is None or len(value) == 0:
        return None
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value) if value[key] is not None]
    if not isinstance(value, Sequence) or not all(isinstance(item, str | int | float) for item in value):
        raise SampleError("choices", f"{str(value)[:60]!r}, but a list of texts is needed", "choices")
    return [str(item) for item in value]


def _truth(
    question: str, answer: object, choices: list[str] | None, record: Record, options: RecordOptions
) -> tuple[str, Boxes | Truth]:
    task = options.task
    if answer is None or answer == "" or (isinstance(answer, list) and not answer and task != "grounding"):
        raise SampleError("answer", "the answer is empty", "answer")
    boxes, labels = _boxes_in(answer)
    if task == "grounding" or (task == "auto" and boxes is not None):
        if boxes is None:
            raise SampleError("box", f"{str(answer)[:60]!r} is no list of boxes", "answer")
        labels = record.labels or labels or ([options.label] * len(boxes) if options.label else None)
        if labels is None and boxes:
            raise SampleError("box", "boxes without labels: --set label=NAME gives them one", "answer")
        return "grounding", boxes_of(boxes, labels or [], options.boxes, record.units or options.units)
    text = str(answer) if isinstance(answer, str | int | float) and not isinstance(answer, bool) else None
    if task == "mcq" or (task == "auto" and choices):
        if not choices or text is None:
            raise SampleError("choices", "choices and one answer are needed", "choices")
        return "mcq", named_choice(text, choices)
    if text is not None and (task == "count" or (task == "auto" and _HOW_MANY.search(question))):
        if _NUMBER.fullmatch(text) and int(text) >= 0:
            return "count", CountTruth(value=int(text))
        if task == "count":
            raise SampleError("answer", f"{text[:60]!r} is no count", "answer")
    if task == "math" or (task == "auto" and text is not None and ("\\" in text or _NUMBER.fullmatch(text))):
        return "math", MathTruth(answer=str(text))
    answers = [text] if text is not None else answer
    if not isinstance(answers, list) or not all(isinstance(item, str) for item in answers):
        raise SampleError("answer", f"{str(answer)[:60]!r}, but a text or a list of texts is needed", "answer")
    name = "vqa" if task == "auto" else task_named(task).name
    return name, TASKS[name].read({"answers": answers})


def _boxes_in(answer: object) -> tuple[list[object] | None, list[str] | None]:
    """Boxes and labels of an answer in Qwen's form, or boxes of a bare list; None if it holds no boxes."""
    if isinstance(answer, str) and answer.lstrip().startswith("["):
        try:
            answer = json.loads(answer)
        except ValueError:
            return None, None
    if not isinstance(answer, list):
        return None, None
    if len(answer) == 4 and all(isinstance(value, int | float) for value in answer):
        return [answer], None
    if all(isinstance(item, list) and len(item) == 4 for item in answer):
        return answer, None
    if all(isinstance(item, dict) and "bbox_2d" in item for item in answer):
        labels = [item.get("label") for item in answer]
        return [item["bbox_2d"] for item in answer], labels if all(labels) else None
    return None, None


# ---------------------------------------------------------------- images and sources


def _sources(images: list[object], spec: str) -> tuple[SourceSample, ...]:
    refs = [_image(image, position) for position, image in enumerate(images)]
    if not spec.strip():
        names = ["image"] if len(refs) == 1 else [f"image_{number + 1}" for number in range(len(refs))]
        return tuple(SourceSample(name, (ref,)) for name, ref in zip(names, refs, strict=True))
    taken: dict[int, str] = {}
    sources = []
    for item in spec.split():
        name, equals, places = item.partition("=")
        if not (name and equals and places):
            raise SampleError("source_images", f"{item!r}, but NAME=POSITION or NAME=PATTERN is needed", "--sources")
        positions = list(_positions(places, refs))
        for position in positions:
            if position in taken:
                raise SampleError("source_images", f"image {position} is {taken[position]} and {name}", "--sources")
            taken[position] = name
        if not positions:
            raise SampleError("source_images", f"no image for source {name} ({places})", "--sources")
        sources.append(SourceSample(name, tuple(refs[position] for position in positions)))
    left = [position for position in range(len(refs)) if position not in taken]
    if left:
        raise SampleError("source_images", f"image {left[0]} ({refs[left[0]].path}) is no source's", "--sources")
    return tuple(sources)


def _positions(places: str, refs: list[ImageRef]) -> Iterator[int]:
    if re.fullmatch(r"\d+(,\d+)*", places):
        yield from (int(place) for place in places.split(",") if int(place) < len(refs))
    else:
        yield from (
            position
            for position, ref in enumerate(refs)
            if fnmatch(ref.path, places) or fnmatch(ref.path.rpartition("/")[2], places)
        )


def _image(image: object, position: int) -> ImageRef:
    """An entry of ``images``: a path, ``{path}``, ``{image: path}``, ``{bytes}``, or a data URL."""
    at = f"images[{position}]"
    content = None
    if isinstance(image, Mapping):
        content = image.get("bytes")
        if content is not None and not isinstance(content, bytes):
            raise SampleError("images_type", f"bytes are {type(content).__name__}, but the encoded image is needed", at)
        image = image.get("path") or image.get("image") or image.get("url") or (f"{at}" if content else None)
    if isinstance(image, bytes):
        content, image = image, at
    if not isinstance(image, str) or not image:
        raise SampleError("images_type", f"{type(image).__name__}, but a path or bytes are needed", at)
    if image.startswith("data:image"):
        content, image = encoded_bytes(image), at
    return ImageRef(image, content=content)


# ---------------------------------------------------------------- the converter


class RecordConverter(Converter):
    """A format whose records name their images: subclasses say which key is what."""

    licence = "that of the data"
    options = RecordOptions

    @abstractmethod
    def record(self, line: Line, options: Any, findings: Findings) -> Record:
        """The parts of a record.

        Raises:
            SampleError: one of them is missing.
        """

    def samples(self, root: Root, options: Any, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        for line in lines_of(root, options.file, self.layout):

            def make(line: Line = line) -> Sample:
                record = self.record(line, options, findings)
                record.split = record.split or line.split
                return sample_of(record, options, findings)

            yield attempt(make, line.origin)

    def unread(self, line: Line, known: frozenset[str], findings: Findings) -> None:
        """Count the keys of a record that this format does not read."""
        for key in line.content:
            if key not in known and line.content[key] not in (None, "", [], {}):
                findings.counts[f"records whose key {key[:60]!r} is not read"] += 1


def first_of(content: Fields, *keys: str) -> Any:
    """The value of the first key that is there; None if none is."""
    return next((content[key] for key in keys if content.get(key) is not None), None)


def needed(content: Fields, *keys: str) -> Any:
    """As :func:`first_of`.

    Raises:
        SampleError: none of the keys is there.
    """
    value = first_of(content, *keys)
    if value is None:
        raise SampleError("record", f"no {' or '.join(keys)}; the record has {', '.join(map(str, content))}", keys[0])
    return value


def as_list(value: Any) -> list[Any]:
    """One or several values as a list; None as none."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
