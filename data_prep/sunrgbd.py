"""SUN RGB-D: indoor RGB and depth from four sensors, with 2D boxes."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from verl_mars.data.paths import Root
from verl_mars.data.sample import Boxes, Converter, Findings, Options, Reject, Sample, attempt
from verl_mars.errors import DataError, SampleError
from verl_mars.fields import FieldDict, Fields

from .spatialbench import rgb_and_depth

CLASSES = "bed,table,sofa,chair,toilet,desk,dresser,night_stand,bookshelf,bathtub"
SENSORS = ("kv1", "kv2", "realsense", "xtion")
_MAX_MAT_BYTES = 2**30


class SunRgbdOptions(Options):
    """Options of the converter."""

    meta: str = Field(default="SUNRGBDMeta2DBB_v2.mat", description="The file of 2D boxes under --root.")
    split_file: str = Field(
        default="SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat", description="The official split under --root."
    )
    split: Literal["official", "hash"] = Field(default="official", description="official, or hash: by place.")
    classes: str = Field(default=CLASSES, description="Classes to detect, separated by commas.")
    keep_empty: bool = Field(default=False, description="Keep frames that show none of the classes.")


class SunRgbd(Converter):
    """One row a frame: RGB and the hole-filled depth (``depth_bfx``), which is registered to RGB."""

    name = "sunrgbd"
    title = "SUN RGB-D (RGB + depth, indoor objects)"
    licence = "research only; see the data set's page"
    url = "https://rgbd.cs.princeton.edu"
    layout = (
        "  SUNRGBD/<sensor>/.../{image/*.jpg,depth_bfx/*.png}\n  SUNRGBDMeta2DBB_v2.mat\n"
        "  SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    )
    caveats = (
        "SUN RGB-D: only large furniture is boxed throughout; smaller things of the same class may lack a box.",
        "SUN RGB-D: depth is cut at 8 m, as the data set's own toolbox does.",
    )
    draws = True
    options = SunRgbdOptions

    def samples(self, root: Root, options: SunRgbdOptions, findings: Findings) -> Iterator[Sample | Reject]:
        """See :class:`Converter`."""
        classes = [name.strip() for name in options.classes.split(",") if name.strip()]
        if not classes:
            raise DataError("--set classes: at least one class is needed")
        root.need("SUNRGBD", self.layout)
        frames = _structs(_load_mat(root.need(options.meta, self.layout), "SUNRGBDMeta2DBB"))
        splits = None
        if options.split == "official":
            splits = _official_split(root.need(options.split_file, self.layout))
        for number, frame in enumerate(frames):
            origin = f"{options.meta}, entry {number}"
            item = attempt(partial(_sample, root, frame, origin, classes, splits), origin)
            if isinstance(item, Sample) and isinstance(item.truth, Boxes) and not item.truth.boxes:
                findings.counts["frames that show none of the classes"] += 1
                if not options.keep_empty:
                    continue
            yield item


def _sample(root: Root, frame: FieldDict, origin: str, classes: list[str], splits: dict[str, str] | None) -> Sample:
    place = _place(str(_field(frame, "sequenceName")))
    folder = f"SUNRGBD/{place}"
    rgb = f"{folder}/image/{_field(frame, 'rgbname')}"
    split = None
    if splits is not None:
        if place not in splits:
            raise SampleError("annotation", f"{place} is in neither half of the official split")
        split = splits[place]
    boxes, labels = _boxes(frame, classes)
    things = ", ".join(name.replace("_", " ") for name in classes)
    question = f"Detect every object of these kinds: {things}."
    return Sample(
        sample_id=place,
        task="grounding",
        question=question,
        truth=Boxes(boxes, labels, clip=True),
        sources=rgb_and_depth(rgb, _depth_file(root, folder), "sunrgbd", question),
        origin=origin,
        split=split,
        group=place.rpartition("/")[0],
        ability="grounding",
    )


def _boxes(frame: Fields, classes: list[str]) -> tuple[tuple[tuple[float, float, float, float], ...], tuple[str, ...]]:
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[str] = []
    for item in _structs(frame.get("groundtruth2DBB")):
        name = str(_field(item, "classname"))
        if name not in classes:
            continue
        values = [float(value) for value in _field(item, "gtBb2D")]
        if len(values) != 4:
            raise SampleError("box", f"{values}: x, y, width, height are needed")
        x, y, width, height = values
        boxes.append((x, y, x + width, y + height))
        labels.append(name.replace("_", " "))
    return tuple(boxes), tuple(labels)


def _depth_file(root: Root, folder: str) -> str:
    path = root.file(f"{folder}/depth_bfx")
    names = sorted(name for name in os.listdir(path) if name.endswith(".png")) if os.path.isdir(path) else []
    if len(names) != 1:
        raise SampleError("unpaired", f"{folder}/depth_bfx has {len(names)} depth maps, one is needed")
    return f"{folder}/depth_bfx/{names[0]}"


def _place(sequence: str) -> str:
    """``kv1/NYUdata/NYU0001`` from whatever path it stands in on the authors' machine."""
    parts = sequence.replace("\\", "/").strip("/").split("/")
    for position, part in enumerate(parts):
        if part in SENSORS:
            return "/".join(parts[position:])
    raise SampleError("annotation", f"sequenceName {sequence!r} names none of the sensors {', '.join(SENSORS)}")


def _official_split(path: Path) -> dict[str, str]:
    splits = {}
    for key, split in (("alltrain", "train"), ("alltest", "test")):
        for sequence in _load_mat(path, key):
            splits[_place(str(sequence))] = split
    return splits


def _load_mat(path: Path, key: str) -> Any:
    """A variable of a MATLAB file, structs as dicts.

    Raises:
        DataError: too large, not a MATLAB file of version 7 or below, or no such variable.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if path.stat().st_size > _MAX_MAT_BYTES:
        raise DataError(f"{path} is larger than {_MAX_MAT_BYTES} bytes")
    try:
        content = loadmat(path, variable_names=[key], simplify_cells=True)
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if key not in content:
        raise DataError(f"{path} has no variable {key}")
    value = content[key]
    return [value] if isinstance(value, dict | str) else value


def _structs(value: FieldDict | Iterable[object] | None) -> list[FieldDict]:
    """A MATLAB struct array, which is a dict where it has one element and an empty array where it has none."""
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if value is not None else []


def _field(item: object, name: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        raise SampleError("annotation", f"no {name} in the entry")
    return item[name]


CONVERTER = SunRgbd()
