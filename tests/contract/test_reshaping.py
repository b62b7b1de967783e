"""The estimators `pgpo` and `vogue`: whose advantages they reshape, with what, and what they report."""

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, get_adv_estimator_fn

from verl_mars.algos.mars import mono_anchored_advantage
from verl_mars.algos.pgpo import token_weights
from verl_mars.algos.vogue import paper_advantages, released_advantages, sampled_divergence
from verl_mars.trainer.estimators import ViewScope, anchor_scope, pgpo, view_scope, vogue
from verl_mars.trainer.keys import last_outputs, real_rows


def batch(seed=0, rows=8, tokens=5):
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=draw)).long()
    rewards = torch.zeros(rows, tokens)
    rewards[torch.arange(rows), mask.sum(1) - 1] = torch.rand(rows, generator=draw)
    return rewards, mask, np.array([f"u{i % 2}" for i in range(rows)], dtype=object)


def scope_of(mask, seed=1, noisy=None, keys=None, tags=None):
    draw = torch.Generator().manual_seed(seed)
    rows = len(mask)
    old, view = (-torch.rand(mask.shape, generator=draw).double() * mask for _ in range(2))
    keys = keys or [f"u_{i}_0" for i in range(rows)]
    return ViewScope(
        log_probs=old,
        view_log_probs=view,
        divergence=None,
        reverse_divergence=None,
        entropy=torch.rand(mask.shape, generator=draw) * mask,
        noisy=torch.zeros(rows, dtype=torch.bool) if noisy is None else noisy,
        real=real_rows(tags or [{}] * rows),
        last_output=last_outputs(keys),
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_dependency_zero_gives_grpo_back(normalize):
    rewards, mask, uids = batch()
    config = {"norm_adv_by_std_in_grpo": normalize}
    got, returns = pgpo(rewards, mask, uids, config, dependency=torch.zeros(mask.shape))
    grpo, _ = compute_grpo_outcome_advantage(rewards, mask, uids, norm_adv_by_std_in_grpo=normalize)
    torch.testing.assert_close(got, grpo)
    assert returns is got


@pytest.mark.parametrize("base", ["grpo", "grpo_vectorized", "rloo", "opo", "gpg", "reinforce_plus_plus_baseline"])
def test_pgpo_weighs_any_base(base):
    rewards, mask, uids = batch()
    dependency = torch.rand(mask.shape, generator=torch.Generator().manual_seed(2))
    config = {"pgpo": {"base": base}}
    plain, _ = get_adv_estimator_fn(base)(token_level_rewards=rewards, response_mask=mask, index=uids, config=config)
    got, _ = pgpo(rewards, mask, uids, config, dependency=dependency)
    torch.testing.assert_close(got, plain * token_weights(dependency, mask))
    scope = scope_of(mask)
    scope.view_log_probs = scope.log_probs
    with view_scope(scope):  # through the trainer's rows: the same advantages, and no dependency on anything
        inside, _ = pgpo(rewards, mask, uids, config)
    torch.testing.assert_close(inside, plain, atol=1e-6, rtol=1e-5)


def test_pgpo_weighs_mars():
    rewards, mask, uids = batch()
    anchors = torch.tensor([[0.2, 0.9]] * len(uids))
    scope = scope_of(mask)
    with anchor_scope(anchors, torch.ones(len(uids), dtype=torch.bool)) as anchored, view_scope(scope):
        got, _ = pgpo(rewards, mask, uids, {"pgpo": {"base": "mars"}})
    base = mono_anchored_advantage(rewards.sum(1), list(uids), anchors)[:, None]
    torch.testing.assert_close(got, (base * scope.tokens["weight"] * mask).float())
    assert anchored.statistics is not None


def test_metrics_of_pgpo_leave_padding_out():
    rewards, mask, uids = batch()
    mask[:] = 1
    tags = [{}] * 7 + [{"is_padding": True}]
    scope = scope_of(mask, tags=tags)
    scope.view_log_probs[:7] = scope.log_probs[:7]
    with view_scope(scope):
        pgpo(rewards, mask, uids, {})
    assert scope.metrics == {"pgpo/dependency_mean": 0.0, "pgpo/boosted_tokens": 0.0}


def test_a_session_with_several_outputs_counts_once():
    rewards, mask, _ = batch(rows=5)
    uids = np.array(["a"] * 4 + ["pad1"], dtype=object)
    keys = ["a_0_0", "a_0_1", "a_1_0", "a_2_0", "pad1_0_0"]
    scope = scope_of(mask, keys=keys, tags=[{}] * 4 + [{"is_padding": True}])
    scope.view_log_probs = scope.log_probs
    with view_scope(scope):
        got, _ = pgpo(rewards, mask, uids, {})
    single, _ = compute_grpo_outcome_advantage(rewards[1:4], mask[1:4], uids[1:4])
    values = single[:, :1]
    torch.testing.assert_close(got, torch.cat((values[:1], values, torch.zeros(1, 1))) * mask)


@pytest.mark.parametrize(("variant", "shape"), [("paper", paper_advantages), ("released", released_advantages)])
def test_vogue_adds_its_bonuses(variant, shape):
    rewards, mask, uids = batch()
    noisy = torch.tensor([uid == "u0" for uid in uids])
    scope = scope_of(mask, noisy=noisy)
    with view_scope(scope):
        got, _ = vogue(rewards, mask, uids, {"vogue": {"variant": variant}})
    grpo, _ = compute_grpo_outcome_advantage(rewards, mask, uids)
    divergence = sampled_divergence(scope.log_probs, scope.view_log_probs)
    p = scope.log_probs.exp()
    entropy = scope.entropy.double() if variant == "paper" else (-p * (p + 1e-8).log()).clamp(min=0)
    torch.testing.assert_close(got, (shape(grpo.double(), entropy, divergence, noisy) * mask).float())
    inside = mask.bool() & noisy[:, None]
    assert scope.metrics["vogue/uncertainty"] == pytest.approx(divergence[inside].mean().item())
    assert scope.metrics["vogue/noisy_share"] == 0.5


def test_vogue_without_noisy_groups_has_no_uncertainty():
    rewards, mask, uids = batch()
    scope = scope_of(mask)
    with view_scope(scope):
        vogue(rewards, mask, uids, {})
    assert scope.metrics == {"vogue/noisy_share": 0.0}


def test_an_entropy_a_rounding_below_zero_is_none():
    rewards, mask, uids = batch()
    scope = scope_of(mask)
    scope.entropy = torch.full(mask.shape, -1e-7)
    with view_scope(scope):
        got, _ = vogue(rewards, mask, uids, {})
    torch.testing.assert_close(got, compute_grpo_outcome_advantage(rewards, mask, uids)[0])


@pytest.mark.parametrize("name", ["pgpo", "vogue"])
def test_without_a_scored_view_the_setting_is_named(name):
    rewards, mask, uids = batch()
    with pytest.raises(ValueError, match=f"adv_estimator={name} got no scored view.*trainer_mode=mars_sync"):
        get_adv_estimator_fn(name)(token_level_rewards=rewards, response_mask=mask, index=uids, config={})


def test_the_scope_ends():
    rewards, mask, uids = batch()
    with view_scope(scope_of(mask)):
        pass
    with pytest.raises(ValueError, match="got no scored view"):
        pgpo(rewards, mask, uids, {})


def test_divergences_over_the_vocabulary_are_taken_where_they_are():
    rewards, mask, uids = batch()
    scope = scope_of(mask, noisy=torch.tensor([True] * 4 + [False] * 4))
    scope.divergence, scope.reverse_divergence = torch.rand(2, *mask.shape).double() * mask
    grpo, _ = compute_grpo_outcome_advantage(rewards, mask, uids)
    with view_scope(scope):
        spread, _ = pgpo(rewards, mask, uids, {"pgpo": {"divergence": "exact"}})
        raised, _ = vogue(rewards, mask, uids, {"vogue": {"divergence": "exact"}})
    torch.testing.assert_close(spread, grpo * token_weights(scope.divergence, mask).to(grpo))
    symmetric = (scope.divergence + scope.reverse_divergence) / 2
    expected = paper_advantages(grpo.double(), scope.entropy.double(), symmetric, scope.noisy) * mask
    torch.testing.assert_close(raised.double(), expected, atol=1e-6, rtol=1e-6)
