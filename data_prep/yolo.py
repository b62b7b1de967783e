"""YOLO boxes: a text file for each image, ``class cx cy width height`` in fractions of the image."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from verl_mars.data.box_forms import boxes_of
from verl_mars.data.paths import IMAGE_SUFFIXES, Root
from verl_mars.data.sample import Converter, Findings, Reject, Sample, attempt
from verl_mars.data_prep._detection import DetectionOptions, classes_of, detection_sample
from verl_mars.errors import DataError, SampleError

MAX_BYTES = 2**20


class YoloOptions(DetectionOptions):
    """Where images, labels and names are."""

    images: str = Field(default="images", description="Folder of the images; its subfolders are splits.")
    labels: str = Field(default="labels", description="Folder of the text files, with the same subfolders.")
    names: str = Field(default="", description="person,car by number; else data.yaml or classes.txt.")


class Yolo(Converter):
    """One row an image; an empty or missing text file means that nothing is to be seen."""

    name = "yolo"
    title = "boxes in YOLO's form, any number of aligned sources"
    licence = "that of the data"
    url = "https://docs.ultralytics.com/datasets/detect/"
    layout = "  images/train/1.jpg, labels/train/1.txt, ... and data.yaml (names) or classes.txt"
    options = YoloOptions

    def samples(self, root: Root, options: YoloOptions, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        names = _names(root, options)
        classes = classes_of(options, names)
        folder = root.need(options.images, self.layout)
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        for path in files:
            inside = path.relative_to(folder)
            split = inside.parts[0] if len(inside.parts) > 1 else None
            labels = Path(options.labels) / inside.with_suffix(".txt")
            image = str(Path(options.images) / inside)

            def make(image: str = image, labels: Path = labels, split: str | None = split) -> Sample:
                numbers, kinds = _boxes(Path(root.file(str(labels))), names, findings)
                boxes = boxes_of(numbers, kinds, "cxcywh", "fractions")
                return detection_sample(image, boxes, classes, options, findings, origin=str(labels), split=split)

            yield attempt(partial(make), str(labels), image)


def _names(root: Root, options: YoloOptions) -> list[str]:
    if options.names:
        return [name.strip() for name in options.names.split(",")]
    if root.has("data.yaml"):
        import yaml

        try:
            content = yaml.safe_load(Path(root.file("data.yaml")).read_text(encoding="utf-8"))
            names = content["names"]
            return [str(names[key]) for key in sorted(names)] if isinstance(names, dict) else [str(n) for n in names]
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise DataError(f"{root.path}/data.yaml has no list `names`: {error}") from error
    if root.has("classes.txt"):
        lines = Path(root.file("classes.txt")).read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()]
    raise DataError(f"{root.path} has no data.yaml and no classes.txt: --set names=person,car names the classes")


def _boxes(path: Path, names: list[str], findings: Findings) -> tuple[list[list[float]], list[str]]:
    """Boxes [cx, cy, w, h] and labels of a text file.

    Raises:
        SampleError: a line of another form, with its number.
    """
    if not path.exists():
        findings.counts["images without a text file, taken as empty"] += 1
        return [], []
    if path.stat().st_size > MAX_BYTES:
        raise SampleError("annotation", f"{path} is larger than {MAX_BYTES} bytes")
    boxes, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, *values = (float(part) for part in line.split())
        except ValueError as error:
            raise SampleError("annotation", f"{path}, line {number}: {line[:60]!r} is no row of numbers") from error
        if len(values) != 4:
            message = f"{path}, line {number}: {len(values)} numbers after the class, four are needed (cx cy w h)"
            raise SampleError("annotation", message + "; oriented boxes and polygons are not read")
        if not kind.is_integer() or not 0 <= kind < len(names):
            raise SampleError("annotation", f"{path}, line {number}: class {kind:g}, but there are {len(names)} names")
        boxes.append(values)
        labels.append(names[int(kind)])
    return boxes, labels


CONVERTER = Yolo()
