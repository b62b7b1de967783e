"""PAPO's advantage: by hand, a slow twin, and the same gradient as the loss of the released code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.algos.papo import perception_advantage

GAMMA, ETA, CLIP = 0.02, 0.03, 10.0


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_by_hand():
    # r = 1/2, 1, 2 and 16: 1 - r = .5, 0, -1, and KL3 = 15 - log 16 = 12.2 is clipped
    own, masked = tensor([0.5, 0.25, 0.25, 0.05]).log(), tensor([0.25, 0.25, 0.5, 0.8]).log()
    torch.testing.assert_close(perception_advantage(own, masked, GAMMA, 0.0, CLIP), tensor([0.01, 0.0, -0.02, 0.0]))
    torch.testing.assert_close(perception_advantage(own, masked, GAMMA, ETA, CLIP), tensor([0.04, 0.03, 0.01, 0.03]))
    # with the clip at .2: KL3 of r = 1/2 is .193, of r = 2 it is .307
    torch.testing.assert_close(perception_advantage(own, masked, GAMMA, 0.0, 0.2), tensor([0.01, 0.0, 0.0, 0.0]))


log_probs = st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(log_probs, st.sampled_from([0.2, 10.0]))
def test_against_the_slow_twin(pairs, clip):
    twin = []
    for own, masked in pairs:
        ratio = math.exp(masked - own)
        clipped = ratio - 1 - (masked - own) > clip or abs(masked - own) > 20
        twin.append((0.0 if clipped else GAMMA * (1 - ratio)) + ETA)
    own, masked = tensor(*zip(*pairs, strict=True)).chunk(2)
    torch.testing.assert_close(perception_advantage(own, masked, GAMMA, ETA, clip), tensor(twin), atol=1e-9, rtol=1e-9)


def released_loss(log_probs, old, masked, advantages, gamma, eta, clip):
    """PPO's loss with the terms of the released code, masked log-probs fixed; token mean over the batch."""
    ratio = (log_probs - old).exp()
    policy = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.28)).mean()
    log_ratio = (masked - log_probs).clamp(-20, 20)
    perception = (log_ratio.exp() - log_ratio - 1).clamp(0, clip).mean()
    return policy - gamma * perception + eta * (-log_probs).mean() + eta * (-masked).mean()


def gradients(logits, words, old, masked, advantages, shaped):
    log_probs = logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]
    (theirs,) = torch.autograd.grad(
        released_loss(log_probs, old, masked, advantages, GAMMA, ETA, CLIP), logits, retain_graph=True
    )
    ratio = (log_probs - old).exp()
    ours = torch.maximum(-shaped * ratio, -shaped * ratio.clamp(0.8, 1.28)).mean()
    return theirs, torch.autograd.grad(ours, logits)[0]


def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, 17, generator=generator, dtype=torch.float64)
    words = torch.randint(0, 17, (6, 9), generator=generator)
    advantages = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    old = logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]
    masked = old + 1.5 * torch.randn(6, 9, generator=generator, dtype=torch.float64)
    step = 0.3 * torch.randn(6, 9, 17, generator=generator, dtype=torch.float64)
    return logits, words, advantages, old, masked, step


def test_at_the_old_policy_the_gradient_is_that_of_the_released_loss():
    logits, words, advantages, old, masked, _ = case()
    shaped = advantages + perception_advantage(old, masked, GAMMA, ETA, CLIP)
    theirs, ours = gradients(logits.clone().requires_grad_(), words, old, masked, advantages, shaped)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
    plain = gradients(logits.clone().requires_grad_(), words, old, masked, advantages, advantages)[1]
    assert (plain - theirs).abs().max() > 1e-4  # the term is not too small to see


def test_away_from_the_old_policy_it_is_not():
    logits, words, advantages, old, masked, step = case()
    shaped = advantages + perception_advantage(old, masked, GAMMA, ETA, CLIP)
    theirs, ours = gradients((logits + step).requires_grad_(), words, old, masked, advantages, shaped)
    assert (ours - theirs).abs().max() > 1e-4


def test_its_mean_lowers_what_the_policy_would_say_without_the_images():
    # over every word by its probability: E_p[(1 - q/p) d log p] = -E_q[d log p], and E_p[eta d log p] = 0
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    masked = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_p = logits.log_softmax(-1)
    weight = perception_advantage(log_p[None], masked[None], 1.0, ETA, 1e9)[0]
    (got,) = torch.autograd.grad((log_p.detach().exp() * weight * log_p).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(masked.exp() * log_p).sum(), logits)
    torch.testing.assert_close(got, expected)


def test_without_images_only_the_entropy_term_is_left():
    own = tensor([-0.5, -3.0])
    torch.testing.assert_close(perception_advantage(own, own, GAMMA, 0.0, CLIP), tensor([0.0, 0.0]))
    torch.testing.assert_close(perception_advantage(own, own, GAMMA, ETA, CLIP), tensor([ETA, ETA]))


def test_extremes_stay_finite_and_pull_no_more():
    own, masked = tensor([-200.0, 0.0, -80.0]).float(), tensor([0.0, -200.0, -80.0]).float()
    assert perception_advantage(own, masked, GAMMA, 0.0, CLIP).tolist() == [[0.0, 0.0, 0.0]]


def test_bf16_log_probs():
    own, masked = tensor([-0.5, -1.0]), tensor([-1.0, -0.75])
    got = perception_advantage(own.bfloat16(), masked.bfloat16(), GAMMA, ETA, CLIP)
    torch.testing.assert_close(got, perception_advantage(own, masked, GAMMA, ETA, CLIP))


def test_it_carries_no_gradient():
    own = torch.zeros(1, 2, requires_grad=True)
    assert not perception_advantage(own, own, GAMMA, ETA, CLIP).requires_grad


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"masked_log_probs": torch.zeros(2, 1)}, r"\(2, 3\) and \(2, 1\)"),
        ({"gamma": -0.1}, "gamma = -0.1"),
        ({"eta": math.nan}, "eta = nan"),
        ({"max_divergence": -1.0}, "max_divergence = -1.0"),
    ],
)
def test_the_impossible_is_refused_by_name(change, words):
    arguments = {"log_probs": torch.zeros(2, 3), "masked_log_probs": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=words):
        perception_advantage(**{**arguments, "gamma": GAMMA, "eta": ETA, "max_divergence": CLIP, **change})
