"""Responses with each token shaded by how much it depends on the images, beside the images: a page and a picture.

Reads verl's dumps of training responses (``trainer.rollout_data_dir``) of runs with ``adv_estimator`` ``pgpo`` or
``vogue``. A shade is relative to the largest value of its own response, as PGPO's weights are: log(1 + value) over the
largest of them.
"""

import base64
import io
import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from verl_mars.data.faults import SampleError
from verl_mars.data.images import read_header

VALUES = ("dependency", "uncertainty", "weight")
"""What a token can be shaded by; the first that a dump has, unless another is asked for."""

LONGEST_LINE = 64 * 2**20
"""Bytes of one dumped response."""

MOST_PROMPTS = 10_000
"""Prompts whose responses are read, for the medians."""

THUMBNAIL = 320
"""Longest side of an image as shown, in pixels."""

_SHADE = (214, 69, 65)

_TAG = re.compile(r"</?\w+>|<\|\w+\|>")
"""What a response has of its template: <think>, </answer>, <|im_end|>."""


@dataclass(frozen=True)
class ShadedResponse:
    """One dumped response."""

    line: int
    prompt: str
    score: float
    images: tuple[str | None, ...]
    tokens: tuple[str, ...]
    values: tuple[float | None, ...]
    """None on tokens that the policy did not sample."""

    @property
    def shades(self) -> list[float]:
        """0 to 1, per token."""
        logs = [0.0 if value is None else math.log1p(max(value, 0.0)) for value in self.values]
        most = max(logs, default=0.0)
        return [log / most if most > 0 else 0.0 for log in logs]

    @property
    def of_template(self) -> list[bool]:
        """Whether a token is part of a tag, whole or cut into several tokens."""
        text = "".join(self.tokens)
        inside = {place for tag in _TAG.finditer(text) for place in range(*tag.span())}
        starts = [0]
        for token in self.tokens:
            starts.append(starts[-1] + len(token))
        return [start in inside for start in starts[:-1]]


def medians(responses: Iterable[ShadedResponse]) -> tuple[float, float]:
    """The median value of the sampled tokens that are words, and of those of the template; NaN where there is none."""
    values: dict[bool, list[float]] = {False: [], True: []}
    for response in responses:
        for value, of_template in zip(response.values, response.of_template, strict=True):
            if value is not None:
                values[of_template].append(value)
    words, template = (statistics.median(found) if found else math.nan for found in (values[False], values[True]))
    return words, template


def read_responses(dump: Path, count: int, value: str | None = None) -> tuple[str, list[ShadedResponse]]:
    """The first response to each of the first ``count`` prompts of a dump, and the name of the value that shades them.

    Raises:
        ValueError: no such file, a line that is no dumped response, or one without per-token values (named by line).
    """
    if value is not None and value not in VALUES:
        raise ValueError(f"--value {value}: allowed are {', '.join(VALUES)}")
    found: list[ShadedResponse] = []
    prompts: set[str] = set()
    for number, entry in _entries(dump):
        if len(found) == count:
            break
        prompt = str(entry.get("uid", f"line {number}")).rsplit("_", 2)[0]  # verl's {prompt}_{session}_{output}
        if prompt in prompts:
            continue
        prompts.add(prompt)
        name = value or next((name for name in VALUES if name in entry), VALUES[0])
        if "tokens" not in entry or name not in entry:
            there = [known for known in VALUES if known in entry]
            raise ValueError(
                f"{dump}, line {number}: no {name} for each token (there: {', '.join(there) or 'none'}). Dumps of "
                "adv_estimator=pgpo have `dependency` and `weight`, of vogue `uncertainty`; trainer.rollout_data_dir "
                "says where verl writes them"
            )
        value = name
        found.append(_response(dump, number, entry, name))
    if not found:
        raise ValueError(f"{dump}: no response in it")
    return str(value), found


def _entries(dump: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with dump.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise ValueError(f"{dump}, line {number}: longer than {LONGEST_LINE} bytes")
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError(f"{dump}, line {number}: no dumped response")
                yield number, entry
    except OSError as error:
        raise ValueError(f"{dump} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{dump}, line {number}: no JSON: {error}") from error


def _response(dump: Path, number: int, entry: dict[str, Any], name: str) -> ShadedResponse:
    tokens, values, sampled = entry["tokens"], entry[name], entry.get("sampled")
    sampled = [1] * len(tokens) if sampled is None else sampled
    fits = isinstance(tokens, list) and isinstance(values, list) and isinstance(sampled, list)
    if not fits or not len(tokens) == len(values) == len(sampled):
        raise ValueError(f"{dump}, line {number}: `tokens`, `{name}` and `sampled` must be lists of one length")
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise ValueError(f"{dump}, line {number}: `{name}` must be numbers")
    return ShadedResponse(
        line=number,
        prompt=str(entry.get("input", "")),
        score=float(entry.get("score") or 0.0),
        images=tuple(image if isinstance(image, str) else None for image in entry.get("images") or ()),
        tokens=tuple(str(token) for token in tokens),
        values=tuple(float(v) if counts else None for v, counts in zip(values, sampled, strict=True)),
    )


def thumbnail(path: str | None) -> Image.Image | None:
    """An image of a prompt at a size to look at; None where it is not there (any more) or no image."""
    if path is None:
        return None
    try:
        read_header(path)
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            return small
    except (SampleError, OSError):
        return None


# ---------------------------------------------------------------- the page

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1e; max-width: 1080px; margin: 32px auto; padding: 0 16px }
h1 { font-size: 20px } .note { color: #6e6e74 }
article { display: flex; gap: 20px; border-top: 1px solid #dedee2; padding: 20px 0 }
figure { margin: 0; display: flex; flex-wrap: wrap; gap: 6px; width: 280px; flex: none; align-content: flex-start }
figure img { width: 134px; image-rendering: pixelated } figure div { width: 134px; color: #6e6e74 }
.prompt { white-space: pre-wrap; color: #6e6e74; margin: 0 0 8px }
.tokens { white-space: pre-wrap; font: 16px/2 monospace }
.tokens span { padding: 3px 0; border-radius: 3px; box-shadow: inset 0 0 0 0.5px #dedee2 }
</style></head><body><h1>{{ title }}</h1>
<p class="note">A darker token has a larger {{ name }} within its response; point at it for the number.{% if note %}
<br>{{ note }}{% endif %}</p>
{% for response in responses %}<article><figure>
{% for image in response.images %}{% if image %}<img src="{{ image }}" alt="image {{ loop.index }}">{% else %}<div>\
image {{ loop.index }} is not there</div>{% endif %}{% endfor %}
</figure><div><p class="prompt">{{ response.prompt }}</p>
<p class="tokens">{% for token in response.tokens %}<span style="background: rgba({{ shade }}, {{ token.shade }})" \
title="{{ token.value }}">{{ token.text }}</span>{% endfor %}</p>
<p class="note">line {{ response.line }}, score {{ response.score }}</p></div></article>
{% endfor %}</body></html>
"""


def page(title: str, name: str, responses: Sequence[ShadedResponse], note: str = "") -> str:
    """The responses as one HTML file with its images inside. Texts are escaped: they are a model's."""
    from jinja2 import Environment

    shown = [
        {
            "line": response.line,
            "prompt": response.prompt,
            "score": f"{response.score:.3f}",
            "images": [_data_uri(thumbnail(path)) for path in response.images],
            "tokens": [
                {"text": text, "shade": f"{shade:.3f}", "value": "not sampled" if value is None else f"{value:.6g}"}
                for text, shade, value in zip(response.tokens, response.shades, response.values, strict=True)
            ],
        }
        for response in responses
    ]
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(title=title, name=name, note=note, responses=shown, shade=", ".join(map(str, _SHADE)))


def _data_uri(image: Image.Image | None) -> str | None:
    if image is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---------------------------------------------------------------- the picture

_COLUMNS = 84
_NARROWEST = 60  # columns that the question needs
_FONT_SIZE = 11.0
_ADVANCE = 0.602 * _FONT_SIZE / 72  # inches that a character of DejaVu Sans Mono takes
_LINE = 0.46  # inches from line to line, with the numbers under the tokens
_IMAGE = 1.15  # inches
_MARGIN = 0.2
_MOST_LINES = 40


def draw(title: str, name: str, responses: Sequence[ShadedResponse], file: Path, note: str = "") -> None:
    """The responses as a PNG: images on the left, tokens on the right with their values under them."""
    from matplotlib.figure import Figure

    laid = [_lay_out(response) for response in responses]
    gallery = max((min(len(response.images), 2) for response in responses), default=0) * (_IMAGE + 0.08)
    rows_of_images = [-(-min(len(response.images), 6) // 2) for response in responses]
    heights = [
        max((lines + 1.4) * _LINE, rows * (_IMAGE + 0.08)) + 2 * _MARGIN
        for (_, lines), rows in zip(laid, rows_of_images, strict=True)
    ]
    columns = max(column + len(text) for places, _ in laid for _, column, text in (*places, (0, _NARROWEST, "")))
    width, height = gallery + columns * _ADVANCE + 4 * _MARGIN, sum(heights) + 0.6
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    figure.text(
        _MARGIN / width, 1 - 0.35 / height, title, fontsize=13, fontweight="bold", va="center", parse_math=False
    )
    figure.text(_MARGIN / width, 1 - 0.58 / height, note, fontsize=9, color="#6e6e74", va="center", parse_math=False)
    top = height - 0.6
    for response, (places, _), tall in zip(responses, laid, heights, strict=True):
        for i, path in enumerate(response.images[:6]):
            image = thumbnail(path)
            if image is not None:
                left = _MARGIN + (i % 2) * (_IMAGE + 0.08)
                low = top - _MARGIN - _IMAGE - (i // 2) * (_IMAGE + 0.08)
                axes = figure.add_axes((left / width, low / height, _IMAGE / width, _IMAGE / height))
                axes.imshow(image, interpolation="nearest")
                axes.set_axis_off()
        start = gallery + 2 * _MARGIN

        def write(x: float, y: float, text: str, size: float = _FONT_SIZE, **style: Any) -> None:
            figure.text(
                x / width, y / height, text, fontsize=size, family="monospace", va="center", parse_math=False, **style
            )

        first = top - _MARGIN - 0.6 * _LINE
        question = _clip(" ".join(response.prompt.split()), _NARROWEST)
        write(start, first, f"{question}   score {response.score:.2f}", 9, color="#6e6e74")
        for (line, column, text), shade, value in zip(places, response.shades, response.values, strict=False):
            color = tuple(1 - shade * (1 - part / 255) for part in _SHADE)
            x, y = start + column * _ADVANCE, first - (line + 1) * _LINE
            box = {"facecolor": color, "edgecolor": "#dedee2", "linewidth": 0.5, "boxstyle": "square,pad=0.12"}
            write(x, y, text, bbox=box)
            number = "" if value is None else f"{value:.2g}"
            write(x + len(text) * _ADVANCE / 2, y - 0.2, number, 6, color="#6e6e74", ha="center")
        top -= tall
    figure.savefig(file)


def _lay_out(response: ShadedResponse) -> tuple[list[tuple[int, int, str]], int]:
    """Line, column and text of each token, and the number of lines; what is beyond the last line is left out."""
    places: list[tuple[int, int, str]] = []
    line = column = 0
    for token in response.tokens:
        text = _clip(token.replace("\n", "\u21b5").replace("\t", " ") or " ", _COLUMNS)
        if column + len(text) > _COLUMNS:
            line, column = line + 1, 0
        if line == _MOST_LINES:
            break
        places.append((line, column, text))
        column += max(len(text), 4) + 1  # room for the number below
    return places, line + 1


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def show(dump: Path, out: Path, count: int = 6, value: str | None = None) -> list[Path]:
    """Write ``tokens.html`` and ``tokens.png`` of a dump into ``out``; returns their paths.

    Raises:
        ValueError: as :func:`read_responses` says.
    """
    name, responses = read_responses(dump, MOST_PROMPTS, value)
    words, template = medians(responses)
    title = f"{name} of {min(count, len(responses))} responses in {dump.name}"
    note = f"median over a response of each of {len(responses)} prompts: {words:.2g} on words, {template:.2g} on tags"
    out.mkdir(parents=True, exist_ok=True)
    html, png = out / "tokens.html", out / "tokens.png"
    html.write_text(page(title, name, responses[:count], note), encoding="utf-8")
    draw(title, name, responses[:count], png, note)
    return [html, png]
