"""The four evaluation files that the MARS authors publish (arXiv 2605.25437)."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from verl_mars.config import parsed
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
from verl_mars.tasks.mcq import McqTruth
from verl_mars.tasks.vqa import VqaTruth

from ._aligned import OFFICIAL_ALONE, visible_and_infrared
from .m4_instruct import NOT_THE_SAME, six_views, two_covers

FILES = {
    "llvip": "llvip_eval.json",
    "spatialqa": "spatialqa_eval.json",
    "nuscenes": "nuscenes_eval.json",
    "ocr_vqa": "OCR-VQA_eval.json",
}
_PREFIX = "data/images/"
_IMAGES = {"llvip": 2, "spatialqa": 2, "nuscenes": 6, "ocr_vqa": 2}
Text = Annotated[str, StringConstraints(max_length=100_000)]


class Part(BaseModel):
    """An image or the text of a question."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image", "text"]
    image: Text | None = None
    text: Text | None = None


class Item(BaseModel):
    """One row of a file."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user"]
    content: list[Part]
    ground_truth: Text | list[tuple[float, float, float, float]]
    extra_info: FieldDict = Field(default_factory=dict)


class MarsEvalOptions(Options):
    """Options of the converter."""

    files: str = Field(
        default="llvip,spatialqa,nuscenes,ocr_vqa", description="Which of the four, separated by commas."
    )
    folder: str = Field(default="", description="Folder of the JSON files under --root.")
    images: str = Field(default="", description="What replaces data/images/ in the published image paths.")
    rename: str = Field(
        default="", description="Folders by another name, as LLVIP:llvip,OCR-VQA:ocr; nothing else is looked for."
    )


class MarsEval(Converter):
    """One row an item, all in ``test``; the published wording is the default style."""

    name = "mars_eval"
    title = "MARS evaluation files (LLVIP, SpatialBench, nuScenes, OCR-VQA)"
    licence = "of each data set: see llvip, spatialbench, m4_instruct"
    url = "https://arxiv.org/abs/2605.25437"
    layout = (
        "  llvip_eval.json, spatialqa_eval.json, nuscenes_eval.json, OCR-VQA_eval.json\n"
        "  LLVIP/{visible,infrared}/test/NNNNNN.jpg\n  SpatialQA/{existence,reach}[_d]/NAME\n"
        "  nuscenes/full/images/N.jpg\n  OCR-VQA/full/images/N.jpg"
    )
    caveats = (
        "The published grounding prompt shows curly quotes; an answer that copies them is not JSON.",
        "SpatialBench's items come in pairs of which one is the negation of the other.",
    )
    default_style = "official"
    options = MarsEvalOptions

    def samples(self, root: Root, options: MarsEvalOptions, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        renamed = _renames(options.rename)
        wanted = [name.strip() for name in options.files.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in FILES]
        if unknown:
            raise DataError(f"--set files: {unknown[0]!r} is unknown, allowed: {', '.join(FILES)}")
        for subset in wanted:
            file = f"{options.folder}/{FILES[subset]}" if options.folder else FILES[subset]
            rows = never = 0
            for number, record in enumerate(json_records(root.need(file, self.layout))):
                origin = f"{file}, item {number}"
                item = attempt(partial(_sample, record, subset, number, origin, options.images, renamed), origin)
                if isinstance(item, Sample) and isinstance(item.truth, McqTruth):
                    rows += 1
                    never += item.truth.text != NOT_THE_SAME
                yield item
            if rows and rows == never:
                findings.add(
                    f"OCR-VQA: {NOT_THE_SAME!r} is right in none of {rows} items, so one cover alone gives the answer."
                )


def _sample(
    record: Fields, subset: str, number: int, origin: str, image_folder: str, renamed: dict[str, str]
) -> Sample:
    item = parsed(Item, record)
    images = [_place(part.image, image_folder, renamed) for part in item.content if part.type == "image"]
    text = " ".join(part.text or "" for part in item.content if part.type == "text").strip()
    if len(images) != _IMAGES[subset]:
        raise SampleError("image_count", f"{len(images)} images, {subset} has {_IMAGES[subset]}", "content")
    stem = images[0].rpartition("/")[2].rpartition(".")[0]
    shared: FieldDict = {
        "origin": origin,
        "split": "test",
        "group": f"{subset}-{stem}",
        "data_source": f"mars_{subset}",
        "text": text,
        "notes": tuple((key, str(value)) for key, value in sorted(item.extra_info.items())),
    }
    if subset in ("nuscenes", "ocr_vqa"):
        if not isinstance(item.ground_truth, str):
            raise SampleError("ground_truth", "a text is needed", "ground_truth")
        make = six_views if subset == "nuscenes" else two_covers
        shared["sample_id"] = f"{subset}-{item.extra_info.get('sample_id', number)}"
        return make(text, item.ground_truth, images, shared)
    shared["sample_id"] = f"{subset}-{stem}" if subset == "llvip" else f"{subset}-{number}"
    if subset == "llvip":
        if isinstance(item.ground_truth, str):
            raise SampleError("ground_truth", "a list of boxes is needed", "ground_truth")
        boxes = Boxes(tuple(item.ground_truth), ("person",) * len(item.ground_truth))
        visible, infrared = visible_and_infrared(images[0], images[1], OFFICIAL_ALONE)
        shared["ability"] = "grounding"
        return Sample(task="grounding", question=text, truth=boxes, sources=(visible, infrared), **shared)
    if not isinstance(item.ground_truth, str):
        raise SampleError("ground_truth", "a text is needed", "ground_truth")
    sources = (
        SourceSample("rgb", (ImageRef(images[0]),), "Photograph", text),
        SourceSample("depth", (ImageRef(images[1], kind="depth"),), "Depth map", text),
    )
    return Sample(task="vqa", question=text, truth=VqaTruth(answers=[item.ground_truth]), sources=sources, **shared)


def _place(published: str | None, image_folder: str, renamed: dict[str, str]) -> str:
    if not published:
        raise SampleError("record", "an image without a path", "content")
    path = published.removeprefix(_PREFIX)
    first, _, rest = path.partition("/")
    path = f"{renamed.get(first, first)}/{rest}"
    return f"{image_folder.rstrip('/')}/{path}" if image_folder else path


def _renames(text: str) -> dict[str, str]:
    entries = [entry for entry in text.split(",") if entry.strip()]
    for entry in entries:
        if entry.count(":") != 1:
            raise DataError(f"--set rename: {entry!r}, but PUBLISHED:YOURS is needed")
    return {old.strip(): new.strip() for old, new in (entry.split(":") for entry in entries)}


CONVERTER = MarsEval()
