"""Contact sheets: what the policy will be shown, to be looked at by people before a GPU is."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from verl_mars.data.faults import DataError, SampleError
from verl_mars.data.images import encoded_bytes, read_header
from verl_mars.data.lettering import font, length, own_font, shortened, unknown_letters, wrapped
from verl_mars.data.readers import as_files, row_batches
from verl_mars.errors import UsageError

WIDTH = 1680
MARGIN = 24
GAP = 12
CELL_HEIGHT = 300
LARGE_CELL_HEIGHT = 560
"""Where a row has one or two images."""
MAX_CELL_WIDTH = 800
LINE = 21
NAME_WIDTH = 180
TEXT_LEFT = MARGIN + NAME_WIDTH + 10
TEXT_WIDTH = WIDTH - MARGIN - TEXT_LEFT
MAX_TEXT_LINES = 24
TEXT_GAP = 7
INK, SOFT, RULE, PAPER = (28, 28, 30), (110, 110, 116), (222, 222, 226), (255, 255, 255)
BOX_COLOURS = ((0, 220, 120), (255, 176, 0), (0, 176, 255), (255, 80, 160), (180, 120, 255), (255, 255, 0))
FAULT = (196, 30, 30)


@dataclass(frozen=True)
class Placed:
    """A row and where it stands."""

    file: str
    number: int
    row: Mapping[str, Any]


def pick_rows(files: Sequence[str], count: int) -> list[Placed]:
    """Rows at equal distances over all files, so that every file and every part of it is seen.

    Raises:
        DataError: the files cannot be read or have no rows.
    """
    listed = as_files(files)
    total = sum(len(batch) for file in listed for batch in row_batches(file, ["data_source"]))
    if total == 0:
        raise DataError("the files have no rows to show")
    wanted = {total * step // min(count, total) for step in range(min(count, total))}
    picked = []
    position = 0
    for file in listed:
        start = position
        for batch in row_batches(file):
            for row in batch:
                if position in wanted:
                    picked.append(Placed(file, position - start, row))
                position += 1
    return picked


def write_sheets(
    files: Sequence[str], out: Path, *, rows: int = 24, per_sheet: int = 4, font_file: str | None = None
) -> list[Path]:
    """Draw rows of data files as ``sheet-000.png``, ...: all sources with boxes, question, ground truth, mono prompts.

    Args:
        files: as verl's ``data.train_files``.
        out: a folder; made if it is not there.
        rows: how many rows, at equal distances.
        per_sheet: rows on one sheet.
        font_file: a font with the letters of the rows' language, where DejaVu Sans has none.

    Returns:
        The sheets.

    Raises:
        DataError: the files cannot be read or have no rows that could be drawn.
    """
    picked = pick_rows(files, rows)
    if not any(placed.row.get("prompt") or placed.row.get("images") for placed in picked):
        found = ", ".join(picked[0].row) or "none"
        raise DataError(f"{picked[0].file} has no column prompt or images, its columns are: {found}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}") from error
    with own_font(font_file):
        return list(_sheets(picked, out, per_sheet))


def _sheets(picked: Sequence[Placed], out: Path, per_sheet: int) -> Iterator[Path]:
    for first in range(0, len(picked), per_sheet):
        drawn = [draw_row(placed) for placed in picked[first : first + per_sheet]]
        sheet = Image.new("RGB", (WIDTH, sum(image.height for image in drawn)), PAPER)
        top = 0
        for image in drawn:
            sheet.paste(image, (0, top))
            top += image.height
        path = out / f"sheet-{first // per_sheet:03d}.png"
        sheet.save(path)
        yield path


def draw_row(placed: Placed) -> Image.Image:
    """One row: a headline, its sources side by side, and the texts."""
    row = placed.row
    extra = _mapping(row.get("extra_info"))
    cells = list(_cells(row))
    lines = list(_lines(row))
    strips = _strips(cells)
    height = MARGIN + 2 * LINE + sum(max(cell.height for cell in strip) + GAP for strip in strips)
    height += sum(LINE * len(text) + TEXT_GAP for _, text in lines) + 2 * MARGIN
    canvas = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    title = f"{row.get('data_source')}  ·  {extra.get('sample_id', '?')}"
    where = f"{Path(placed.file).name}, row {placed.number}  ·  {extra.get('split')}  ·  {extra.get('task')}"
    where = shortened(where, WIDTH // 2, 15)
    title = shortened(title, WIDTH - 2 * MARGIN - 24 - length(where, 15), 18, bold=True)
    draw.text((MARGIN, MARGIN), title, INK, font(18, bold=True))
    draw.text((MARGIN + length(title, 18, bold=True) + 24, MARGIN + 2), where, SOFT, font(15))
    top = MARGIN + 2 * LINE
    for strip in strips:
        left = MARGIN
        for cell in strip:
            canvas.paste(cell, (left, top))
            left += cell.width + GAP
        top += max(cell.height for cell in strip) + GAP
    for name, text in lines:
        draw.text((MARGIN, top), shortened(name, NAME_WIDTH, 14, bold=True), SOFT, font(14, bold=True))
        for line in text:
            draw.text((TEXT_LEFT, top), line, INK, font(15))
            top += LINE
        top += TEXT_GAP
    draw.line((MARGIN, height - MARGIN // 2, WIDTH - MARGIN, height - MARGIN // 2), RULE, 2)
    return canvas


def _cells(row: Mapping[str, Any]) -> Iterator[Image.Image]:
    images = row.get("images") or []
    sources = [source for source in row.get("sources") or [] if isinstance(source, Mapping)]
    names = [
        [str(s.get("name")) for s in sources if position in (s.get("images") or [])] for position in range(len(images))
    ]
    fused = _boxes(_mapping(row.get("reward_model")).get("ground_truth"))
    own = [_boxes(source.get("ground_truth")) for source in sources]
    height = LARGE_CELL_HEIGHT if len(images) <= 2 else CELL_HEIGHT
    for position, image in enumerate(images):
        caption = " + ".join(names[position]) or "no source"
        truth = next((boxes for boxes in own if boxes is not None and boxes.frame == position), None)
        if truth is None and fused is not None:
            truth = fused
        try:
            picture = _open(image)
        except SampleError as error:
            yield _broken(caption, str(error))
            continue
        yield _cell(picture, f"{position}  {caption}", truth, position, height)


@dataclass(frozen=True)
class _Boxes:
    boxes: list[list[float]]
    labels: list[str]
    frame: int
    size: tuple[int, int]


def _cell(picture: Image.Image, caption: str, truth: _Boxes | None, position: int, height: int) -> Image.Image:
    factor = min(height / picture.height, MAX_CELL_WIDTH / picture.width)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    enlarged = factor > 1
    shown = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
    aligned = truth is not None and truth.size == picture.size
    if truth is not None and (truth.frame == position or aligned):
        _draw_boxes(shown, truth, factor, thin=truth.frame != position)
        if truth.frame != position:
            caption += f"  (boxes of image {truth.frame})"
    note = f"{picture.width} x {picture.height}"
    if truth is not None and truth.frame == position:
        note += "  ·  " + (", ".join(f"{count} {name}" for name, count in Counter(truth.labels).items()) or "no box")
    note = shortened(note, MAX_CELL_WIDTH // 2, 13)
    caption = shortened(caption, MAX_CELL_WIDTH - 10 - length(note, 13), 14, bold=True)
    start = length(caption, 14, bold=True) + 10
    cell = Image.new("RGB", (max(shown.width, ceil(start + length(note, 13))), shown.height + LINE + 4), PAPER)
    draw = ImageDraw.Draw(cell)
    draw.text((0, 0), caption, INK, font(14, bold=True))
    draw.text((start, 0), note, SOFT, font(13))
    cell.paste(shown, (0, LINE + 2))
    return cell


def _draw_boxes(shown: Image.Image, truth: _Boxes, factor: float, *, thin: bool) -> None:
    draw = ImageDraw.Draw(shown)
    kinds = sorted(set(truth.labels))
    colours = [BOX_COLOURS[kinds.index(label) % len(BOX_COLOURS)] for label in truth.labels]
    corners = [tuple(value * factor for value in box) for box in truth.boxes]
    for (x1, y1, x2, y2), colour in zip(corners, colours, strict=True):
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=1 if thin else 3)
    if thin:
        return
    taken: list[tuple[float, float, float]] = []
    for (x1, y1, _, _), label, colour in zip(corners, truth.labels, colours, strict=True):
        width = length(label, 12, bold=True) + 6
        top = y1 - 15 if y1 >= 15 else y1
        left = max(0.0, min(x1, shown.width - width))
        if any(left < end and start < left + width and abs(top - y) < 15 for start, y, end in taken):
            continue  # in a crowd labels would hide each other; the caption counts them
        taken.append((left, top, left + width))
        draw.rectangle((left, top, left + width, top + 15), fill=colour)
        draw.text((left + 3, top), label, (0, 0, 0), font(12, bold=True))


def _broken(caption: str, message: str) -> Image.Image:
    cell = Image.new("RGB", (520, CELL_HEIGHT // 2), (252, 240, 240))
    draw = ImageDraw.Draw(cell)
    draw.text((8, 4), shortened(caption, 504, 14, bold=True), INK, font(14, bold=True))
    draw.multiline_text((8, 32), "\n".join(wrapped(message, 504, 13)[:5]), FAULT, font(13))
    return cell


def _strips(cells: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Cells in lines as wide as the sheet."""
    strips: list[list[Image.Image]] = []
    used = WIDTH
    for cell in cells:
        if used + GAP + cell.width > WIDTH - 2 * MARGIN:
            strips.append([])
            used = 0
        strips[-1].append(cell)
        used += cell.width + GAP
    return strips


def _lines(row: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for message in row.get("prompt") or []:
        if isinstance(message, Mapping):
            yield f"{message.get('role')}", _wrapped(str(message.get("content")))
    reward, sources = row.get("reward_model"), row.get("sources") or []
    yield "ground truth", _wrapped(str(_mapping(reward).get("ground_truth")))
    for source in sources:
        if isinstance(source, Mapping):
            name = str(source.get("name"))
            prompt = source.get("prompt")
            yield f"alone: {name}", _wrapped("(the fused text)" if prompt is None else str(prompt))
            if source.get("ground_truth") is not None:
                yield f"truth: {name}", _wrapped(str(source["ground_truth"]))
    notes = _mapping(row.get("extra_info")).get("notes")
    if notes:
        yield "notes", _wrapped(str(notes))
    unknown = unknown_letters(json.dumps([row.get("prompt"), sources, reward], ensure_ascii=False, default=str))
    if unknown:
        yield (
            "font",
            _wrapped(f"lacks {len(unknown)} characters of this row, which show as boxes: name another, --font"),
        )


def _wrapped(text: str) -> list[str]:
    lines = wrapped(text, TEXT_WIDTH, 15)
    if len(lines) > MAX_TEXT_LINES:
        left = len(lines) - MAX_TEXT_LINES + 1
        lines = [*lines[: MAX_TEXT_LINES - 1], f"... {left} more lines"]
    return lines


def _boxes(text: Any) -> _Boxes | None:
    """Boxes of a ground truth; ``None`` where it has none, or none that can be drawn."""
    try:
        truth = json.loads(text)
        boxes = [[float(value) for value in box] for box in truth["boxes"]]
        labels = [str(label) for label in truth["labels"]]
        if len(labels) != len(boxes) or any(len(box) != 4 for box in boxes):
            return None
        return _Boxes(boxes, labels, int(truth["frame"]), (int(truth["size"][0]), int(truth["size"][1])))
    except (TypeError, ValueError, KeyError, IndexError):
        return None


def _open(image: Any) -> Image.Image:
    """The image as it is stored, ready to be drawn.

    Raises:
        SampleError: it cannot be shown.
    """
    source: Any = image.get("bytes") or image.get("image") if isinstance(image, Mapping) else image
    if isinstance(source, str) and source.startswith("data:image"):
        source = encoded_bytes(source)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise SampleError("missing_image", f"{source} was not fetched")
    if not isinstance(source, str | bytes):
        raise SampleError("images_type", f"{type(source).__name__} is no image")
    if isinstance(source, str):
        source = source.removeprefix("file://")
    read_header(source, decode=True)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        return opened.convert("RGB")  # as verl does, so that an image which it turns white is white here too


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
