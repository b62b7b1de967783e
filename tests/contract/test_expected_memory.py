"""The shapes behind docs/recipes.md's table of memory are those of the published checkpoints."""

from pathlib import Path

import expected_memory as memory
import pytest
import report
import torch

from verl_mars._compat import define_missing_torchvision_ops

define_missing_torchvision_ops()

import transformers  # noqa: E402

ROOT = Path(__file__).parents[2]

VISION_2_5 = {"intermediate_size": 3420, "num_heads": 16, "patch_size": 14, "fullatt_block_indexes": [7, 15, 23, 31]}
VISION_3 = {"num_heads": 16, "patch_size": 16, "num_position_embeddings": 2304}
VISION = {
    "qwen2_5_vl_3b": VISION_2_5,
    "qwen2_5_vl_7b": VISION_2_5,
    "qwen3_vl_4b": {**VISION_3, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
    "qwen3_vl_8b": {**VISION_3, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}


MEASURED = {"qwen2_5_vl_3b, tiny": memory.TINY, "qwen2_5_vl_3b, small": memory.SMALL}


@pytest.mark.parametrize(("name", "shape"), (memory.MODELS | MEASURED).items())
def test_parameters_are_those_of_the_shape(name, shape):
    family = "Qwen2_5_VL" if name.startswith("qwen2_5") else "Qwen3VL"
    text = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        **(ROPE if family == "Qwen2_5_VL" else {"head_dim": shape.head_dim}),
    }
    vision = {"depth": shape.vision_blocks, "hidden_size": shape.vision_hidden, "out_hidden_size": shape.hidden}
    config = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config={**vision, **VISION[name.split(",")[0]]}, tie_word_embeddings=shape.tied
    )
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_the_table_of_the_docs_is_the_commands():
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert memory.table() in page and memory.measured_table() in page
    assert f"{memory.TINY.parameters:,}" in report.read("gpu")["model"]


def test_every_model_overlay_is_in_the_table():
    assert {path.stem for path in (ROOT / "recipes" / "model").glob("*.yaml")} == memory.MODELS.keys()
