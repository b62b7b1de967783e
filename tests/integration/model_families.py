"""Model folders of other families: their real classes and processors with random weights, on the toy's tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from verl_mars.toy import model as toy
from verl_mars.toy import world

from transformers import (  # isort: skip  # after the toy, which declares operators that torchvision misses
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

SIZE = {"shortest_edge": world.SIZE**2, "longest_edge": 4 * world.SIZE**2}
WIDTH = 64


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    token = tokenizer.convert_tokens_to_ids
    return {"bos_token_id": token(toy.PAD), "eos_token_id": token(toy.END), "pad_token_id": token(toy.PAD)}


def _text(tokenizer: PreTrainedTokenizerFast, **further: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": WIDTH // 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        **_ids(tokenizer),
        **further,
    }


def _placeholders(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    token = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": token(toy.IMAGE),
        "video_token_id": token(toy.VIDEO),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": False,
        **_ids(tokenizer),
    }


VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": WIDTH}
Made = tuple[PreTrainedModel, ProcessorMixin]


def _qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> Made:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    config = Qwen2VLConfig(text_config=_text(tokenizer), vision_config=vision, **_placeholders(tokenizer))
    images, videos = Qwen2VLImageProcessor(size=SIZE), Qwen2VLVideoProcessor(size=SIZE)
    processor = Qwen2VLProcessor(images, tokenizer, videos, chat_template=toy.CHAT_TEMPLATE)
    return Qwen2VLForConditionalGeneration(config), processor


def _qwen3_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = Qwen2VLImageProcessor(size=SIZE, patch_size=16)
    videos = Qwen3VLVideoProcessor(size=SIZE, patch_size=16)
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=toy.CHAT_TEMPLATE)


def _qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> Made:
    vision = {**VISION, "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    text = _text(tokenizer)
    text["rope_parameters"]["mrope_interleaved"] = True
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_placeholders(tokenizer))
    return Qwen3VLForConditionalGeneration(config), _qwen3_processor(tokenizer)


FAMILIES: dict[str, Callable[[PreTrainedTokenizerFast], Made]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen3_vl": _qwen3_vl,
}


def write(family: str, folder: Path, seed: int = 0) -> Path:
    """A model folder of the family, peaked enough that different images have different answers."""
    with torch.random.fork_rng(devices=[]), toy.no_progress_bars():
        torch.manual_seed(seed)
        model, processor = FAMILIES[family](toy.build_tokenizer())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.1)
        model.generation_config.update(**_ids(processor.tokenizer))
        model.float().save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder
