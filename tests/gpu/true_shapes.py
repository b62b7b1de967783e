"""Qwen2.5-VL-3B in its true width, with random weights and fewer layers, and a tokenizer that fills its vocabulary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from verl_mars.toy import model as toy

VOCABULARY = 151_936
LAYERS, VISION_BLOCKS = 2, 2
"""Of 36 and 32: the width decides whether kernels fit, the depth only how long it takes. One vision block has attention
in windows, the other over the whole image."""
PARAMETERS = 542_939_248
IN_WORDS = (
    f"Qwen2.5-VL-3B's width, random weights, {LAYERS} of 36 layers, {VISION_BLOCKS} of 32 vision blocks: "
    f"{PARAMETERS:,} parameters"
)


def build_config(token: Callable[[str], int], layers: int = LAYERS, vision_blocks: int = VISION_BLOCKS) -> Any:
    """The published configuration with fewer layers. `token` gives the id of a special token."""
    from transformers import Qwen2_5_VLConfig

    ids = {"bos_token_id": token(toy.PAD), "eos_token_id": token(toy.END), "pad_token_id": token(toy.PAD)}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": layers,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            **ids,
        },
        vision_config={
            "depth": vision_blocks,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [vision_blocks - 1],
        },
        image_token_id=token(toy.IMAGE),
        video_token_id=token(toy.VIDEO),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        **ids,
    )


def save(folder: Path, layers: int = LAYERS, vision_blocks: int = VISION_BLOCKS) -> None:
    """A folder that transformers, verl and vLLM load as they load the published one."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    processor = toy.build_processor()
    tokenizer = processor.tokenizer
    config = build_config(tokenizer.convert_tokens_to_ids, layers, vision_blocks)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # on a CPU it takes half a minute
        network = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    network.generation_config.update(**{name: getattr(config, name) for name in names})
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    fill_vocabulary(folder / "tokenizer.json", len(tokenizer))


def fill_vocabulary(file: Path, used: int) -> None:
    """Give every id of the model a word of its own: random weights answer with all of them."""
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    words |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    words |= {(f"word{i}" if i % 3 else f"{i}"): i for i in range(used, VOCABULARY)}
    if sorted(words.values()) != list(range(VOCABULARY)):
        raise ValueError(f"the words of {file} do not have the ids 0 to {VOCABULARY - 1}, each once")
    file.write_text(json.dumps(tokenizer))
