"""Real Ray, verl and FSDP on the CPU: what is scored under another view is what the model says of it.

The weights are random, so a reward that looks at letters tells the answers apart.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from letters_reward import LETTERS
from toy_opinion import said

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.algos.pgpo import token_weights
from verl_mars.algos.vogue import sampled_divergence, sampled_entropy

pytestmark = [pytest.mark.integration, pytest.mark.recipes]


@pytest.fixture(scope="module")
def pgpo_run(run_with_probe):
    """3 prompts x 4 rollouts are padded to 16 rows: mini-batches of 2 x 4."""
    return run_with_probe("toy_pgpo_grpo", "data.train_batch_size=3", "actor_rollout_ref.actor.ppo_mini_batch_size=2")


@pytest.fixture(scope="module")
def vogue_run(run_with_probe):
    return run_with_probe("toy_vogue_grpo")


@pytest.fixture(scope="module")
def released_run(run_with_probe):
    """The authors' variant over the advantages of MARS, with dynamic sampling."""
    return run_with_probe("toy_vogue_dapo", "algorithm.vogue.base=mars", "algorithm.vogue.variant=released")


def real(run, step):
    return [row for row in run.steps[step]["rows"] if not row["is_padding"]]


def grpo(rows):
    """The advantage of each row within its group."""
    groups = {}
    for row in rows:
        groups.setdefault(row["uid"], []).append(row["reward"])
    spread = {uid: (np.mean(rewards), np.std(rewards, ddof=1) + 1e-6) for uid, rewards in groups.items()}
    return [(row["reward"] - spread[row["uid"]][0]) / spread[row["uid"]][1] for row in rows]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# ---------------------------------------------------------------- PGPO


def test_blind_log_probs_are_the_models_own(pgpo_run, toy):
    for row in real(pgpo_run, 1):
        torch.testing.assert_close(tensor(row["view_log_probs"]), said(toy.blind(row), row), atol=1e-4, rtol=0)
        torch.testing.assert_close(tensor(row["old_log_probs"]), said(toy.fused(row), row), atol=1e-4, rtol=0)


def test_pgpo_spreads_the_advantage_of_grpo(pgpo_run):
    for step in (1, 2):
        rows = real(pgpo_run, step)
        assert any(row["reward"] != rows[0]["reward"] for row in rows)
        for row, base in zip(rows, grpo(rows), strict=True):
            dependency = sampled_dependency(tensor([row["old_log_probs"]]), tensor([row["view_log_probs"]]))
            expected = base * token_weights(dependency, torch.ones_like(dependency))[0]
            torch.testing.assert_close(tensor(row["advantages"]), expected, atol=1e-3, rtol=1e-3)


def test_padding_is_neither_scored_nor_trained_on(pgpo_run):
    padding = [row for row in pgpo_run.steps[1]["rows"] if row["is_padding"]]
    assert len(padding) == 4
    for row in padding:
        assert set(row["advantages"]) == {0.0} and row["view_log_probs"] == row["old_log_probs"]


@pytest.mark.parametrize("run", ["pgpo_run", "vogue_run"])
def test_the_partition_of_the_view_is_cleared(run, request):
    assert [request.getfixturevalue(run).steps[step]["left"] for step in (1, 2)] == [[], []]


def test_metrics_of_pgpo(pgpo_run):
    for step in (1, 2):
        metrics, rows = pgpo_run.metrics[step], real(pgpo_run, step)
        each = [sampled_dependency(tensor([r["old_log_probs"]]), tensor([r["view_log_probs"]]))[0] for r in rows]
        assert metrics["pgpo/dependency_mean"] == pytest.approx(torch.cat(each).mean().item(), rel=1e-4)
        assert 0 < metrics["pgpo/boosted_tokens"] < 1
        share = metrics["timing_s/score_view"] / metrics["timing_s/step"]
        assert 0 < metrics["perf/score_view_share"] == pytest.approx(share)


def test_every_token_is_dumped_with_its_dependency(pgpo_run):
    assert len(pgpo_run.dump) == len(pgpo_run.steps[1]["rows"])
    by_key = {tuple(row["responses"]): row for row in real(pgpo_run, 1)}
    assert by_key
    for line in pgpo_run.dump:
        count = len(line["tokens"])
        assert count == len(line["dependency"]) == len(line["weight"]) == len(line["sampled"]) > 0
        assert len(line["images"]) == 2 and all(Path(image).is_file() for image in line["images"])
        assert sum(line["weight"]) == pytest.approx(sum(line["sampled"]), abs=1e-3)
        assert {"input", "output", "score"} <= line.keys()


# ---------------------------------------------------------------- VOGUE, as in the paper


def test_a_group_is_noisy_as_a_whole_and_never_at_the_last_step(vogue_run):
    groups = {}
    for row in real(vogue_run, 1):
        groups.setdefault(row["uid"], set()).add(row["noisy"])
    assert all(len(kinds) == 1 for kinds in groups.values()) and {True, False} == set.union(*groups.values())
    share = sum(True in kinds for kinds in groups.values()) / len(groups)
    assert vogue_run.metrics[1]["vogue/noisy_share"] == pytest.approx(share)
    assert vogue_run.metrics[2]["vogue/noisy_share"] == 0  # the annealing ends with the training
    assert "vogue/uncertainty" not in vogue_run.metrics[2]


def test_noisy_groups_are_rolled_out_on_noisy_images_and_scored_on_raw_ones(vogue_run, toy):
    moved = 0.0
    for row in real(vogue_run, 1):
        fused = said(toy.fused(row), row)
        torch.testing.assert_close(tensor(row["view_log_probs"]), fused, atol=1e-4, rtol=0)
        if row["noisy"]:
            moved = max(moved, (tensor(row["old_log_probs"]) - fused).abs().max().item())
    assert moved > 1e-3
    # What the engine sampled from is what the actor is trained on.
    assert vogue_run.metrics[1]["rollout_corr/log_ppl_abs_diff"] < 1e-3


@pytest.mark.parametrize("run", ["vogue_run", "released_run"])
def test_pixels_of_the_other_view_are_not_kept(run, request):
    assert {row["pixels_left"] for row in request.getfixturevalue(run).steps[1]["rows"]} == {0}


def bonus(advantage, uncertainty, alpha, beta=2.0):
    return torch.minimum(tensor(advantage).abs() / beta, alpha * uncertainty)


def test_vogue_adds_the_papers_bonuses_to_grpo(vogue_run):
    rows = real(vogue_run, 1)
    for row, base in zip(rows, grpo(rows), strict=True):
        expected = base + bonus(base, tensor(row["entropy"]), 0.4)
        if row["noisy"]:
            moved = sampled_divergence(tensor(row["old_log_probs"]), tensor(row["view_log_probs"]))
            expected = expected + bonus(base, moved, 1.0)
        torch.testing.assert_close(tensor(row["advantages"]), expected, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------- VOGUE, as released, over MARS and DAPO


def test_released_rolls_out_and_trains_on_raw_images_and_scores_noisy_ones(released_run, toy):
    moved = 0.0
    for row in real(released_run, 1):
        fused = said(toy.fused(row), row)
        torch.testing.assert_close(tensor(row["old_log_probs"]), fused, atol=1e-4, rtol=0)
        difference = (tensor(row["view_log_probs"]) - fused).abs().max().item()
        assert row["noisy"] or difference < 1e-4
        moved = max(moved, difference)
    assert moved > 1e-3


def test_released_shapes_the_advantages_of_mars(released_run):
    metrics = released_run.metrics[1]
    assert {"mars/info_gain", "vogue/noisy_share", "vogue/uncertainty"} <= metrics.keys()
    for row in real(released_run, 1):
        entropy = sampled_entropy(tensor(row["old_log_probs"]))
        got = tensor(row["advantages"])
        # Undo the bonus for output where it is not capped; then all tokens of a raw row share one advantage.
        bare = (got - 0.4 * entropy)[0.4 * entropy < got.abs() / 3]
        if not row["noisy"] and len(bare):
            torch.testing.assert_close(bare, bare[:1].expand_as(bare), atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------- the other recipes


@pytest.mark.parametrize(("recipe", "with_anchors"), [("toy_pgpo_dapo", False), ("toy_mars_pgpo_dapo", True)])
def test_recipes_over_dapo_train(recipe, with_anchors, small_run):
    run = small_run(recipe, *LETTERS)
    for step in (1, 2):
        assert run.metrics[step]["actor/grad_norm"] > 0
        assert run.metrics[step]["pgpo/dependency_mean"] > 0
        assert ("mars/info_gain" in run.metrics[step]) == with_anchors
