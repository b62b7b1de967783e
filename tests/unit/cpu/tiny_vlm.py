"""A tiny Qwen2.5-VL with random weights, peaked enough that different inputs have different answers."""

import torch

from verl_mars.cpu.torchvision_ops import define_missing_ops

define_missing_ops()  # before anything of transformers looks for torchvision

IMAGE, END, PAD, VOCABULARY = 3, 2, 0, 67


def build_model(seed=0):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE,
        video_token_id=4,
        vision_start_token_id=5,
        vision_end_token_id=6,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.generation_config.update(eos_token_id=END, pad_token_id=PAD, bos_token_id=1, do_sample=False)
    return model
