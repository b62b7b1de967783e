"""What a view is, and how it is rendered.

A prompt has several *sources* (RGB, infrared, depth, camera 1..6). A view says how much of them the policy is shown:

=========  ============================  =============================================
view       the policy is shown           used by
=========  ============================  =============================================
fused      every source                  the ordinary rollout
mono(s)    source s alone                MARS: its reward is the anchor
=========  ============================  =============================================

A view turns a row into another row: the fields that verl's agent loop got from the data set (``raw_prompt``,
``reward_model``, ...) with the messages and, where the source has its own, the ground truth exchanged. Nothing is
changed in place; images are passed on, never opened.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MonoPrompt = Literal["repeat", "drop"]
Row = dict[str, Any]
Message = dict[str, Any]

_IMAGE_TAG = re.compile("(<image>)")


@dataclass(frozen=True)
class Source:
    """One visual source of a prompt."""

    name: str
    images: tuple[int, ...]
    """Indices into the row's images."""
    prompt: str | None = None
    """What the policy is asked when it sees this source alone; ``None``: the fused text."""
    ground_truth: str | None = None
    """What a mono answer is scored against; ``None``: the row's own ground truth."""


@dataclass(frozen=True)
class Fused:
    """Every source: the row as it is."""

    name: str = "fused"

    def render(self, row: Row) -> Row:
        """The row itself."""
        return row


@dataclass(frozen=True)
class Mono:
    """One source alone.

    The source's own prompt is used where it has one. Else the fused text is: with ``repeat`` (the authors' way) the
    source's images fill every image placeholder in turn, so that the text and the number of images stay as they are;
    with ``drop`` the placeholders of other sources are left out.
    """

    source: Source
    mono_prompt: MonoPrompt = "repeat"

    @property
    def name(self) -> str:
        """``mono(<source>)``."""
        return f"mono({self.source.name})"

    def render(self, row: Row) -> Row:
        """The row with only this source's images, and its own ground truth where the source has one.

        Raises:
            ValueError: the source names an image that the row has not, or its own prompt has another number of
                ``<image>`` than the source has images.
        """
        messages = list(row["raw_prompt"])
        images = [part for part in _image_parts(messages)]
        _check_indices(self.source, len(images))
        own = [images[i] for i in self.source.images]
        if self.source.prompt is not None:
            shown = _own_prompt(messages, self.source, own)
        elif self.mono_prompt == "repeat":
            shown = _exchange(messages, {i: own[i % len(own)] for i in range(len(images))})
        else:
            shown = _exchange(messages, {i: images[i] for i in self.source.images})
        rendered = dict(row, raw_prompt=shown)
        if self.source.ground_truth is not None:
            rendered["reward_model"] = dict(row["reward_model"], ground_truth=self.source.ground_truth)
        return rendered


def sources_of_row(row: Mapping[str, Any]) -> tuple[Source, ...]:
    """The sources of a row, from its column ``sources``.

    Raises:
        ValueError: no such column, no source in it, a source without name or images, or two of one name.
    """
    column = row.get("sources")
    if column is None or len(column) == 0:
        raise ValueError("the row has no `sources`: a list of {name, images, prompt, ground_truth} is needed")
    sources = tuple(
        Source(
            str(entry["name"]), tuple(int(i) for i in entry["images"]), entry.get("prompt"), entry.get("ground_truth")
        )
        for entry in column
    )
    names = [source.name for source in sources]
    for source in sources:
        if not source.name or not source.images:
            raise ValueError(f"source {source.name!r} needs a name and at least one image")
        if names.count(source.name) > 1:
            raise ValueError(f"source {source.name!r} is listed {names.count(source.name)} times; names must differ")
    return sources


def _check_indices(source: Source, count: int) -> None:
    for index in source.images:
        if not 0 <= index < count:
            raise ValueError(f"source {source.name!r} names image {index}, but the prompt has images 0 to {count - 1}")


def _image_parts(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        if not isinstance(message["content"], str):
            yield from (part for part in message["content"] if part["type"] == "image")


def _exchange(messages: Sequence[Message], image_at: Mapping[int, Message]) -> list[Message]:
    """The messages with the i-th image replaced by ``image_at[i]``, or left out where that has no i."""
    position = 0
    rendered = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            parts = []
            for part in content:
                if part["type"] != "image":
                    parts.append(part)
                    continue
                if position in image_at:
                    parts.append(image_at[position])
                position += 1
            content = parts
        rendered.append(dict(message, content=content))
    return rendered


def _own_prompt(messages: Sequence[Message], source: Source, images: Sequence[Message]) -> list[Message]:
    """The system messages, then the source's own prompt with its images where it says ``<image>``."""
    pieces = _IMAGE_TAG.split(source.prompt or "")
    if pieces.count("<image>") != len(images):
        raise ValueError(
            f"the prompt of source {source.name!r} has {pieces.count('<image>')} <image>, "
            f"but the source has {len(images)} images: one placeholder an image is needed"
        )
    supply = iter(images)
    content = [next(supply) if piece == "<image>" else {"type": "text", "text": piece} for piece in pieces if piece]
    system = [message for message in messages if message["role"] == "system"]
    return [*system, {"role": "user", "content": content}]
