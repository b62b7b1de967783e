from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from verl_mars.toy import model as toy_model
from verl_mars.toy import world


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    toy_model.save(toy_model.build_model(0), folder)
    return folder


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = toy_model.build_tokenizer()
    for kind in ("hot", "near"):
        assert len(tokenizer(f"what color is the {kind} object?")["input_ids"]) == 7
        assert len(tokenizer(f"where is the {kind} object?")["input_ids"]) == 6
    for place in world.QUADRANTS:
        assert len(tokenizer(f"<think>{place}</think><answer>{place}</answer><|im_end|>")["input_ids"]) == 9
    for color in world.COLORS:
        assert len(tokenizer(color)["input_ids"]) == 1


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = toy_model.build_tokenizer()
    if not any(token in text for token in (*toy_model.SPECIAL, *toy_model.TAGS)):
        assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_tags_are_kept_when_special_tokens_are_skipped(loaded: Path) -> None:
    text = "<think>top left</think><answer>red</answer>"
    for tokenizer in (toy_model.build_tokenizer(), AutoTokenizer.from_pretrained(loaded)):
        assert tokenizer.decode(tokenizer(text + "<|im_end|>")["input_ids"], skip_special_tokens=True) == text


def test_the_saved_folder_loads_by_the_auto_classes(loaded: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(loaded)
    processor = AutoProcessor.from_pretrained(loaded)
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert processor.video_processor is not None
    assert model.dtype == torch.float32
    assert sum(p.numel() for p in model.parameters()) < 700_000
    token = processor.tokenizer.convert_tokens_to_ids
    assert (model.config.image_token_id, model.generation_config.eos_token_id) == (
        token("<|image_pad|>"),
        token("<|im_end|>"),
    )
    assert model.config.text_config.vocab_size == len(processor.tokenizer)


def test_pictures_stay_at_their_size_through_the_processor(loaded: Path) -> None:
    from qwen_vl_utils import fetch_image

    scenes = world.make_scenes(1, 0)
    processor = AutoProcessor.from_pretrained(loaded)
    images = [fetch_image({"image": Image.fromarray(pixels)}) for pixels in scenes.images[0]]
    assert [image.size for image in images] == [(56, 56)] * 2
    text = processor.apply_chat_template(scenes.messages(0), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=images, return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 4]] * 2
    assert inputs["input_ids"][0].tolist() == toy_model.tokenize_prompt(processor.tokenizer, scenes.messages(0))
    assert inputs["input_ids"].shape[1] <= 27


def test_weights_depend_on_the_seed_alone_and_leave_the_global_state() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = toy_model.build_model(1).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(8)
    again, other = toy_model.build_model(1).state_dict(), toy_model.build_model(2).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
