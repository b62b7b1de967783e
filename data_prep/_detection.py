"""Boxes of detection data sets as samples: one row an image, the same frame in any number of sources."""

from collections.abc import Sequence

from pydantic import Field

from verl_mars.data.sample import Boxes, Findings, ImageRef, Options, Sample, SourceSample
from verl_mars.errors import SampleError, UsageError

TEMPLATE = "NAME=FOLDER/{stem}.jpg; {file} and {stem} stand for the annotated image"


class DetectionOptions(Options):
    """Options of every converter of boxes."""

    sources: str = Field(default="", description=f"{TEMPLATE}. The first is the one that the boxes were drawn on.")
    classes: str = Field(default="", description="Only these, as person,car; by default all.")
    data_source: str = Field(default="", description="Name of the data set; by default the converter's.")


def classes_of(options: DetectionOptions, names: Sequence[str]) -> list[str]:
    """The classes that are asked about.

    Raises:
        UsageError: one that the data set does not have.
    """
    wanted = [name.strip() for name in options.classes.split(",") if name.strip()] or list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UsageError(f"--set classes: {unknown[0]!r} is unknown, allowed: {', '.join(names)}")
    return wanted


def detection_sample(
    file: str,
    boxes: Boxes,
    classes: Sequence[str],
    options: DetectionOptions,
    findings: Findings,
    *,
    origin: str,
    split: str | None = None,
) -> Sample:
    """The sample of one annotated image; boxes of other classes are left out and counted.

    Raises:
        SampleError: a template without a name.
    """
    pairs = [pair for pair in zip(boxes.boxes, boxes.labels, strict=True) if pair[1] in classes]
    findings.counts["boxes of other classes, left out"] += len(boxes.boxes) - len(pairs)
    findings.counts["images without a box"] += not pairs
    things = classes[0] if len(classes) == 1 else f"{', '.join(classes[:-1])} and {classes[-1]}"
    return Sample(
        sample_id=file,
        task="grounding",
        question=f"Detect every {things} in the scene.",
        truth=Boxes(
            tuple(box for box, _ in pairs),
            tuple(label for _, label in pairs),
            0,
            boxes.size,
            boxes.fractions,
            clip=True,
        ),
        sources=_sources(file, options.sources),
        origin=origin,
        split=split,
        ability="grounding",
        data_source=options.data_source or None,
    )


def _sources(file: str, spec: str) -> tuple[SourceSample, ...]:
    if not spec.strip():
        return (SourceSample("image", (ImageRef(file),)),)
    stem = file.rpartition("/")[2].rpartition(".")[0]
    sources = []
    for item in spec.split():
        name, _, template = item.partition("=")
        if not (name and template):
            raise SampleError("source_images", f"{item!r}, but {TEMPLATE} is needed", "--sources")
        path = template.replace("{stem}", stem).replace("{file}", file)
        sources.append(SourceSample(name, (ImageRef(path),)))
    return tuple(sources)
