"""The batched forward pass and sampler against transformers' own."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from verl_mars.cpu.sampling import Response
from verl_mars.toy import world
from verl_mars.toy.forward import Prompts, batch_prompts, patches, response_log_probs, sample, see
from verl_mars.toy.model import tokenize_prompt

ROOM = 12


@pytest.fixture(scope="module")
def inputs(processor: Any, scenes: world.Scenes) -> Any:
    """What stock transformers makes of the scenes, left-padded."""
    chats = [scenes.messages(row) for row in range(len(scenes))]
    texts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    images = [Image.fromarray(pixels) for pixels in scenes.images.reshape(-1, 56, 56, 3)]
    return processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="left")


@pytest.fixture(scope="module")
def prompt_ids(processor: Any, scenes: world.Scenes) -> list[list[int]]:
    return [tokenize_prompt(processor.tokenizer, scenes.messages(row)) for row in range(len(scenes))]


@pytest.fixture(scope="module")
def prompts(processor: Any, lively_model: Any, prompt_ids: list[list[int]]) -> Prompts:
    return batch_prompts(prompt_ids, lively_model.config.image_token_id, processor.tokenizer.pad_token_id, ROOM)


def padded(responses: list[Response], pad: int) -> torch.Tensor:
    """(B, R) tokens."""
    rows = [torch.tensor(response.token_ids) for response in responses]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)


@pytest.fixture(scope="module")
def visual(lively_model: Any, scenes: world.Scenes) -> torch.Tensor:
    with torch.no_grad():
        return see(lively_model, patches(scenes.images.reshape(-1, 56, 56, 3))).reshape(len(scenes), 2, 4, -1)


def test_patches_are_those_of_the_image_processor(inputs: Any, scenes: world.Scenes) -> None:
    ours = patches(scenes.images.reshape(-1, 56, 56, 3)).flatten(0, 1)
    torch.testing.assert_close(ours, inputs["pixel_values"], atol=1e-6, rtol=0)


def test_visual_tokens_are_those_of_the_vision_tower(lively_model: Any, inputs: Any, visual: torch.Tensor) -> None:
    with torch.no_grad():
        stock = lively_model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    torch.testing.assert_close(visual.flatten(0, 2), stock, atol=2e-5, rtol=1e-5)


def test_prompts_and_positions_are_those_of_transformers(lively_model: Any, inputs: Any, prompts: Prompts) -> None:
    assert torch.equal(prompts.ids, inputs["input_ids"])
    stock, _ = lively_model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    width = prompts.ids.shape[1]
    seen = inputs["attention_mask"].bool()
    assert torch.equal(prompts.mask[:, :width].bool(), seen)
    assert torch.equal(prompts.positions[:, :, :width][:, seen], stock[:, seen])
    after = prompts.positions[:, :, width - 1 :]
    assert (after.diff(dim=-1) == 1).all()  # a response counts on from its prompt


def test_greedy_answers_are_those_of_generate(
    lively_model: Any, inputs: Any, prompt_ids: list[list[int]], visual: torch.Tensor
) -> None:
    stock = lively_model.generate(**inputs, do_sample=False, max_new_tokens=ROOM)[:, inputs["input_ids"].shape[1] :]
    ours = sample(lively_model, prompt_ids, visual, ROOM)
    assert len({tuple(row) for row in stock.tolist()}) > 3, (
        "the model must say different things for this to mean anything"
    )
    ended = [response.ended for response in ours]
    assert any(ended) and not all(ended)
    assert torch.equal(padded(ours, lively_model.generation_config.pad_token_id), stock)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probs_are_the_teacher_forced_ones(
    lively_model: Any, prompts: Prompts, prompt_ids: list[list[int]], visual: torch.Tensor, temperature: float
) -> None:
    sampled = sample(lively_model, prompt_ids, visual, ROOM, temperature, range(len(prompts)))
    with torch.no_grad():
        forced = response_log_probs(lively_model, prompts, visual, padded(sampled, 0))
    for row, response in enumerate(sampled):
        log_probs = torch.tensor(response.log_probs)
        torch.testing.assert_close(log_probs, forced[row, : len(log_probs)], atol=1e-4, rtol=1e-5)


def test_sampling_repeats_with_its_seeds_and_leaves_the_global_state(
    lively_model: Any, prompt_ids: list[list[int]], visual: torch.Tensor
) -> None:
    state = torch.get_rng_state()
    runs = [sample(lively_model, prompt_ids, visual, ROOM, 1.0, [seed] * len(prompt_ids)) for seed in (3, 3, 4)]
    assert torch.equal(state, torch.get_rng_state())
    assert runs[0] == runs[1] != runs[2]


def test_prompts_with_different_numbers_of_pictures_are_refused() -> None:
    image = 9
    with pytest.raises(ValueError, match=r"same number of pictures, got \[1, 2\]"):
        batch_prompts([[1] + [image] * 4, [1] + [image] * 4 + [2] + [image] * 4], image, 0, ROOM)


def test_patches_take_pixels_of_any_count() -> None:
    assert patches(np.zeros((3, 56, 56, 3), np.uint8)).shape == (3, 16, 1176)
