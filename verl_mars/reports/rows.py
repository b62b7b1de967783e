"""``verl-mars data show``: rows as the policy will see them, for people to look at before a GPU does."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from verl_mars.data.images import encoded_bytes
from verl_mars.data.readers import as_files, row_batches
from verl_mars.errors import DataError, SampleError
from verl_mars.fields import FieldDict, Fields
from verl_mars.reports.page import Picture, picture, write_page

SIDE, LARGE_SIDE = 360, 560
"""Longest side of an image on the page; large where a row has one or two."""


def write_rows_page(files: Sequence[str], path: Path, rows: int = 24) -> Path:
    """Write rows of data files as an HTML page: sources with boxes, question, ground truth, mono prompts.

    Args:
        files: as verl's ``data.train_files``.
        path: the page.
        rows: how many rows, at equal distances over all files.

    Raises:
        DataError: the files cannot be read, or have no rows that could be shown.
    """
    total, picked = pick_rows(files, rows)
    if not any(row.get("prompt") or row.get("images") for _, _, row in picked):
        file, _, row = picked[0]
        raise DataError(f"{file} has no column prompt or images, its columns are: {', '.join(row) or 'none'}")
    shown = [row_values(file, number, row) for file, number, row in picked]
    return write_page(path, "rows.html", title="Rows", rows=shown, total=total)


def pick_rows(files: Sequence[str], count: int) -> tuple[int, list[tuple[str, int, FieldDict]]]:
    """The number of all rows, and (file, position in it, row) at equal distances over all files.

    Raises:
        DataError: the files cannot be read or have no rows.
    """
    listed = as_files(files)
    total = sum(len(batch) for file in listed for batch in row_batches(file, ["data_source"]))
    if total == 0:
        raise DataError("the files have no rows to show")
    wanted = {total * step // min(count, total) for step in range(min(count, total))}
    picked, position = [], 0
    for file in listed:
        start = position
        for batch in row_batches(file):
            for row in batch:
                if position in wanted:
                    picked.append((file, position - start, row))
                position += 1
    return total, picked


def row_values(file: str, number: int, row: Fields) -> FieldDict:
    """The template's values of one row."""
    extra = _mapping(row.get("extra_info"))
    side = LARGE_SIDE if len(row.get("images") or []) <= 2 else SIDE
    return {
        "name": f"{row.get('data_source')} \u00b7 {extra.get('sample_id', '?')}",
        "place": f"{Path(file).name}, row {number} \u00b7 {extra.get('split')} \u00b7 {extra.get('task')}",
        "side": side,
        "cells": list(_cells(row, side)),
        "texts": list(_texts(row)),
    }


def _cells(row: Fields, side: int) -> Iterator[FieldDict]:
    """Each image with its sources' names and with the boxes that lie on it."""
    sources = [source for source in row.get("sources") or [] if isinstance(source, Mapping)]
    fused = _boxes(_mapping(row.get("reward_model")).get("ground_truth"))
    own = [_boxes(source.get("ground_truth")) for source in sources]
    for position, image in enumerate(row.get("images") or []):
        names = [str(source.get("name")) for source in sources if position in (source.get("images") or [])]
        caption = f"{position} {' + '.join(names) or 'no source'}"
        truth = next((boxes for boxes in own if boxes is not None and boxes["frame"] == position), fused)
        try:
            shown = _picture(image, side)
        except SampleError as error:
            yield {"caption": caption, "note": "", "picture": None, "fault": str(error)}
            continue
        size = [shown.width, shown.height]
        on_it = truth is not None and truth["frame"] == position
        aligned = truth is not None and truth["size"] == size
        note = f"{shown.width} x {shown.height}"
        if truth is not None and (on_it or aligned):
            labels: Counter[str] = Counter(truth["labels"])
            counts = ", ".join(f"{count} {name}" for name, count in labels.items())
            note += f" \u00b7 {counts or 'no box'}" if on_it else f" \u00b7 boxes of image {truth['frame']}"
        boxes = _hued(truth) if truth is not None and (on_it or aligned) else []
        yield {"caption": caption, "note": note, "picture": shown, "boxes": boxes, "thin": not on_it}


def _hued(truth: Fields) -> list[FieldDict]:
    kinds = sorted(set(truth["labels"]))
    pairs = zip(truth["boxes"], truth["labels"], strict=True)
    return [{"corners": corners, "label": label, "hue": kinds.index(label)} for corners, label in pairs]


def _texts(row: Fields) -> Iterator[tuple[str, str]]:
    for message in row.get("prompt") or []:
        if isinstance(message, Mapping):
            yield str(message.get("role")), str(message.get("content"))
    yield "ground truth", str(_mapping(row.get("reward_model")).get("ground_truth"))
    for source in row.get("sources") or []:
        if isinstance(source, Mapping):
            prompt = source.get("prompt")
            yield f"{source.get('name')} alone", "(the fused text)" if prompt is None else str(prompt)
            if source.get("ground_truth") is not None:
                yield f"truth of {source.get('name')}", str(source["ground_truth"])
    notes = _mapping(row.get("extra_info")).get("notes")
    if notes:
        yield "notes", str(notes)


def _boxes(text: str | None) -> FieldDict | None:
    """Boxes of a ground truth; ``None`` where it has none, or none that can be drawn."""
    if text is None:
        return None
    try:
        truth = json.loads(text)
        boxes = [[float(value) for value in box] for box in truth["boxes"]]
        labels = [str(label) for label in truth["labels"]]
        if len(labels) != len(boxes) or any(len(box) != 4 for box in boxes):
            return None
        return {"boxes": boxes, "labels": labels, "frame": int(truth["frame"]), "size": list(map(int, truth["size"]))}
    except (TypeError, ValueError, KeyError, IndexError):
        return None


def _picture(image: object, side: int) -> Picture:
    """The image of a row's entry as it is stored.

    Raises:
        SampleError: it cannot be shown.
    """
    source: object = image.get("bytes") or image.get("image") if isinstance(image, Mapping) else image
    if isinstance(source, str) and source.startswith("data:image"):
        source = encoded_bytes(source)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise SampleError("missing_image", f"{source} was not fetched")
    if not isinstance(source, str | bytes):
        raise SampleError("images_type", f"{type(source).__name__} is no image")
    return picture(source.removeprefix("file://") if isinstance(source, str) else source, side)


def _mapping(value: object) -> Fields:
    return value if isinstance(value, Mapping) else {}
