"""Real Ray, verl and FSDP on the CPU: ``divergence=exact`` is the KL of the model's own distributions."""

import pytest
import torch
from toy_opinion import said

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.algos.pgpo import token_weights

pytestmark = [pytest.mark.integration, pytest.mark.recipes]

DRAWS = 200


@pytest.fixture(scope="module")
def pgpo_run(run_with_probe):
    """Two FSDP ranks; 3 prompts x 4 rollouts are padded to 16 rows, and 4 of these only fill up a pass."""
    return run_with_probe(
        "toy_pgpo_grpo",
        "algorithm.pgpo.divergence=exact",
        "trainer.n_gpus_per_node=2",
        "data.train_batch_size=3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    )


@pytest.fixture(scope="module")
def vogue_run(run_with_probe):
    return run_with_probe("toy_vogue_grpo", "algorithm.vogue.divergence=exact")


def real(run, step=1):
    return [row for row in run.steps[step]["rows"] if not row["is_padding"]]


def divergence(p, q):
    """(R,) by all words."""
    return (p.exp() * (p - q)).sum(1)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, expected):
    torch.testing.assert_close(tensor(got), expected, atol=2e-5, rtol=1e-3)


def test_the_blind_view_is_compared_over_all_words(pgpo_run, toy):
    for row in real(pgpo_run):
        fused, blind = toy.fused(row), toy.blind(row)
        close(row["view_divergence"], divergence(fused, blind))
        close(row["view_reverse_divergence"], divergence(blind, fused))
        torch.testing.assert_close(tensor(row["view_log_probs"]), said(blind, row), atol=1e-4, rtol=0)


def test_what_is_not_compared_is_no_distance_away(pgpo_run):
    padding = [row for row in pgpo_run.steps[1]["rows"] if row["is_padding"]]
    assert len(padding) == 4
    for row in padding:
        assert set(row["view_divergence"]) == set(row["view_reverse_divergence"]) == set(row["advantages"]) == {0.0}
        assert row["view_log_probs"] == row["old_log_probs"]
    assert [pgpo_run.steps[step]["left"] for step in (1, 2)] == [[], []]


def test_advantages_are_spread_by_it(pgpo_run):
    for row in real(pgpo_run):
        weights = token_weights(tensor([row["view_divergence"]]), torch.ones(1, len(row["advantages"])))[0]
        got = tensor(row["advantages"])
        torch.testing.assert_close(got, got.sum() / weights.sum() * weights, atol=1e-3, rtol=1e-3)
    dependencies = torch.cat([tensor(row["view_divergence"]) for row in real(pgpo_run)])
    assert pgpo_run.metrics[1]["pgpo/dependency_mean"] == pytest.approx(dependencies.mean().item(), rel=1e-3)


def test_the_sampled_estimate_means_the_exact_one(pgpo_run, toy):
    """200 words drawn at each place of the responses: the mean estimate is the exact mean, within 4 standard errors."""
    rows = real(pgpo_run)
    fused, blind = (torch.cat([view(row) for row in rows]) for view in (toy.fused, toy.blind))
    exact = torch.cat([tensor(row["view_divergence"]) for row in rows])
    draws = torch.multinomial(fused.exp(), DRAWS, replacement=True, generator=torch.Generator().manual_seed(0))
    estimates = sampled_dependency(fused.gather(1, draws), blind.gather(1, draws))
    difference = (estimates - exact[:, None]).mean(0)  # of each of the 200 draws
    error = difference.std() / DRAWS**0.5
    assert difference.mean().abs() < 4 * error and error < 0.2 * exact.mean()


def test_noisy_groups_are_compared_with_their_raw_images(vogue_run, toy):
    """Both directions, from pixels that never left the training rows; the last step has no noisy group."""
    apart = 0.0
    for row in real(vogue_run):
        forward, reverse = tensor(row["view_divergence"]), tensor(row["view_reverse_divergence"])
        torch.testing.assert_close(tensor(row["view_log_probs"]), said(toy.fused(row), row), atol=1e-4, rtol=0)
        assert row["noisy"] == bool(forward.max() > 1e-7) == bool(reverse.max() > 1e-7)
        apart = max(apart, (forward - reverse).abs().max().item())
    assert apart > 0, "the two directions differ"
    noisy = [0.5 * (a + b) for r in real(vogue_run) if r["noisy"] for a, b in zip(*both(r), strict=True)]
    assert vogue_run.metrics[1]["vogue/uncertainty"] == pytest.approx(sum(noisy) / len(noisy), rel=1e-3)
    assert "vogue/uncertainty" not in vogue_run.metrics[2]
    assert {row["pixels_left"] for row in real(vogue_run)} == {0}


def both(row):
    return row["view_divergence"], row["view_reverse_divergence"]
