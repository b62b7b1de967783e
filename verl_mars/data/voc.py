"""Boxes from Pascal VOC annotations, as labelImg and its kin write them."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from verl_mars.data.sample import Boxes
from verl_mars.errors import SampleError

MAX_XML_BYTES = 4 * 2**20
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class VocFile:
    """One annotation file."""

    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[str, ...]
    size: tuple[int, int] | None

    def as_boxes(self, frame: int = 0) -> Boxes:
        """As a grounding truth about image ``frame``."""
        return Boxes(self.boxes, self.labels, frame, self.size)


def read_voc(path: Path) -> VocFile:
    """The objects of a VOC file.

    Coordinates are kept as they are: labelImg writes the corners' positions and only lifts a 0 to 1, so nothing is to
    be subtracted; the authors of MARS take them so too.

    Raises:
        SampleError: missing, larger than 4 MB, broken or dangerous XML, a missing or non-numeric coordinate, a box
            without area.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise SampleError("annotation", f"{path} is larger than {MAX_XML_BYTES} bytes")
        root = fromstring(path.read_bytes())
    except FileNotFoundError as error:
        raise SampleError("unpaired", f"{path} does not exist") from error
    except OSError as error:
        raise SampleError("annotation", f"{path} cannot be read: {error.strerror}") from error
    except ParseError as error:
        raise SampleError("annotation", f"{path} is broken XML: {error}") from error
    except DefusedXmlException as error:
        raise SampleError("annotation", f"{path} has an entity or a DTD, which is not read: {error}") from error
    objects = root.findall("object")
    boxes = tuple(_box(item, number, path) for number, item in enumerate(objects))
    labels = tuple(_text(item, "name", f"object {number}", path) for number, item in enumerate(objects))
    return VocFile(boxes, labels, _size(root, path))


def _box(item: Element, number: int, path: Path) -> tuple[float, float, float, float]:
    corners = item.find("bndbox")
    if corners is None:
        raise SampleError("annotation", f"{path}, object {number}: no <bndbox>")
    x1, y1, x2, y2 = (_number(corners, side, f"object {number}", path) for side in _SIDES)
    if x1 == x2 or y1 == y2:
        raise SampleError("zero_area", f"{path}, object {number}: box {[x1, y1, x2, y2]} has no area")
    return x1, y1, x2, y2


def _size(root: Element, path: Path) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    width, height = (int(_number(size, side, "<size>", path)) for side in ("width", "height"))
    return (width, height) if width > 0 and height > 0 else None  # some tools write 0 x 0 for unknown


def _text(parent: Element, tag: str, where: str, path: Path) -> str:
    value = (parent.findtext(tag) or "").strip()
    if not value:
        raise SampleError("annotation", f"{path}, {where}: no <{tag}>")
    return value


def _number(parent: Element, tag: str, where: str, path: Path) -> float:
    text = _text(parent, tag, where, path)
    try:
        return float(text)
    except ValueError as error:
        raise SampleError("annotation", f"{path}, {where}: <{tag}> is {text!r}, a number is needed") from error
