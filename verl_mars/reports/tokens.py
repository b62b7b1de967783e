"""``verl-mars show-tokens``: responses with each token shaded by how much it depends on the images.

Reads verl's dumps of training responses (``trainer.rollout_data_dir``) of runs whose method rescores them. A shade is
relative to the largest value of its response: log(1 + value) over the largest of them.
"""

import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from verl_mars.errors import DataError, UsageError
from verl_mars.fields import FieldDict
from verl_mars.reports.dumps import dumped_lines, dumped_picture
from verl_mars.reports.page import write_page

LABELS = "token_values"
"""Key of a dumped line: the label of each value that its tokens can be shaded by, in order of preference."""

MOST_PROMPTS = 10_000
"""Prompts whose responses are read, for the medians."""

SIDE = 320
"""Longest side in pixels of a thumbnail."""

_TAG = re.compile(r"</?\w+>|<\|\w+\|>")
"""Parts of the response template: <think>, </answer>, <|im_end|>."""


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
        DataError: no such file, a line that is no dumped response, or one without per-token values (named by line).
        UsageError: the dump does not have this value.
    """
    found: list[ShadedResponse] = []
    prompts: set[str] = set()
    for number, entry in dumped_lines(dump):
        if len(found) == count:
            break
        prompt = str(entry.get("uid", f"line {number}")).rsplit("_", 2)[0]  # verl's {prompt}_{session}_{output}
        if prompt in prompts:
            continue
        prompts.add(prompt)
        labels = entry.get(LABELS)
        names = [name for name in labels if name in entry] if isinstance(labels, dict) else []
        if "tokens" not in entry or not names:
            raise DataError(
                f"{dump}, line {number}: no values for each token. Runs whose algorithm.adv_estimator rescores "
                "responses dump them; trainer.rollout_data_dir says where"
            )
        name = value or names[0]
        if name not in names:
            raise UsageError(f"--value {name}: allowed are {', '.join(names)} ({dump}, line {number})")
        value = name
        found.append(_response(dump, number, entry, name))
    if not found:
        raise DataError(f"{dump}: no response in it")
    return str(value), found


def _response(dump: Path, number: int, entry: FieldDict, name: str) -> ShadedResponse:
    tokens, values, sampled = entry["tokens"], entry[name], entry.get("sampled")
    sampled = [1] * len(tokens) if sampled is None else sampled
    fits = isinstance(tokens, list) and isinstance(values, list) and isinstance(sampled, list)
    if not fits or not len(tokens) == len(values) == len(sampled):
        raise DataError(f"{dump}, line {number}: `tokens`, `{name}` and `sampled` must be lists of one length")
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise DataError(f"{dump}, line {number}: `{name}` must be numbers")
    return ShadedResponse(
        line=number,
        prompt=str(entry.get("input", "")),
        score=float(entry.get("score") or 0.0),
        images=tuple(image if isinstance(image, str) else None for image in entry.get("images") or ()),
        tokens=tuple(str(token) for token in tokens),
        values=tuple(float(v) if counts else None for v, counts in zip(values, sampled, strict=True)),
    )


def write_tokens_page(dump: Path, path: Path, count: int = 6, value: str | None = None) -> Path:
    """Write the responses of a dump as an HTML page: images, prompt, and tokens shaded by a value of theirs.

    Args:
        dump: a file of ``trainer.rollout_data_dir``.
        path: the page.
        count: responses on it.
        value: the name of a value in the dump; None: its first.

    Raises:
        DataError: as :func:`read_responses`.
    """
    name, responses = read_responses(dump, MOST_PROMPTS, value)
    words, template = medians(responses)
    note = f"median over a response of each of {len(responses)} prompts: {words:.2g} on words, {template:.2g} on tags"
    return write_page(
        path,
        "tokens.html",
        title=f"{name} of {min(count, len(responses))} responses in {dump.name}",
        name=name,
        note=note,
        responses=[_shown(response) for response in responses[:count]],
    )


def _shown(response: ShadedResponse) -> FieldDict:
    """The template's values of one response."""
    return {
        "line": response.line,
        "prompt": response.prompt,
        "score": f"{response.score:.3f}",
        "images": [dumped_picture(image, SIDE) for image in response.images],
        "tokens": [
            {"text": text, "shade": f"{shade:.3f}", "value": "not sampled" if value is None else f"{value:.6g}"}
            for text, shade, value in zip(response.tokens, response.shades, response.values, strict=True)
        ],
    }
