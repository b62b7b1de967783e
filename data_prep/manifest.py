"""A manifest of your own: one JSON object a line. The documented way in for any data; see docs/data-format.md."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from verl_mars.config import parsed
from verl_mars.data.answers import bare_answer, list_choices, named_choice, without_letters
from verl_mars.data.box_forms import BoxForm, BoxUnit, boxes_of
from verl_mars.data.paths import Root
from verl_mars.data.readers import json_lines, strict_json
from verl_mars.data.sample import (
    Boxes,
    Converter,
    DepthUnit,
    Findings,
    ImageKind,
    ImageRef,
    Options,
    Reject,
    Sample,
    SourceSample,
    attempt,
)
from verl_mars.errors import SampleError
from verl_mars.fields import FieldDict
from verl_mars.tasks import TASKS, task_named
from verl_mars.tasks.base import Truth
from verl_mars.tasks.count import CountTruth
from verl_mars.tasks.grounding import Coordinate, Side
from verl_mars.tasks.math import MathTruth

Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Numbers = tuple[Coordinate, Coordinate, Coordinate, Coordinate]


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class ImageEntry(BaseModel):
    """An image with something to say about it; a plain path will do otherwise."""

    model_config = ConfigDict(extra="forbid")

    path: Text
    kind: ImageKind = "auto"
    unit: DepthUnit = "mm"
    crop: tuple[int, int, int, int] | None = None
    scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Millimetres that one unit of depth stands for."""

    def ref(self) -> ImageRef:
        """As converters name it."""
        return ImageRef(self.path, self.kind, self.unit, self.crop, self.scale)


class Answer(BaseModel):
    """A right answer, in the keys of its task: see :data:`KEYS`."""

    model_config = ConfigDict(extra="forbid")

    answer: Annotated[Text | list[Text] | None, BeforeValidator(_number_as_text)] = None
    letter: Text | None = None
    choices: list[Text] | None = None
    count: Annotated[int, Field(strict=True, ge=0)] | None = None
    boxes: list[Numbers] | None = None
    labels: list[Text] | Text | None = None
    frame: Annotated[int, Field(strict=True, ge=0)] | None = None
    size: tuple[Side, Side] | None = None

    def given(self) -> set[str]:
        """The keys of an answer that it has."""
        return {key for key in Answer.model_fields if getattr(self, key) is not None}


KEYS: dict[str, frozenset[str]] = {
    "grounding": frozenset(["boxes", "labels", "frame", "size"]),
    "mcq": frozenset(["letter", "answer", "choices"]),
    "count": frozenset(["count"]),
}
"""Task -> the keys that its answers may have; every other task has ``answer`` alone."""
_ANSWER_ALONE = frozenset(["answer"])


class SourceEntry(Answer):
    """One source; an answer only where its own differs from the fused one."""

    name: Text
    images: list[ImageEntry | Text] | ImageEntry | Text
    label: Text | None = None
    question: Text | None = None

    def refs(self) -> tuple[ImageRef, ...]:
        """Its images."""
        images = self.images if isinstance(self.images, list) else [self.images]
        return tuple(image.ref() if isinstance(image, ImageEntry) else ImageRef(image) for image in images)


class Entry(Answer):
    """One line."""

    id: Text | int
    question: Text
    sources: list[SourceEntry] = Field(min_length=1)
    task: str | None = None
    split: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")] | None = None
    group: Text | None = None
    ability: Text = "multi_source_vqa"
    data_source: Text | None = None
    notes: dict[str, str | int | float | bool] = Field(default_factory=dict)


class ManifestOptions(Options):
    """Options of the converter."""

    file: str = Field(default="manifest.jsonl", description="The manifest under --root.")
    data_source: str = Field(default="", description="Name of the data set; by default the file's.")
    boxes: BoxForm = Field(default="xyxy", description="xyxy, xywh or cxcywh: the four numbers of a box.")
    units: BoxUnit = Field(default="pixels", description="pixels, fractions (0 to 1) or thousandths (0 to 1000).")


class Manifest(Converter):
    """One row a line; a line that is wrong is rejected, the others are converted."""

    name = "manifest"
    title = "your own data, one JSON object a line"
    licence = "yours"
    url = "docs/data-format.md"
    layout = (
        "  manifest.jsonl, each line like\n"
        '  {"id": 1, "question": "Is it safe?", "answer": "yes", "sources": [\n'
        '    {"name": "rgb", "images": "rgb/1.jpg"}, {"name": "depth", "images": "depth/1.png"}]}'
    )
    options = ManifestOptions

    def samples(self, root: Root, options: ManifestOptions, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        path = root.need(options.file, self.layout)
        name = options.data_source or path.stem
        for number, line in json_lines(path):
            origin = f"{options.file}, line {number}"
            yield attempt(partial(_sample, line, origin, name, options, findings), origin)


def _sample(line: str, origin: str, data_source: str, options: ManifestOptions, findings: Findings) -> Sample:
    entry = parsed(Entry, strict_json(line))
    entry = _cleaned(entry, findings)
    task = task_named(entry.task).name if entry.task else _task_of(entry)
    _refuse_unused(entry, task, "")
    first = 0
    sources = []
    for number, source in enumerate(entry.sources):
        refs = source.refs()
        if not refs:
            raise SampleError("source_images", f"source {source.name!r} has no image", "sources")
        source = _cleaned(source, findings)
        _refuse_unused(source, task, f"sources[{number}].")
        if task == "mcq" and source.choices is None:
            source = source.model_copy(update={"choices": entry.choices})
        truth = _truth(source, task, first, options) if source.given() - {"choices", "labels"} else None
        alone = source.question
        if alone is not None and task == "mcq":
            alone = _with_choices(alone, source.choices)
        sources.append(SourceSample(source.name, refs, source.label, alone, truth))
        first += len(refs)
    return Sample(
        sample_id=str(entry.id),
        task=task,
        question=_with_choices(entry.question, entry.choices) if task == "mcq" else entry.question,
        truth=_truth(entry, task, 0, options),
        sources=tuple(sources),
        origin=origin,
        split=entry.split,
        group=entry.group,
        ability=entry.ability,
        data_source=entry.data_source or data_source,
        notes=tuple((key, str(value)) for key, value in sorted(entry.notes.items())),
    )


def _with_choices(question: str, choices: list[str] | None) -> str:
    return f"{question}\n{list_choices(choices)}" if choices else question


A = TypeVar("A", bound=Answer)
T = TypeVar("T")


def _cleaned(answer: A, findings: Findings) -> A:
    """The answer without markup of other formats, each removal counted."""
    changes: FieldDict = {}
    if isinstance(answer.answer, str):
        changes["answer"] = bare_answer(answer.answer, findings)
    elif answer.answer:
        changes["answer"] = [bare_answer(text, findings) for text in answer.answer]
    if answer.letter:
        changes["letter"] = bare_answer(answer.letter, findings)
    if answer.choices:
        changes["choices"] = without_letters(answer.choices)
        findings.counts["lists of choices whose own letters were removed"] += changes["choices"] != answer.choices
    return answer.model_copy(update=changes)


def _refuse_unused(answer: Answer, task: str, where: str) -> None:
    keys = KEYS.get(task, _ANSWER_ALONE)
    unused = sorted(answer.given() - keys)
    if unused:
        given = ", ".join(sorted(answer.given() & keys)) or "no answer"
        message = f"is no key of task {task}, which is read from {given}; remove it, or set task"
        raise SampleError("record", message, where + unused[0])


def _task_of(entry: Entry) -> str:
    """The task that the answer belongs to."""
    answered = {"grounding": entry.boxes, "mcq": entry.letter, "count": entry.count, "vqa": entry.answer}
    tasks = [task for task, value in answered.items() if value is not None]
    if len(tasks) != 1:
        given = " and ".join(tasks) or "none of them"
        raise SampleError("record", f"one of answer, letter, count, boxes is needed, given is {given}; or set task")
    return "mcq" if tasks == ["vqa"] and entry.choices else tasks[0]


def _truth(answer: Answer, task: str, default_frame: int, options: ManifestOptions) -> Boxes | Truth:
    if task == "grounding":
        boxes = _needed(answer.boxes, "boxes", task)
        if boxes and not answer.labels:
            message = "boxes need labels: one for all or one each, as the prompt calls the objects"
            raise SampleError("box", message, "labels")
        labels = answer.labels if isinstance(answer.labels, list) else [answer.labels or ""] * len(boxes)
        frame = default_frame if answer.frame is None else answer.frame
        return boxes_of(boxes, labels, options.boxes, options.units, frame=frame, size=answer.size)
    if task == "mcq":
        choices = _needed(answer.choices, "choices", task)
        if answer.letter is None and isinstance(answer.answer, str):
            return named_choice(answer.answer, choices)
        return named_choice(_needed(answer.letter, "letter", task), choices)
    if task == "count":
        return CountTruth(value=_needed(answer.count, "count", task))
    text = _needed(answer.answer, "answer", task)
    if task == "math":
        if not isinstance(text, str):
            raise SampleError("answer", "math has one answer", "answer")
        return MathTruth(answer=text)
    return TASKS[task].read({"answers": [text] if isinstance(text, str) else text})


def _needed(value: T | None, name: str, task: str) -> T:
    if value is None:
        raise SampleError("record", f"task {task} needs {name}", name)
    return value


CONVERTER = Manifest()
