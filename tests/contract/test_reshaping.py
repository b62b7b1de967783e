"""Methods that reshape: whose advantages, with what, and what they report."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import (
    ADV_ESTIMATOR_REGISTRY,
    compute_grpo_outcome_advantage,
    get_adv_estimator_fn,
)

from verl_mars.algos.mars import mono_anchored_advantage
from verl_mars.algos.pgpo import token_weights
from verl_mars.algos.vogue import Bonus, paper_advantages, released_advantages, sampled_divergence
from verl_mars.methods import METHODS, RowValues
from verl_mars.methods.estimator import estimator, hand_over
from verl_mars.methods.reshaping import base_faults
from verl_mars.rows import NOISY, AnchorRows, last_outputs, real_rows

pgpo, vogue = estimator("pgpo"), estimator("vogue")
PGPO, PERCEPTION, OUTPUT = (0.4, 2.0, "absolute"), Bonus(1.0, 2.0), Bonus(0.4, 2.0)  # the papers' settings


def batch(seed=0, rows=8, tokens=5):
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=draw)).long()
    rewards = torch.zeros(rows, tokens)
    rewards[torch.arange(rows), mask.sum(1) - 1] = torch.rand(rows, generator=draw)
    return rewards, mask, np.array([f"u{i % 2}" for i in range(rows)], dtype=object)


def values_of(mask, seed=1, noisy=None, keys=None, tags=None, **changes):
    """What the trainer knows about rescored rows."""
    draw = torch.Generator().manual_seed(seed)
    rows = len(mask)
    old, view = (-torch.rand(mask.shape, generator=draw).double() * mask for _ in range(2))
    values = {
        "real": real_rows(tags or [{}] * rows),
        "last_output": last_outputs(keys or [f"u_{i}_0" for i in range(rows)]),
        "log_probs": old,
        "view_log_probs": view,
        "entropy": torch.rand(mask.shape, generator=draw) * mask,
        "fields": {NOISY: ([False] * rows if noisy is None else noisy.tolist())},
    }
    return RowValues(**values | changes)


def unmoved(mask, **changes):
    """The same, with a view that leaves the policy as it is."""
    values = values_of(mask, **changes)
    return replace(values, view_log_probs=values.log_probs)


def inside(name, values, rewards, mask, uids, config=None):
    """Advantages, metrics and token values of a method as the trainer gets them."""
    with hand_over(METHODS[name](config or {}), values) as handover:
        got, _ = estimator(name)(rewards, mask, uids, config or {})
    return got, handover.metrics(), {key: token.values for key, token in handover.result.tokens.items()}


@pytest.mark.parametrize("normalize", [True, False])
def test_dependency_zero_gives_grpo_back(normalize):
    rewards, mask, uids = batch()
    config = {"norm_adv_by_std_in_grpo": normalize}
    got, returns = pgpo(rewards, mask, uids, config, divergence=torch.zeros(mask.shape))
    grpo, _ = compute_grpo_outcome_advantage(rewards, mask, uids, norm_adv_by_std_in_grpo=normalize)
    torch.testing.assert_close(got, grpo)
    assert returns is got


@pytest.mark.parametrize("base", ["grpo", "grpo_vectorized", "rloo", "opo", "gpg", "reinforce_plus_plus_baseline"])
def test_pgpo_weighs_any_base(base):
    rewards, mask, uids = batch()
    dependency = torch.rand(mask.shape, generator=torch.Generator().manual_seed(2))
    config = {"pgpo": {"base": base}}
    plain, _ = get_adv_estimator_fn(base)(token_level_rewards=rewards, response_mask=mask, index=uids, config=config)
    got, _ = pgpo(rewards, mask, uids, config, divergence=dependency)
    torch.testing.assert_close(got, plain * token_weights(dependency, mask, *PGPO))
    # Through the trainer's rows: the same advantages, and no dependency on anything.
    through, *_ = inside("pgpo", unmoved(mask), rewards, mask, uids, config)
    torch.testing.assert_close(through, plain, atol=1e-6, rtol=1e-5)


def test_pgpo_weighs_mars():
    rewards, mask, uids = batch()
    anchors = torch.tensor([[0.2, 0.9]] * len(uids))
    rows = AnchorRows(anchors, anchors, [["rgb", "ir"]] * len(uids), torch.ones(len(uids)), torch.ones(len(uids)))
    tags = [{"response_len": 3}] * len(uids)
    values = values_of(mask, tags=tags, anchors=rows)
    values = replace(values, tags=tags)
    got, metrics, tokens = inside("pgpo", values, rewards, mask, uids, {"pgpo": {"base": "mars"}})
    base = mono_anchored_advantage(rewards.sum(1), list(uids), anchors)[:, None]
    torch.testing.assert_close(got, (base * tokens["weight"] * mask).float())
    assert {"mars/info_gain", "mars/missing_anchors", "pgpo/dependency_mean"} <= set(metrics)


def test_metrics_of_pgpo_leave_padding_out():
    rewards, mask, uids = batch()
    mask[:] = 1
    tags = [{}] * 7 + [{"is_padding": True}]
    values = values_of(mask, tags=tags)
    values.view_log_probs[:7] = values.log_probs[:7]
    _, metrics, _ = inside("pgpo", values, rewards, mask, uids)
    assert metrics == {
        "pgpo/dependency_mean": 0.0,
        "pgpo/boosted_tokens": 0.0,
        "pgpo/weight_max": 1.0,
        "pgpo/effective_tokens": 1.0,
    }


def test_pgpos_guard_against_rounding_noise_is_that_of_the_forward_pass():
    rewards, mask, uids = batch()
    values = unmoved(mask)
    noise = 0.02 * torch.randn(mask.shape, generator=torch.Generator().manual_seed(3)).double() * mask
    values = replace(values, view_log_probs=values.log_probs + noise)
    weights = {
        kind: inside("pgpo", replace(values, forward_type=kind), rewards, mask, uids)[2]["weight"]
        for kind in (torch.float32, torch.bfloat16)
    }
    torch.testing.assert_close(weights[torch.bfloat16], mask.double())
    assert weights[torch.float32].max() > 1.5
    fixed = inside("pgpo", values, rewards, mask, uids, {"pgpo": {"min_span": 0.03}})[2]["weight"]
    torch.testing.assert_close(fixed, mask.double())


def test_pgpos_caps_arrive():
    rewards, mask, uids = batch()
    values = values_of(mask)
    config = {"pgpo": {"max_weight": 1.5, "max_dependency": 0.01}}
    _, metrics, tokens = inside("pgpo", values, rewards, mask, uids, config)
    assert metrics["pgpo/weight_max"] == tokens["weight"].max() <= 1.5
    assert metrics["pgpo/effective_tokens"] > inside("pgpo", values, rewards, mask, uids)[1]["pgpo/effective_tokens"]


def test_a_session_with_several_outputs_counts_once():
    rewards, mask, _ = batch(rows=5)
    uids = np.array(["a"] * 4 + ["pad1"], dtype=object)
    keys = ["a_0_0", "a_0_1", "a_1_0", "a_2_0", "pad1_0_0"]
    values = unmoved(mask, keys=keys, tags=[{}] * 4 + [{"is_padding": True}])
    got, *_ = inside("pgpo", values, rewards, mask, uids)
    single, _ = compute_grpo_outcome_advantage(rewards[1:4], mask[1:4], uids[1:4])
    of_session = single[:, :1]
    torch.testing.assert_close(got, torch.cat((of_session[:1], of_session, torch.zeros(1, 1))) * mask)


@pytest.mark.parametrize(("variant", "shape"), [("paper", paper_advantages), ("released", released_advantages)])
def test_vogue_adds_its_bonuses(variant, shape):
    rewards, mask, uids = batch()
    noisy = torch.tensor([uid == "u0" for uid in uids])
    values = values_of(mask, noisy=noisy)
    got, metrics, _ = inside("vogue", values, rewards, mask, uids, {"vogue": {"variant": variant}})
    grpo, _ = compute_grpo_outcome_advantage(rewards, mask, uids)
    divergence = sampled_divergence(values.log_probs, values.view_log_probs)
    p = torch.where(noisy[:, None], values.view_log_probs, values.log_probs).exp()  # the branch's own, in both
    entropy = values.entropy.double() if variant == "paper" else (-p * (p + 1e-8).log()).clamp(min=0)
    torch.testing.assert_close(
        got, (shape(grpo.double(), entropy, divergence, noisy, PERCEPTION, OUTPUT) * mask).float()
    )
    where = mask.bool() & noisy[:, None]
    assert metrics["vogue/uncertainty"] == pytest.approx(divergence[where].mean().item())
    assert metrics["vogue/noisy_share"] == 0.5


def test_vogue_without_noisy_groups_has_no_uncertainty():
    rewards, mask, uids = batch()
    _, metrics, _ = inside("vogue", values_of(mask), rewards, mask, uids)
    assert metrics == {"vogue/noisy_share": 0.0}


def test_an_entropy_a_rounding_below_zero_is_none():
    rewards, mask, uids = batch()
    values = values_of(mask, entropy=torch.full(mask.shape, -1e-7))
    got, *_ = inside("vogue", values, rewards, mask, uids)
    torch.testing.assert_close(got, compute_grpo_outcome_advantage(rewards, mask, uids)[0])


@pytest.mark.parametrize("name", ["pgpo", "vogue"])
def test_without_view_log_probs_the_setting_is_named(name):
    rewards, mask, uids = batch()
    with pytest.raises(ValueError, match=f"adv_estimator={name} got no view log-probs.*trainer_mode=mars_sync"):
        get_adv_estimator_fn(name)(token_level_rewards=rewards, response_mask=mask, index=uids, config={})


def test_the_handover_ends():
    rewards, mask, uids = batch()
    with hand_over(METHODS["pgpo"]({}), values_of(mask)):
        pass
    with pytest.raises(ValueError, match="got no view log-probs"):
        pgpo(rewards, mask, uids, {})


def test_divergences_over_the_vocabulary_are_taken_where_they_are():
    rewards, mask, uids = batch()
    forward, reverse = torch.rand(2, *mask.shape).double() * mask
    noisy = torch.tensor([True] * 4 + [False] * 4)
    values = values_of(mask, noisy=noisy, divergence=forward, reverse_divergence=reverse)
    grpo, _ = compute_grpo_outcome_advantage(rewards, mask, uids)
    spread, *_ = inside("pgpo", values, rewards, mask, uids, {"pgpo": {"divergence": "exact"}})
    raised, *_ = inside("vogue", values, rewards, mask, uids, {"vogue": {"divergence": "exact"}})
    torch.testing.assert_close(spread, grpo * token_weights(forward, mask, *PGPO).to(grpo))
    symmetric = (forward + reverse) / 2
    shaped = paper_advantages(grpo.double(), values.entropy.double(), symmetric, noisy, PERCEPTION, OUTPUT)
    torch.testing.assert_close(raised.double(), shaped * mask, atol=1e-6, rtol=1e-6)


# ---------------------------------------------------------------- estimators of others as a base


@pytest.fixture
def registered():
    """A function that registers an estimator with verl for the length of a test."""
    added = []

    def register(name, function):
        ADV_ESTIMATOR_REGISTRY[name] = function
        added.append(name)

    yield register
    for name in added:
        del ADV_ESTIMATOR_REGISTRY[name]


def test_an_estimator_of_the_users_own_is_a_base(registered):
    """Twice the reward."""

    def doubled(token_level_rewards, response_mask, index=None, config=None):
        advantages = 2 * token_level_rewards.sum(1, keepdim=True) * response_mask
        return advantages, advantages

    registered("doubled", doubled)
    rewards, mask, uids = batch()
    assert list(base_faults("doubled", "algorithm.pgpo.base")) == []
    got, *_ = inside("pgpo", unmoved(mask), rewards, mask, uids, {"pgpo": {"base": "doubled"}})
    torch.testing.assert_close(got, doubled(rewards, mask)[0])


def test_an_estimator_that_tells_tokens_apart_is_no_base(registered):
    def rising(token_level_rewards, response_mask, index=None, config=None):
        advantages = torch.arange(response_mask.shape[1]) * response_mask
        return advantages.float(), advantages.float()

    registered("rising", rising)
    rewards, mask, uids = batch()
    with pytest.raises(ValueError, match="algorithm.pgpo.base = 'rising'.*different advantages.*'grpo'"):
        inside("pgpo", unmoved(mask), rewards, mask, uids, {"pgpo": {"base": "rising"}})


def test_an_estimator_that_needs_more_is_no_base(registered):
    registered("critical", lambda token_level_rewards, response_mask, values: None)
    assert "needs values" in "".join(base_faults("critical", "algorithm.pgpo.base"))


@pytest.mark.parametrize("base", ["pgpo", "vogue"])
def test_a_method_that_reshapes_is_no_base(base):
    with pytest.raises(ValueError, match=f"algorithm.vogue.base = '{base}': it reshapes advantages itself"):
        METHODS["vogue"]({"vogue": {"base": base}})
