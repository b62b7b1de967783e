"""The processor that prompts are tried on: a checkpoint's own, or one of the same class built without any download."""

from typing import TYPE_CHECKING

from verl_mars import _compat
from verl_mars.data.prompt_length import checkpoint_error
from verl_mars.errors import DataError
from verl_mars.vision.families import IMAGE_LIMITS
from verl_mars.vision.resize import ImageLimits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_processor(path: str) -> "ProcessorMixin":
    """A checkpoint's processor, from a folder or the Hugging Face hub.

    Raises:
        DataError: it cannot be loaded, or it takes no images.
    """
    _compat.define_missing_torchvision_ops()
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"no processor can be loaded from {path}: {checkpoint_error(path, error)}") from error
    if not hasattr(processor, "image_processor"):
        raise DataError(f"the processor of {path} takes no images")
    return processor


def standin_processor(family: str = "qwen2_5_vl") -> "ProcessorMixin":
    """A processor of the family's own class with its published image limits; its tokenizer has a token for each byte.

    Its image tokens are those of the published checkpoints; its text takes more tokens than theirs.

    Raises:
        DataError: an unknown family.
    """
    if family not in IMAGE_LIMITS:
        raise DataError(f"model {family!r} is unknown, allowed: {', '.join(IMAGE_LIMITS)}")
    _compat.define_missing_torchvision_ops()
    limits = IMAGE_LIMITS[family]
    return (_qwen3_vl if family == "qwen3_vl" else _qwen2_5_vl)(limits, _byte_tokenizer())


def _qwen2_5_vl(limits: ImageLimits, tokenizer: "PreTrainedTokenizerBase") -> "ProcessorMixin":
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    image = Qwen2VLImageProcessor(size=dict(size), patch_size=limits.patch_size, merge_size=limits.merge_size)
    video = Qwen2VLVideoProcessor(size=dict(size), patch_size=limits.patch_size, merge_size=limits.merge_size)
    return Qwen2_5_VLProcessor(
        image_processor=image, video_processor=video, tokenizer=tokenizer, chat_template=_CHAT_TEMPLATE
    )


def _qwen3_vl(limits: ImageLimits, tokenizer: "PreTrainedTokenizerBase") -> "ProcessorMixin":
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    image = Qwen2VLImageProcessor(size=dict(size), patch_size=limits.patch_size, merge_size=limits.merge_size)
    video = Qwen3VLVideoProcessor(patch_size=limits.patch_size, merge_size=limits.merge_size)
    return Qwen3VLProcessor(
        image_processor=image, video_processor=video, tokenizer=tokenizer, chat_template=_CHAT_TEMPLATE
    )


def _byte_tokenizer() -> "PreTrainedTokenizerBase":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL[1:]),
        chat_template=_CHAT_TEMPLATE,
    )
