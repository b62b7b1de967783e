"""Views of a prompt, and how they are rendered.

A prompt has several *sources* (RGB, infrared, depth, camera 1..6). A view says how much of them the policy is shown:

=========  ============================  =============================================
view       the policy is shown           used by
=========  ============================  =============================================
fused      every source                  the ordinary rollout
mono(s)    source s alone                MARS: its reward is the anchor
noisy      every source, perturbed       VOGUE: how far it moves the policy
blind      no source                     PGPO: how much a token depends on the images
subset     some sources                  the probe: what leaving a source out costs
shuffled   the images of another row     the probe: does the policy look at these images
=========  ============================  =============================================

A :class:`RolloutView` turns a row into another row: the fields that verl's agent loop gets from the data set
(``raw_prompt``, ``reward_model``, ...) with other messages and, if the source has its own, another ground truth. A
:class:`RescoreView` turns a :class:`Trajectory`, a response that exists already, into the tokens and pixels under which
the policy says how likely the same response is. Nothing is changed in place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from verl_mars.config import Settings
from verl_mars.fields import FieldDict, Fields
from verl_mars.row_tools import TOOL_KEYS, tools_of_session

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Generator, Tensor

MonoPrompt = Literal["repeat", "drop"]
Row = FieldDict
Message = FieldDict

_OWN = ("prompt", "ground_truth", *TOOL_KEYS)
_IMAGE_TAG = re.compile("(<image>)")


@dataclass(frozen=True)
class Source:
    """One visual source of a prompt."""

    name: str
    images: tuple[int, ...]
    """Indices into the row's images."""
    prompt: str | None = None
    """The prompt for this source alone; ``None``: the fused text."""
    ground_truth: str | None = None
    """The ground truth of a mono answer; ``None``: the row's own."""
    tools_kwargs: str | None = None
    interaction_kwargs: str | None = None
    """JSON objects that replace those of the row, which may show a tool every source."""


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

    A source's own prompt is used if it has one, otherwise the fused text. With ``repeat`` (the authors' way) the
    source's images fill every image placeholder in turn, so the text and the number of images stay as they are; with
    ``drop`` the placeholders of other sources are left out.
    """

    source: Source
    mono_prompt: MonoPrompt = "repeat"

    @property
    def name(self) -> str:
        """``mono(<source>)``."""
        return f"mono({self.source.name})"

    def render(self, row: Row) -> Row:
        """The row with only this source's images, and the source's own ground truth if it has one.

        Raises:
            ValueError: the source names an image that the row does not have, or the numbers of its images and of the
                ``<image>`` in its own prompt differ, or the session would still be shown a video or other sources
                (by the row's tools).
        """
        messages = list(row["raw_prompt"])
        if self.source.prompt is None:
            _check_media(messages, self.name)
        images = [part for part in image_parts(messages)]
        _check_indices(self.source, len(images))
        own = [images[i] for i in self.source.images]
        if self.source.prompt is not None:
            shown = _own_prompt(messages, self.source, own)
        elif self.mono_prompt == "repeat":
            shown = _exchange(messages, {i: own[i % len(own)] for i in range(len(images))})
        else:
            shown = _exchange(messages, {i: images[i] for i in self.source.images})
        rendered = dict(row, raw_prompt=shown, **tools_of_session(row, self.source, self.name))
        if self.source.ground_truth is not None:
            rendered["reward_model"] = dict(row["reward_model"], ground_truth=self.source.ground_truth)
        return rendered


@dataclass(frozen=True)
class Subset:
    """Some sources: the fused text without the images of the others, and the row's own ground truth.

    Without any source this is the blind view as a prompt; :class:`Blind` is the same for a response already sampled.
    """

    name: str
    sources: tuple[Source, ...]

    def render(self, row: Row) -> Row:
        """The row with only these sources' images.

        Raises:
            ValueError: a source names an image that the row has not, or the row's videos or tools would show others.
        """
        messages = list(row["raw_prompt"])
        _check_media(messages, self.name)
        images = list(image_parts(messages))
        for source in self.sources:
            _check_indices(source, len(images))
        kept = {i: images[i] for source in self.sources for i in source.images}
        return dict(row, raw_prompt=_exchange(messages, kept), **tools_of_session(row, None, self.name))


@dataclass(frozen=True)
class Shuffled:
    """Every source's place, filled with the images of another row; text and ground truth stay."""

    images: tuple[Message, ...]
    """Image parts, one for each image of the row."""
    name: str = "shuffled"

    def render(self, row: Row) -> Row:
        """The row with these images.

        Raises:
            ValueError: another number of images than the row has.
        """
        messages = list(row["raw_prompt"])
        count = len(list(image_parts(messages)))
        if count != len(self.images):
            raise ValueError(f"the prompt has {count} images, got {len(self.images)} to show in their place")
        return dict(row, raw_prompt=_exchange(messages, dict(enumerate(self.images))))


class Noise(Settings):
    """Perturbation of images, drawn for each image separately; 0 or False switches a part off.

    The defaults are the paper's (VOGUE, section 4: flips, rotations, colour jitter and Gaussian noise of sigma 0.4; the
    angles and the strength of the jitter are those of the authors' code).
    """

    sigma: float = Field(default=0.4, ge=0, allow_inf_nan=False)
    """Standard deviation of Gaussian noise on pixels from 0 to 1, at the size at which the model sees the image."""

    flips: bool = True
    """Mirror left-right and upside-down, each with probability 1/2, in ``turnable_tasks``."""

    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    """Turn by an angle up to this, either way, in ``turnable_tasks``; the size stays, corners turn black."""

    brightness: float = Field(default=0.15, ge=0, le=1)
    contrast: float = Field(default=0.15, ge=0, le=1)
    """Multiply by a factor of 1 +- this."""

    turnable_tasks: tuple[str, ...] = Field(default=("count", "math"), strict=False)
    """Tasks (``extra_info.task``) whose answers stay right when an image is flipped or turned. A box or "left of" would
    no longer fit the image, so rows of other tasks, or of no task, are never turned."""


@dataclass(frozen=True)
class Noisy:
    """Every source, perturbed. Same seed, same images."""

    noise: Noise
    seed: int
    name: str = "noisy"

    def perturb(self, images: Sequence[Image], task: str | None) -> list[Image]:
        """The perturbed images, at their size and in RGB. ``task``: the row's."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        turned = task in self.noise.turnable_tasks
        return [self._perturb(image, turned, generator) for image in images]

    def _perturb(self, image: Image, turned: bool, generator: Generator) -> Image:
        import torch
        from torchvision.transforms.v2 import functional

        # Functions instead of the random transforms: those draw from torch's global state, and rollouts are threads.
        mirrored, upside_down, turn, brightness, contrast = torch.rand(5, generator=generator).tolist()
        pixels = functional.to_dtype(functional.pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)
        if turned and self.noise.flips and mirrored < 0.5:
            pixels = functional.horizontal_flip(pixels)
        if turned and self.noise.flips and upside_down < 0.5:
            pixels = functional.vertical_flip(pixels)
        if turned and self.noise.rotation_degrees:
            pixels = functional.rotate(pixels, (2 * turn - 1) * self.noise.rotation_degrees)
        pixels = functional.adjust_brightness(pixels, 1 + (2 * brightness - 1) * self.noise.brightness)
        pixels = functional.adjust_contrast(pixels, 1 + (2 * contrast - 1) * self.noise.contrast)
        pixels = pixels + self.noise.sigma * torch.randn(pixels.shape, generator=generator)
        return functional.to_pil_image(functional.to_dtype(pixels.clamp(0, 1), torch.uint8, scale=True))


@dataclass(frozen=True)
class Trajectory:
    """A response with its prompt, as the policy is fed it: P prompt tokens, R response tokens."""

    prompt: Tensor  # (P,)
    response: Tensor  # (R,)
    response_mask: Tensor  # (R,) 1 where the policy sampled the token, 0 where a tool put it there
    position_ids: Tensor  # (P + R,), or (4, P + R) with mRoPE: place in the sequence, then time, row, column
    visual_inputs: Fields
    """The processor's output for the images (verl's ``multi_modal_inputs``)."""


class RolloutView(Protocol):
    """A view of a prompt that sessions can be rolled out on."""

    @property
    def name(self) -> str:
        """The view's name, as ``mono(rgb)``."""

    def render(self, row: Row) -> Row:
        """The row as the policy is shown it under this view.

        Raises:
            ValueError: the row does not have what the view shows.
        """


class RescoreView(Protocol):
    """A view that the log-probs of an existing trajectory can be computed under."""

    def show(self, trajectory: Trajectory) -> Trajectory | None:
        """The trajectory under this view, with every sampled token in its order; ``None``: it is the same there."""


@dataclass(frozen=True)
class Blind:
    """No source: the visual tokens are dropped, every other token keeps its mRoPE position, there are no pixels.

    For the other tokens this equals masking attention to the visual tokens (PGPO, appendix A.1), and costs less. Places
    in the sequence are counted again: transformers reads a gap in them as the border between two packed sequences, and
    would cut the question off from the text before the images. A model without mRoPE has these places as its only
    positions, so there the text around an image moves together, as in a prompt written without images.
    """

    visual_tokens: frozenset[int]
    """Ids of the tokens that stand for pieces of images and videos."""
    name: str = "blind"

    def show(self, trajectory: Trajectory) -> Trajectory | None:
        """The trajectory without its visual tokens, a tool's images included; ``None`` if it has none."""
        import torch

        visual = torch.tensor(sorted(self.visual_tokens), dtype=trajectory.prompt.dtype)
        in_prompt = ~torch.isin(trajectory.prompt, visual)
        in_response = ~torch.isin(trajectory.response, visual) | trajectory.response_mask.bool()
        keep = torch.cat((in_prompt, in_response))
        if keep.all():
            return None
        position_ids = trajectory.position_ids[..., keep]  # (4, S): place, time, height, width; without mRoPE (S,)
        places = torch.arange(position_ids.shape[-1]).to(position_ids)
        position_ids = places if position_ids.dim() == 1 else torch.cat((places[None], position_ids[1:]))
        return Trajectory(
            prompt=trajectory.prompt[in_prompt],
            response=trajectory.response[in_response],
            response_mask=trajectory.response_mask[in_response],
            position_ids=position_ids,
            visual_inputs={},
        )


@dataclass(frozen=True)
class OtherPixels:
    """Other pixels under the same tokens: images of another view of the same sizes."""

    visual_inputs: Fields

    def show(self, trajectory: Trajectory) -> Trajectory | None:
        """The trajectory with these visual inputs."""
        return replace(trajectory, visual_inputs=self.visual_inputs)


def with_images(row: Row, images: Sequence[Image]) -> Row:
    """The row with its i-th image replaced by ``images[i]``; other keys of an image part stay.

    Raises:
        ValueError: the row's messages have another number of images.
    """
    messages = list(row["raw_prompt"])
    parts = list(image_parts(messages))
    if len(parts) != len(images):
        raise ValueError(f"the prompt has {len(parts)} images, got {len(images)} to replace them with")
    exchanged = {i: dict(part, image=image) for i, (part, image) in enumerate(zip(parts, images, strict=True))}
    return dict(row, raw_prompt=_exchange(messages, exchanged))


def sources_of_row(row: Fields) -> tuple[Source, ...]:
    """The sources of a row, from its column ``sources``.

    Raises:
        ValueError: the column is missing or empty, a source has no name or no images, or two have one name.
    """
    column = row.get("sources")
    if column is None or len(column) == 0:
        raise ValueError("the row has no `sources`: a list of {name, images, prompt, ground_truth} is needed")
    sources = tuple(
        Source(str(entry["name"]), tuple(int(i) for i in entry["images"]), *map(entry.get, _OWN)) for entry in column
    )
    names = [source.name for source in sources]
    for source in sources:
        if not source.name or not source.images:
            raise ValueError(f"source {source.name!r} needs a name and at least one image")
        if names.count(source.name) > 1:
            raise ValueError(f"source {source.name!r} is listed {names.count(source.name)} times; names must differ")
    return sources


def _check_media(messages: Sequence[Message], view: str) -> None:
    others = {part["type"] for part in parts_of(messages)} - {"image", "text"}
    if others:
        raise ValueError(
            f"the prompt has {' and '.join(sorted(others))} beside images, which {view} would still show: "
            "give each source a prompt of images alone (sources[].prompt)"
        )


def _check_indices(source: Source, count: int) -> None:
    for index in source.images:
        if not 0 <= index < count:
            raise ValueError(f"source {source.name!r} names image {index}, but the prompt has images 0 to {count - 1}")


def image_parts(messages: Sequence[Message]) -> Iterator[Message]:
    """The image parts of a conversation, in order."""
    return (part for part in parts_of(messages) if part["type"] == "image")


def parts_of(messages: Sequence[Fields]) -> Iterator[Message]:
    """The parts of a conversation's messages, in order; a message that is plain text has none."""
    for message in messages:
        if not isinstance(message["content"], str):
            yield from message["content"]


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
    """The system messages, then the source's own prompt with its images in place of ``<image>``."""
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
