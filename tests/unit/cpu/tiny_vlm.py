"""Tiny models with random weights, peaked enough that different inputs have different answers."""

import torch

from verl_mars._compat import define_missing_torchvision_ops

define_missing_torchvision_ops()  # before anything of transformers looks for torchvision

IMAGE, END, PAD, VOCABULARY = 3, 2, 0, 67


def randomize(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.generation_config.update(eos_token_id=END, pad_token_id=PAD, bos_token_id=1, do_sample=False)
    return model.eval()


TEXT = {
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
}

PLACEHOLDERS = {
    "image_token_id": IMAGE,
    "video_token_id": 4,
    "vision_start_token_id": 5,
    "vision_end_token_id": 6,
    "tie_word_embeddings": False,
}


def build_qwen2_5_vl():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**vision, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]},
        **PLACEHOLDERS,
    )
    return randomize(Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa"))


def build_text_model():
    """A Qwen3 without any image: positions in one dimension."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**TEXT, head_dim=16, tie_word_embeddings=True)
    return randomize(Qwen3ForCausalLM._from_config(config, attn_implementation="sdpa"))


def build_qwen2_vl():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        **PLACEHOLDERS,
    )
    return randomize(Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa"))


def build_qwen3_vl():
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 16, "rope_parameters": rope},
        vision_config={**vision, "patch_size": 14, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **PLACEHOLDERS,
    )
    return randomize(Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa"))
