"""How long a prompt will be, computed from image sizes alone, as verl's path and the model's processor make it.

verl resizes an image twice: ``qwen_vl_utils.fetch_image`` to multiples of patch x merge pixels, then the image
processor within its own limits of pixels. Each resized image becomes (h / f)(w / f) tokens, f = patch x merge, between
one token that opens it and one that closes it. Contract tests hold this to the real processors. The resizes are written
out because both libraries import torch and torchvision, seconds and hundreds of megabytes that a conversion has no
other use for.
"""

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from verl_mars import _compat
from verl_mars.data.faults import DataError, SampleError
from verl_mars.data.images import MAX_ASPECT_RATIO
from verl_mars.data.rules import IMAGE_TAG

Size = tuple[int, int]
_FIRST_MERGE = 2
_FIRST_MIN_TOKENS, _FIRST_MAX_TOKENS = 4, 16384
_KNOWN_TEXTS = 4096
_TEMPLATE_BYTES = 128
"""Bound for the chat template around one message and a default system prompt."""


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """How a family of models cuts images into tokens."""

    name: str
    patch: int
    min_pixels: int
    max_pixels: int
    merge: int = 2

    @property
    def factor(self) -> int:
        """Pixels of one token's side."""
        return self.patch * self.merge


FAMILIES: dict[str, ModelFamily] = {
    "qwen2_5_vl": ModelFamily("qwen2_5_vl", 14, 56 * 56, 28 * 28 * 16384),
    "qwen3_vl": ModelFamily("qwen3_vl", 16, 256 * 256, 4096 * 4096),
}
"""Published checkpoints' limits; :func:`family_of` reads those of one checkpoint."""


def family_of(image_processor: Any) -> ModelFamily:
    """The family of a loaded image processor, with its own limits."""
    size = image_processor.size
    low = getattr(image_processor, "min_pixels", None) or size["shortest_edge"]
    high = getattr(image_processor, "max_pixels", None) or size["longest_edge"]
    patch, merge = image_processor.patch_size, image_processor.merge_size
    return ModelFamily("qwen3_vl" if patch == 16 else "qwen2_5_vl", patch, int(low), int(high), merge)


def seen_size(size: Size, family: ModelFamily, min_pixels: int | None = None, max_pixels: int | None = None) -> Size:
    """(width, height) of an image as the model sees it.

    Args:
        size: (width, height) of the file.
        family: the model's.
        min_pixels: the image entry's own limit, which the first resize keeps.
        max_pixels: likewise.

    Raises:
        SampleError: sides too different, or limits that leave nothing of a side.
    """
    width, height = size
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise SampleError("aspect_ratio", f"{width} x {height}: sides differ by more than {MAX_ASPECT_RATIO} times")
    first = family.patch * _FIRST_MERGE
    low = min_pixels if min_pixels is not None else _FIRST_MIN_TOKENS * first**2
    high = max_pixels if max_pixels is not None else _FIRST_MAX_TOKENS * first**2
    if low > high:
        raise SampleError("record", f"min_pixels {low} is more than max_pixels {high}")
    height, width = _first_resize(height, width, first, low, high)
    if not height or not width:
        raise SampleError("aspect_ratio", f"{size[0]} x {size[1]} has no pixel left in a side under max_pixels {high}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise SampleError("aspect_ratio", f"{size[0]} x {size[1]} becomes {width} x {height}, too narrow to process")
    height, width = _second_resize(height, width, family.factor, family.min_pixels, family.max_pixels)
    return width, height


@lru_cache(maxsize=4096)
def visual_tokens(size: Size, family: ModelFamily, min_pixels: int | None = None, max_pixels: int | None = None) -> int:
    """Tokens of one image, with the one before and the one after it."""
    width, height = seen_size(size, family, min_pixels, max_pixels)
    return (width // family.factor) * (height // family.factor) + 2


class PromptLength:
    """Token counts of prompts.

    With a tokenizer the count is exact. Without one, text is bounded by its UTF-8 bytes: the byte-level tokenizers of
    these models never make more tokens than that.
    """

    def __init__(self, family: ModelFamily, tokenizer: Any = None) -> None:
        self.family = family
        self.exact = tokenizer is not None
        self._tokenizer = tokenizer
        self._known: dict[tuple[tuple[str, str], ...], int] = {}

    def __call__(
        self,
        messages: Sequence[Mapping[str, str]],
        sizes: Sequence[Size],
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> int:
        """Tokens of a prompt whose ``<image>`` stand for images of these sizes."""
        key = tuple((message["role"], message["content"]) for message in messages)
        text = self._known.get(key)
        if text is None:
            if len(self._known) >= _KNOWN_TEXTS:
                self._known.clear()
            text = self._known[key] = self._exact_text(key) if self.exact else self._bound_text(key)
        return text + sum(visual_tokens(tuple(size), self.family, min_pixels, max_pixels) for size in sizes)

    @staticmethod
    def _bound_text(messages: tuple[tuple[str, str], ...]) -> int:
        texts = [unicodedata.normalize("NFC", content.replace(IMAGE_TAG, "")) for _, content in messages]
        return sum(len(text.encode()) for text in texts) + _TEMPLATE_BYTES * (len(messages) + 1)

    def _exact_text(self, messages: tuple[tuple[str, str], ...]) -> int:
        chat = [{"role": role, "content": _parts(content)} for role, content in messages]
        text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        images = sum(content.count(IMAGE_TAG) for _, content in messages)
        # The template writes three tokens for an image, all of which visual_tokens() counts
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) - 3 * images


def load_tokenizer(path: str) -> Any:
    """A checkpoint's tokenizer, from a folder or the Hugging Face hub.

    Raises:
        DataError: it cannot be loaded, or has no chat template.
    """
    _compat.define_missing_torchvision_ops()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise DataError(f"no tokenizer can be loaded from {path}: {checkpoint_error(path, error)}") from error
    if not tokenizer.chat_template:
        raise DataError(f"the tokenizer of {path} has no chat template")
    return tokenizer


def checkpoint_error(path: str, error: Exception) -> str:
    """Why a checkpoint cannot be loaded; transformers takes a folder that is not there for a name on the hub."""
    local = path.startswith(("/", ".", "~"))
    return "there is no such folder" if local and not os.path.isdir(path) else str(error)


def _parts(content: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(content.split(IMAGE_TAG)):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _first_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """As ``smart_resize`` of qwen_vl_utils: a side that only rounds never gets less than one factor."""
    to_height = max(factor, round(height / factor) * factor)
    to_width = max(factor, round(width / factor) * factor)
    if to_height * to_width > max_pixels:
        return _shrunk(height, width, factor, max_pixels, 0)
    if to_height * to_width < min_pixels:
        return _grown(height, width, factor, min_pixels)
    return to_height, to_width


def _second_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """As ``smart_resize`` of transformers' Qwen2-VL image processor: a side that shrinks keeps at least one factor."""
    to_height = round(height / factor) * factor
    to_width = round(width / factor) * factor
    if to_height * to_width > max_pixels:
        return _shrunk(height, width, factor, max_pixels, factor)
    if to_height * to_width < min_pixels:
        return _grown(height, width, factor, min_pixels)
    return to_height, to_width


def _shrunk(height: int, width: int, factor: int, max_pixels: int, least: int) -> tuple[int, int]:
    scale = math.sqrt(height * width / max_pixels)
    return tuple(max(least, math.floor(side / scale / factor) * factor) for side in (height, width))  # type: ignore[return-value]


def _grown(height: int, width: int, factor: int, min_pixels: int) -> tuple[int, int]:
    scale = math.sqrt(min_pixels / (height * width))
    return tuple(math.ceil(side * scale / factor) * factor for side in (height, width))  # type: ignore[return-value]
