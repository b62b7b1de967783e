"""The blind view on a real model: dropping the visual tokens is masking attention to them."""

from typing import Any

import numpy as np
import pytest
import torch

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.toy import model as toy_model
from verl_mars.toy import world
from verl_mars.toy.forward import mrope_positions, patches
from verl_mars.views import Blind, Trajectory

RESPONSE = "<think>top left</think><answer>red</answer><|im_end|>"


@pytest.fixture(scope="module")
def trajectories(processor: Any, scenes: world.Scenes) -> list[Trajectory]:
    """Three prompts of different lengths with one response."""
    image = processor.tokenizer.convert_tokens_to_ids(toy_model.IMAGE)
    response = torch.tensor(processor.tokenizer(RESPONSE)["input_ids"])
    found = []
    for row in range(3):
        prompt = toy_model.tokenize_prompt(processor.tokenizer, scenes.messages(row))
        places = mrope_positions(prompt, image, len(response))
        position_ids = torch.cat((torch.arange(places.shape[1])[None], places))  # as verl has them
        pixels = patches(np.asarray(scenes.images[row])).flatten(0, 1)
        visual = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * world.IMAGES)}
        found.append(Trajectory(torch.tensor(prompt), response, torch.ones_like(response), position_ids, visual))
    return found


@pytest.fixture(scope="module")
def blind(processor: Any) -> Blind:
    token = processor.tokenizer.convert_tokens_to_ids
    return Blind(frozenset({token(toy_model.IMAGE), token(toy_model.VIDEO)}))


def log_probs(model: Any, shown: Trajectory, mask: torch.Tensor | None) -> torch.Tensor:
    """(R,) of the response tokens; ``mask`` None: attention as transformers reads it from the positions."""
    ids = torch.cat((shown.prompt, shown.response))[None]
    logits = model(
        input_ids=ids,
        position_ids=shown.position_ids[:, None],
        attention_mask=mask,
        use_cache=False,  # as verl; with a cache transformers does not look for packed sequences
        **shown.visual_inputs,
    ).logits
    start = len(shown.prompt)
    every = torch.log_softmax(logits[0, start - 1 : -1], dim=-1)
    return every.gather(1, shown.response[:, None])[:, 0]


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_dropping_visual_tokens_is_masking_attention_to_them(
    lively_model: Any, trajectories: list[Trajectory], blind: Blind, packed: bool
) -> None:
    for trajectory in trajectories:
        shown = blind.show(trajectory)
        assert shown is not None and len(shown.prompt) == len(trajectory.prompt) - 8
        count = len(shown.prompt) + len(shown.response)
        # verl passes a mask for padded batches and none for packed ones; then the first row of positions counts.
        dropped = log_probs(lively_model, shown, None if packed else torch.ones(1, count, dtype=torch.long))

        ids = torch.cat((trajectory.prompt, trajectory.response))
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        visual = torch.isin(ids, torch.tensor(sorted(blind.visual_tokens)))
        seen &= ~visual[None, :] | torch.eye(len(ids), dtype=torch.bool)  # a visual token may see itself: nobody asks
        masked = log_probs(lively_model, trajectory, seen[None, None])
        torch.testing.assert_close(dropped, masked, atol=1e-4, rtol=0)

        fused = log_probs(lively_model, trajectory, torch.ones(1, len(ids), dtype=torch.long))
        assert (dropped - fused).abs().max() > 1e-2, "or the test would prove nothing"


@torch.no_grad()
def test_without_mrope_the_whole_prompt_is_seen_packed_and_padded() -> None:
    """A gap in the positions would end a packed sequence: the response would not see the text before the image."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.3) if parameter.dim() > 1 else None
    image = 7
    before = Trajectory(
        *(torch.tensor([1, 2, image, image, 3]), torch.tensor([4, 5]), torch.ones(2, dtype=torch.long)),
        position_ids=torch.arange(7),
        visual_inputs={},
    )
    shown = Blind(frozenset({image})).show(before)
    assert shown is not None
    ids = torch.cat((shown.prompt, shown.response))[None]
    run = {"input_ids": ids, "position_ids": shown.position_ids[None], "use_cache": False}
    padded = model(**run, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model(**run).logits, padded, atol=1e-5, rtol=0)
    cut_off = model(input_ids=ids, position_ids=before.position_ids[None, [0, 1, 4, 5, 6]], use_cache=False).logits
    assert (cut_off - padded)[0, 2:].abs().max() > 1e-2, "or the gap would do no harm"


def test_every_other_token_keeps_its_mrope_position(trajectories: list[Trajectory], blind: Blind) -> None:
    shown = blind.show(trajectories[0])
    assert shown is not None
    ids = torch.cat((trajectories[0].prompt, trajectories[0].response))
    kept = ~torch.isin(ids, torch.tensor(sorted(blind.visual_tokens)))
    assert torch.equal(shown.position_ids[1:], trajectories[0].position_ids[1:, kept])
    assert shown.position_ids[0].tolist() == list(range(int(kept.sum())))
    assert shown.visual_inputs == {}


def test_without_visual_tokens_there_is_nothing_to_score(trajectories: list[Trajectory], blind: Blind) -> None:
    shown = blind.show(trajectories[0])
    assert shown is not None and blind.show(shown) is None


@torch.no_grad()
def test_the_sampled_dependency_has_the_exact_kl_as_its_mean(
    lively_model: Any, trajectories: list[Trajectory], blind: Blind
) -> None:
    """200 draws at every place of a response: their mean is the KL over the vocabulary within its standard error."""

    def distributions(shown: Trajectory) -> torch.Tensor:
        ids = torch.cat((shown.prompt, shown.response))[None]
        mask = torch.ones_like(ids)
        positions = shown.position_ids[:, None]
        logits = lively_model(input_ids=ids, position_ids=positions, attention_mask=mask, **shown.visual_inputs).logits
        return torch.log_softmax(logits[0, len(shown.prompt) - 1 : -1].double(), dim=-1)

    shown = blind.show(trajectories[0])
    assert shown is not None
    fused, without = distributions(trajectories[0]), distributions(shown)
    exact = (fused.exp() * (fused - without)).sum(-1)
    tokens = torch.multinomial(fused.exp(), 200, replacement=True, generator=torch.Generator().manual_seed(0))
    draws = sampled_dependency(fused.gather(1, tokens), without.gather(1, tokens))
    per_draw = draws.mean(0)  # of a whole response
    error = per_draw.std() / 200**0.5
    assert exact.mean() > 1e-3
    assert abs(per_draw.mean() - exact.mean()) < 3 * error < exact.mean()
