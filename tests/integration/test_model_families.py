"""Other model families than the toy's, as tiny models of their real classes: two steps of real verl each.

PGPO over MARS asks for all that a family can get wrong: sources shown alone, the blind view, responses rescored.
"""

import model_families
import pytest
import torch

pytestmark = [pytest.mark.integration, pytest.mark.recipes]


@pytest.fixture(scope="module", params=model_families.FAMILIES)
def family_run(request, run_with_probe, tmp_path_factory):
    folder = model_families.write(request.param, tmp_path_factory.mktemp(request.param))
    model = f"actor_rollout_ref.model.path={folder}"
    run = run_with_probe("toy_pgpo_grpo", model, "algorithm.pgpo.base=mars")
    run.folder = folder
    return run


def test_the_engine_and_the_trainer_read_the_prompt_alike(family_run):
    for step in (1, 2):
        metrics = family_run.metrics[step]
        assert metrics["training/rollout_probs_diff_max"] < 1e-3
        assert metrics["actor/grad_norm"] > 0


def test_each_source_is_shown_alone(family_run):
    for step in (1, 2):
        metrics = family_run.metrics[step]
        assert metrics["mars/missing_anchors"] == 0
        assert {"mars/anchor_score/rgb", "mars/anchor_score/infrared", "mars/info_gain"} <= metrics.keys()


def test_blind_log_probs_are_the_models_own(family_run):
    """By a plain forward pass over the prompt without its images: no code of verl, none of the views."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(family_run.folder).eval()
    image = AutoProcessor.from_pretrained(family_run.folder).image_token_id
    rows = [row for row in family_run.steps[1]["rows"] if not row["is_padding"]]
    assert rows
    for row in rows[:8]:
        kept = [token for token in row["prompts"] if token != image]
        assert len(kept) < len(row["prompts"])
        ids = torch.tensor([[*kept, *row["responses"]]])
        everything = torch.tensor([*row["prompts"], *row["responses"]])
        positions = torch.tensor(row["position_ids"])[:, everything != image]  # place, time, height, width
        positions[0] = torch.arange(ids.shape[1])
        with torch.no_grad():
            logits = model(input_ids=ids, position_ids=positions[:, None], use_cache=False).logits
        every = torch.log_softmax(logits[0, len(kept) - 1 : -1].float(), dim=-1)
        said = every.gather(1, torch.tensor(row["responses"])[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(row["view_log_probs"]), said, atol=1e-3, rtol=0)
        assert (torch.tensor(row["view_log_probs"]) - torch.tensor(row["old_log_probs"])).abs().max() > 1e-4
