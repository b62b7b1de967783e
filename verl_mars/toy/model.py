"""The toy model: the stock Qwen2.5-VL architecture at 0.6 M parameters, with its tokenizer and processor.

All classes are transformers'. A folder written by :func:`save` loads with ``AutoProcessor``,
``AutoModelForImageTextToText`` and everything in verl that takes a model path. A picture of 56x56 pixels has 4 visual
tokens, one for each cell of the world.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from verl_mars._compat import define_missing_torchvision_ops
from verl_mars.fields import Fields
from verl_mars.toy import world

define_missing_torchvision_ops()  # before transformers, which imports torchvision

from transformers import (  # noqa: E402
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.utils import logging  # noqa: E402

PAD, END = "<|endoftext|>", "<|im_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", IMAGE, VIDEO)
# Ordinary added tokens, not special ones: verl decodes responses with skip_special_tokens=True before it scores them.
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

HIDDEN = 96
TOKENS_PER_IMAGE = 4
PATCH = 14

# Qwen2.5-VL's template without its default system message, which would be half of a toy prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the world is one token and any other text is bytes.

    The vocabulary is fixed, not trained, so it is the same with every version of the tokenizers library.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = dict.fromkeys(chain(SPECIAL, alphabet, _words()))
    model = models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[], ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=2048,
    )
    fast.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _words() -> list[str]:
    """The words of the world as byte-level BPE splits them: a leading space is part of a word."""
    texts = ["user", "assistant", "system", *world.COLORS, *world.QUADRANTS]
    texts += [f"what color is the {kind} object" for kind in ("hot", "near")]
    texts += [f"where is the {kind} object" for kind in ("hot", "near")]
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return sorted({word for text in texts for word, _ in split(text)})


def build_processor() -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor for pictures of 56x56 pixels (up to 112x112 for other data)."""
    size = {"shortest_edge": world.SIZE**2, "longest_edge": 4 * world.SIZE**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size),
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """The model with random weights from `seed`. Torch's global random state is not changed."""
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    ids = {"bos_token_id": token(PAD), "eos_token_id": token(END), "pad_token_id": token(PAD)}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            **ids,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).float()
    model.generation_config.update(**ids)
    return model


def save(model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
    """Write model, generation config, tokenizer and processor as one model folder."""
    with no_progress_bars():
        model.save_pretrained(folder)
        build_processor().save_pretrained(folder)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch off transformers' progress bars: 0.6 M parameters load in no time."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def tokenize_prompt(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Fields]) -> list[int]:
    """Token ids of a conversation that asks for an answer, each picture as its 4 image tokens."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text.replace(IMAGE, IMAGE * TOKENS_PER_IMAGE), add_special_tokens=False)["input_ids"]
    return ids
