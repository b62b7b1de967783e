"""COCO boxes: one JSON file with ``images``, ``annotations`` and ``categories``; boxes are [x, y, width, height]."""

import json
from collections.abc import Iterator
from functools import partial

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verl_mars.config import faults
from verl_mars.data.box_forms import boxes_of
from verl_mars.data.paths import Root
from verl_mars.data.readers import refuse_other_kinds
from verl_mars.data.sample import Converter, Findings, Reject, Sample, attempt
from verl_mars.data_prep._detection import DetectionOptions, classes_of, detection_sample
from verl_mars.errors import DataError, SampleError

MAX_BYTES = 2 * 2**30


class Picture(BaseModel):
    """An entry of ``images``."""

    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class Category(BaseModel):
    """An entry of ``categories``."""

    id: int
    name: str


class Annotation(BaseModel):
    """An entry of ``annotations``."""

    image_id: int | str
    category_id: int
    bbox: list[float] = Field(default_factory=list)
    iscrowd: int = 0


class CocoFile(BaseModel):
    """The parts of a COCO file that are read."""

    model_config = ConfigDict(extra="ignore")

    images: list[Picture]
    annotations: list[Annotation]
    categories: list[Category]


class CocoOptions(DetectionOptions):
    """Where the file and the images are."""

    file: str = Field(default="annotations.json", description="The COCO file under --root.")
    folder: str = Field(default="images", description="Folder of the images that `file_name` names.")


class Coco(Converter):
    """One row an image; images without a box ask for an empty list."""

    name = "coco"
    title = "boxes in COCO's form, any number of aligned sources"
    licence = "that of the data"
    url = "https://cocodataset.org/#format-data"
    layout = "  annotations.json (--set file=...), images/ (--set folder=...); further sources by --sources"
    options = CocoOptions

    def samples(self, root: Root, options: CocoOptions, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        coco = _read(root, options, self.layout)
        names = {category.id: category.name for category in coco.categories}
        classes = classes_of(options, list(names.values()))
        boxes: dict[int | str, list[Annotation]] = {}
        for annotation in coco.annotations:
            if annotation.iscrowd:
                findings.counts["annotations of crowds, left out"] += 1
            else:
                boxes.setdefault(annotation.image_id, []).append(annotation)
        for picture in coco.images:
            origin = f"{options.file}, image {picture.id}"
            make = partial(_sample, picture, boxes.pop(picture.id, []), names, classes, options, findings, origin)
            yield attempt(make, origin, picture.file_name)
        for image in boxes:
            origin = f"{options.file}, annotations of image {image}"
            yield Reject(origin, "annotation", f"image {image!r} is not in `images`")


def _read(root: Root, options: CocoOptions, layout: str) -> CocoFile:
    path = root.need(options.file, layout)
    refuse_other_kinds(path)
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        return CocoFile.model_validate(json.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        raise DataError(f"{path} is no COCO file: {faults(error, CocoFile)[0].sentence}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is broken JSON: {error}") from error


def _sample(
    picture: Picture,
    annotations: list[Annotation],
    names: dict[int, str],
    classes: list[str],
    options: CocoOptions,
    findings: Findings,
    origin: str,
) -> Sample:
    unknown = next((a.category_id for a in annotations if a.category_id not in names), None)
    if unknown is not None:
        raise SampleError("annotation", f"category {unknown} is not in `categories`", "category_id")
    size = (picture.width, picture.height) if picture.width and picture.height else None
    labels = [names[annotation.category_id] for annotation in annotations]
    boxes = boxes_of([annotation.bbox for annotation in annotations], labels, "xywh", size=size)
    file = f"{options.folder}/{picture.file_name}".lstrip("/")
    return detection_sample(file, boxes, classes, options, findings, origin=origin)


CONVERTER = Coco()
