"""How long a prompt is, computed from its text and the sizes of its images (:mod:`verl_mars.vision.resize`)."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from verl_mars import _compat
from verl_mars.data.row_checks import IMAGE_TAG
from verl_mars.errors import DataError
from verl_mars.vision.resize import ImageLimits, Size, visual_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KNOWN_TEXTS = 4096
_TEMPLATE_BYTES = 128
"""Bound for the chat template around one message and a default system prompt."""


class PromptLength:
    """Token counts of prompts.

    With a tokenizer the count is exact. Without one, text is bounded by its UTF-8 bytes: the byte-level tokenizers of
    these models never make more tokens than that.
    """

    def __init__(self, limits: ImageLimits, tokenizer: "PreTrainedTokenizerBase | None" = None) -> None:
        self.limits = limits
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
        return text + sum(visual_tokens(tuple(size), self.limits, min_pixels, max_pixels) for size in sizes)

    @staticmethod
    def _bound_text(messages: tuple[tuple[str, str], ...]) -> int:
        texts = [unicodedata.normalize("NFC", content.replace(IMAGE_TAG, "")) for _, content in messages]
        return sum(len(text.encode()) for text in texts) + _TEMPLATE_BYTES * (len(messages) + 1)

    def _exact_text(self, messages: tuple[tuple[str, str], ...]) -> int:
        assert self._tokenizer is not None  # `exact`
        chat = [{"role": role, "content": _parts(content)} for role, content in messages]
        text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        images = sum(content.count(IMAGE_TAG) for _, content in messages)
        # The template writes three tokens for an image, all of which visual_tokens() counts
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) - 3 * images


def load_tokenizer(path: str) -> "PreTrainedTokenizerBase":
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
