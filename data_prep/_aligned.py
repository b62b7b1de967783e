"""What aligned visible and infrared sets with VOC boxes have in common."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from verl_mars.data.paths import Root
from verl_mars.data.sample import Boxes, ImageRef, Reject, SourceSample

QUESTIONS = (
    "Detect every {things} in the scene.",
    "Find each {things} in view and give its box.",
    "Where is each {things}? Give one box for each.",
    "Locate each {things} that can be seen.",
)
SAME_SCENE = "The images show the same scene at the same moment, pixel by pixel."
OFFICIAL = (
    "Here are two images of the same scene. Detect all person in the scene based on the two images and return their "
    "locations in the form of coordinates. The format of output should be like {“bbox_2d”: [x1, y1, x2, y2], "
    "“label”: “person”}."
)
OFFICIAL_ALONE = OFFICIAL.replace("Here are two images of the same scene", "Here is an image of a scene").replace(
    "based on the two images", "based on the image"
)


def pairs(root: Root, first: str, second: str) -> Iterator[tuple[str, str, str] | Reject]:
    """(stem, file of the first folder, file of the second) in the order of stems; a reject for each lonely file."""
    left, right = dict(root.images(first)), dict(root.images(second))
    for stem in sorted({*left, *right}):
        if stem in left and stem in right:
            yield stem, left[stem], right[stem]
        else:
            there, missing = (left[stem], second) if stem in left else (right[stem], first)
            yield Reject(there, "unpaired", f"{there} has no partner of the same name in {missing}", stem)


def question(stem: str, things: str) -> str:
    """One of the wordings, always the same for a stem."""
    number = hashlib.blake2b(stem.encode(errors="backslashreplace"), digest_size=2).digest()[0]
    return QUESTIONS[number % len(QUESTIONS)].format(things=things)


def visible_and_infrared(visible: str, infrared: str, asked: str) -> tuple[SourceSample, SourceSample]:
    """The two sources, each with its own question."""
    return (
        SourceSample("visible", (ImageRef(visible),), "Visible image", asked, text=OFFICIAL_ALONE),
        SourceSample("infrared", (ImageRef(infrared),), "Infrared image", asked, text=OFFICIAL_ALONE),
    )


def relabelled(boxes: Boxes, names: dict[str, str], path: Path) -> Boxes:
    """Boxes with the labels that prompts use.

    Raises:
        SampleError: a label that the data set does not have.
    """
    from verl_mars.errors import SampleError

    unknown = [label for label in boxes.labels if label not in names]
    if unknown:
        raise SampleError("annotation", f"{path}: label {unknown[0]!r} is unknown, allowed: {', '.join(names)}")
    return Boxes(boxes.boxes, tuple(names[label] for label in boxes.labels), boxes.frame, boxes.size)
