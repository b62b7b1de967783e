"""SpatialBench (RGB + 16-bit depth), and SpatialQA's conversation files."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from verl_mars.config import parsed
from verl_mars.data.disjoint_sets import SharedGroups
from verl_mars.data.paths import Root
from verl_mars.data.readers import json_records
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
from verl_mars.errors import DataError, SampleError
from verl_mars.fields import FieldDict, Fields
from verl_mars.tasks.base import Truth
from verl_mars.tasks.count import CountTruth
from verl_mars.tasks.vqa import VqaTruth

from ._conversations import Conversation, MultiTurn, without_tags

CATEGORIES = ("existence", "reach", "counting", "positional", "size", "grounding")
_PAIRED = ("existence", "reach", "size")
_MAX_RECORDS = 100_000
Text = Annotated[str, StringConstraints(max_length=100_000)]


class Item(BaseModel):
    """One record of ``<category>.json``."""

    model_config = ConfigDict(extra="ignore")

    id: str | int | None = None
    image: list[Text] | Text
    question: Text | None = None
    answer: Text | int | None = None
    objects: list[dict[str, list[float]]] = Field(default_factory=list)

    @property
    def rgb(self) -> str:
        """The photograph."""
        return self.image if isinstance(self.image, str) else self.image[0]


class SpatialBenchOptions(Options):
    """Options of the converter."""

    file: str = Field(default="", description="A SpatialQA conversation file under --root, instead of SpatialBench.")
    split: str = Field(default="test", description="Where SpatialBench goes; `auto`: train and val, by image.")
    depth_unit: Literal["mm", "m"] = Field(default="mm", description="Unit of the depth files: mm or m.")
    max_answer_words: int = Field(default=5, gt=0, description="SpatialQA: longer answers cannot be matched; left out.")
    multi_turn: MultiTurn = Field(default="reject", description="SpatialQA, several turns: reject, or keep the first.")


class SpatialBench(Converter):
    """One row a question. Questions about one image, and the two of a pair, go to one split."""

    name = "spatialbench"
    title = "SpatialBench and SpatialQA (RGB + depth)"
    licence = "CC BY 4.0, gated"
    url = "https://huggingface.co/datasets/RussRobin/SpatialBench"
    layout = (
        "  {existence,reach,counting,positional,size,grounding}.json\n  <category>/NAME.jpg\n  <category>_d/NAME.png\n"
        "or, with --set file=FILE.json: SpatialQA's conversations and their images"
    )
    caveats = ("SpatialBench: existence, reach and size come as pairs of which one is the negation of the other.",)
    draws = True
    options = SpatialBenchOptions

    def samples(self, root: Root, options: SpatialBenchOptions, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        if options.file:
            yield from _conversations(root, options, findings, self.layout)
            return
        present = [category for category in CATEGORIES if root.has(f"{category}.json")]
        if not present:
            root.need(f"{CATEGORIES[0]}.json", self.layout)
        records: list[tuple[str, int, FieldDict]] = []
        for category in present:
            records += [(category, n, record) for n, record in enumerate(json_records(root.file(f"{category}.json")))]
            if len(records) > _MAX_RECORDS:
                raise DataError(f"more than {_MAX_RECORDS} records: SpatialBench has fewer than 1,000")
        groups = _groups(records)
        for category, number, record in records:
            yield from _bench_samples(category, number, record, groups, options)


def _groups(records: list[tuple[str, int, FieldDict]]) -> SharedGroups:
    groups = SharedGroups()
    for category, number, record in records:
        image = record.get("image") if isinstance(record, dict) else None
        image = image[0] if isinstance(image, list) and image else image
        pair = f"{category}-{number // 2 if category in _PAIRED else number}"
        groups.join([pair, f"image {image}"])
    return groups


def _bench_samples(
    category: str, number: int, record: Fields, groups: SharedGroups, options: SpatialBenchOptions
) -> Iterator[Sample | Reject]:
    origin = f"{category}.json, record {number}"
    pair = f"{category}-{number // 2 if category in _PAIRED else number}"

    def make(position: int | None = None) -> Sample:
        item = parsed(Item, record)
        sample_id = f"{category}-{item.id if item.id is not None else number}"
        task: str
        truth: Boxes | Truth
        if position is None:
            question, truth = _question(category, item)
            task = "count" if isinstance(truth, CountTruth) else "vqa"
        else:
            question, truth = _grounding(item, position)
            task = "grounding"
            sample_id += f"-{position}"
        return Sample(
            sample_id=sample_id,
            task=task,
            question=question,
            truth=truth,
            sources=rgb_and_depth(item.rgb, _depth_path(item.rgb), options.depth_unit, question),
            origin=origin,
            split=None if options.split == "auto" else options.split,
            group=str(groups.find(pair)),
            ability=f"spatial_{category}",
            notes=(("pair", pair),) if category in _PAIRED else (),
        )

    objects = record.get("objects") if isinstance(record, dict) else None
    if category == "grounding" and isinstance(objects, list) and objects:
        for position in range(len(objects)):
            yield attempt(partial(make, position), origin)
    else:
        yield attempt(make, origin)


def _question(category: str, item: Item) -> tuple[str, Truth]:
    if item.question is None or item.answer is None:
        raise SampleError("record", "question and answer are needed")
    if category == "counting":
        text = str(item.answer).strip()
        if not text.isdecimal():
            raise SampleError("answer", f"{text!r} is no whole number", "answer")
        return item.question, CountTruth(value=int(text))
    return item.question, VqaTruth(answers=[str(item.answer).strip()])


def _grounding(item: Item, position: int) -> tuple[str, Boxes]:
    described = item.objects[position]
    if len(described) != 1:
        raise SampleError("record", f"{len(described)} descriptions, one is needed", f"objects[{position}]")
    text, box = next(iter(described.items()))
    if len(box) != 4:
        raise SampleError("box", f"{box}: four numbers are needed", f"objects[{position}]")
    x1, y1, x2, y2 = box
    # Nothing but the numbers says whether they are pixels: boxes in parts of the image lie within 0 to 1
    fractions = all(0.0 <= value <= 1.0 for value in box)
    return f"Detect the object that this describes: {text}", Boxes(
        ((x1, y1, x2, y2),), ("object",), fractions=fractions
    )


def _depth_path(rgb: str) -> str:
    folder, _, name = rgb.rpartition("/")
    if not folder:
        raise SampleError("record", f"{rgb!r} has no folder, so its depth map is not known", "image")
    return f"{folder}_d/{name.rpartition('.')[0]}.png"


def rgb_and_depth(rgb: str, depth: str, unit: Literal["mm", "m", "sunrgbd"], question: str) -> tuple[SourceSample, ...]:
    """The two sources, each asked the same."""
    return (
        SourceSample("rgb", (ImageRef(rgb),), "Photograph", question),
        SourceSample("depth", (ImageRef(depth, kind="depth", unit=unit),), "Depth map", question),
    )


def _conversations(
    root: Root, options: SpatialBenchOptions, findings: Findings, layout: str
) -> Iterator[Sample | Reject]:
    for number, record in enumerate(json_records(root.need(options.file, layout))):
        origin = f"{options.file}, record {number}"
        sample_id = str(record.get("id", number)) if isinstance(record, dict) else str(number)

        def make(record: Fields = record, sample_id: str = sample_id, origin: str = origin) -> Sample:
            conversation = parsed(Conversation, record)
            images = conversation.images
            if len(images) != 2:
                raise SampleError("image_count", f"{len(images)} images, RGB and depth are needed", "image")
            asked, answer = conversation.question_and_answer(options.multi_turn)
            question = without_tags(asked)
            return Sample(
                sample_id=f"spatialqa-{sample_id}",
                task="vqa",
                question=question,
                truth=VqaTruth(answers=[answer]),
                sources=rgb_and_depth(images[0], images[1], options.depth_unit, question),
                origin=origin,
                group=images[0],
                ability="spatial_qa",
                data_source="spatialqa",
            )

        item = attempt(make, origin, sample_id)
        if isinstance(item, Sample) and _words(item) > options.max_answer_words:
            findings.counts[f"answers of more than {options.max_answer_words} words, left out"] += 1
            continue
        yield item


def _words(sample: Sample) -> int:
    return len(sample.truth.answers[0].split()) if isinstance(sample.truth, VqaTruth) else 0


CONVERTER = SpatialBench()
