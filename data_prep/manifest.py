"""A manifest of your own: one JSON object a line. The documented way in for any data; see docs/data-format.md."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from verl_mars.config import parsed
from verl_mars.data.answers import choice_truth, list_choices
from verl_mars.data.paths import Root
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
from verl_mars.errors import DataError, SampleError
from verl_mars.tasks import task_named
from verl_mars.tasks.base import Truth
from verl_mars.tasks.count import CountTruth
from verl_mars.tasks.math import MathTruth
from verl_mars.tasks.vqa import VqaTruth

MAX_LINE = 8 * 2**20
Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Numbers = tuple[float, float, float, float]


class ImageEntry(BaseModel):
    """An image with something to say about it; a plain path will do otherwise."""

    model_config = ConfigDict(extra="forbid")

    path: Text
    kind: ImageKind = "auto"
    unit: DepthUnit = "mm"
    crop: tuple[int, int, int, int] | None = None

    def ref(self) -> ImageRef:
        """As converters name it."""
        return ImageRef(self.path, self.kind, self.unit, self.crop)


class Answer(BaseModel):
    """A right answer, in the way of its task."""

    model_config = ConfigDict(extra="forbid")

    answer: Text | list[Text] | None = None
    letter: Text | None = None
    choices: list[Text] | None = None
    count: int | None = Field(default=None, ge=0)
    boxes: list[Numbers] | None = None
    labels: list[Text] | Text | None = None
    frame: int | None = None
    size: tuple[int, int] | None = None


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


class Manifest(Converter):
    """One row a line; a line that is wrong is rejected, the others go on."""

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
        try:
            with open(path, encoding="utf-8-sig") as lines:
                number = 0
                while line := lines.readline(MAX_LINE):
                    number += 1
                    if not line.strip():
                        continue
                    if number == 1 and line.lstrip().startswith("["):
                        raise DataError(
                            f"{path} is one JSON list, but one object a line is needed: `jq -c '.[]' LIST > MANIFEST` "
                            "writes it so"
                        )
                    origin = f"{options.file}, line {number}"
                    if len(line) == MAX_LINE and not line.endswith("\n"):
                        raise DataError(f"{path}, line {number}: more than {MAX_LINE} characters; one object a line")
                    yield attempt(partial(_sample, line, origin, name), origin)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: {error}") from error


def _sample(line: str, origin: str, data_source: str) -> Sample:
    try:
        content = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SampleError("record", f"broken JSON: {error}") from error
    entry = parsed(Entry, content)
    task = task_named(entry.task).name if entry.task else _task_of(entry)
    first = 0
    sources = []
    for source in entry.sources:
        refs = source.refs()
        if not refs:
            raise SampleError("source_images", f"source {source.name!r} has no image", "sources")
        if task == "mcq" and source.choices is None:
            source = source.model_copy(update={"choices": entry.choices})
        truth = _truth(source, task, default_frame=first) if _has_answer(source) else None
        alone = source.question
        if alone is not None and task == "mcq":
            alone = _with_choices(alone, source.choices)
        sources.append(SourceSample(source.name, refs, source.label, alone, truth))
        first += len(refs)
    return Sample(
        sample_id=str(entry.id),
        task=task,
        question=_with_choices(entry.question, entry.choices) if task == "mcq" else entry.question,
        truth=_truth(entry, task, default_frame=0),
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


def _has_answer(answer: Answer) -> bool:
    return any(value is not None for value in (answer.answer, answer.letter, answer.count, answer.boxes))


def _task_of(entry: Entry) -> Any:
    """The task that the answer belongs to."""
    found = [
        task
        for task, value in (
            ("grounding", entry.boxes),
            ("mcq", entry.letter),
            ("count", entry.count),
            ("vqa", entry.answer),
        )
        if value is not None
    ]
    if len(found) != 1:
        given = " and ".join(found) or "none of them"
        raise SampleError("record", f"one of answer, letter, count, boxes is needed, given is {given}; or set task")
    return found[0]


def _truth(answer: Answer, task: str, default_frame: int) -> Boxes | Truth:
    if task == "grounding":
        boxes = _needed(answer.boxes, "boxes", task)
        labels = answer.labels if isinstance(answer.labels, list) else [answer.labels or "object"] * len(boxes)
        frame = default_frame if answer.frame is None else answer.frame
        return Boxes(tuple(boxes), tuple(labels), frame, answer.size)
    if task == "mcq":
        return choice_truth(_needed(answer.letter, "letter", task), _needed(answer.choices, "choices", task))
    if task == "count":
        return CountTruth(value=_needed(answer.count, "count", task))
    text = _needed(answer.answer, "answer", task)
    if task == "math":
        if not isinstance(text, str):
            raise SampleError("answer", "math has one answer", "answer")
        return MathTruth(answer=text)
    return VqaTruth(answers=[text] if isinstance(text, str) else text)


def _needed(value: Any, name: str, task: str) -> Any:
    if value is None:
        raise SampleError("record", f"task {task} needs {name}", name)
    return value


CONVERTER = Manifest()
