"""Real verl: a frozen vision tower stays as it was, and everything else is trained."""

import pytest
import torch
from letters_reward import LETTERS
from safetensors.torch import load_file

pytestmark = [pytest.mark.integration, pytest.mark.recipes]


@pytest.mark.parametrize(
    ("frozen", "overrides"),
    [
        (True, ()),
        (True, ("trainer.n_gpus_per_node=2",)),
        (False, ()),
    ],
    ids=["one-rank", "two-ranks", "trained"],
)
def test_the_tower_is_trained_or_not(frozen, overrides, small_run, tiny_model, tmp_path):
    run = small_run(
        "toy_mars_grpo",
        *LETTERS,
        f"actor_rollout_ref.actor.freeze_vision_tower={str(frozen).lower()}",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]",
        *("trainer.save_freq=2", f"trainer.default_local_dir={tmp_path}"),
        *overrides,
    )
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "global_step_2" / "actor" / "huggingface" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    tower = {name for name in before if "visual." in name}
    assert tower and bool(changed & tower) != frozen
    assert changed - tower and run.metrics[1]["actor/grad_norm"] > 0
