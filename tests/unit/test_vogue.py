"""VOGUE's bonuses and annealing: by hand, against a literal transcription of the authors' code, and for any input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.algos.vogue import (
    Bonus,
    exploration_bonus,
    noisy_probability,
    paper_advantages,
    released_advantages,
    sampled_divergence,
    sampled_entropy,
)


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_bonus_by_hand():
    advantages = tensor([1.0, -1.0, 0.0, 2.0])
    uncertainty = tensor([0.1, 9.0, 5.0, 1.0])
    # |A| / 2 = .5, .5, 0, 1 against .4 u = .04, 3.6, 2, .4
    torch.testing.assert_close(exploration_bonus(advantages, uncertainty, 0.4, 2.0), tensor([0.04, 0.5, 0.0, 0.4]))


numbers = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1e3)), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(numbers, st.floats(0, 10), st.floats(0.1, 10))
def test_bonus_is_never_more_than_its_share_of_the_advantage(pairs, alpha, beta):
    advantages, uncertainty = tensor(*zip(*pairs, strict=True)).chunk(2)
    bonus = exploration_bonus(advantages, uncertainty, alpha, beta)
    assert (bonus >= 0).all() and (bonus <= advantages.abs() / beta).all()
    if beta >= 1:  # then no bonus turns the sign of an advantage
        assert ((advantages + bonus) * advantages >= 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": -1.0}, "alpha = -1.0"),
        ({"beta": 0.0}, "beta = 0.0"),
        ({"alpha": math.nan}, "alpha"),
        ({"uncertainty": tensor([-0.1, 0.0])}, "below zero"),
        ({"uncertainty": tensor([math.nan, 0.0])}, "not a number"),
        ({"uncertainty": tensor([0.1])}, "one shape"),
    ],
)
def test_the_impossible_is_refused(change, words):
    arguments = {"advantages": tensor([1.0, 1.0]), "uncertainty": tensor([0.1, 0.1]), "alpha": 1.0, "beta": 2.0}
    with pytest.raises(ValueError, match=words):
        exploration_bonus(**{**arguments, **change})


def test_annealing_hits_its_end_points():
    assert [noisy_probability(s, 200) for s in (0, 50, 100, 200, 300)] == [1.0, 0.75, 0.5, 0.0, 0.0]
    assert [noisy_probability(s, 4, 0.5, 0.5) for s in (0, 3, 9)] == [0.5, 0.5, 0.5]
    assert noisy_probability(3, 4, 0.8, 0.2) == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("step", "total", "ends"), [(1, 0, (1, 0)), (-1, 5, (1, 0)), (1, 5, (1.5, 0)), (1, 5, (1, -1))]
)
def test_impossible_annealing_is_refused(step, total, ends):
    with pytest.raises(ValueError):
        noisy_probability(step, total, *ends)


def test_paper_by_hand():
    # Row 0 raw, row 1 noisy, both A = 1, -1: g_out = min(.5, .4 u_out), g_per = min(.5, u_per).
    advantages = tensor([1.0, -1.0], [1.0, -1.0])
    entropy = tensor([0.5, 9.0], [0.5, 9.0])
    divergence = tensor([7.0, 7.0], [0.3, 7.0])
    expected = tensor([1.2, -0.5], [1 + 0.2 + 0.3, -1 + 0.5 + 0.5])
    got = paper_advantages(advantages, entropy, divergence, torch.tensor([False, True]))
    torch.testing.assert_close(got, expected)


def transcription(A, log_raw, log_aug, z):
    """The authors' code as far as it is described: sampled tokens, hard-coded 2.0, entropy capped by the shaped A."""
    p, q = torch.exp(log_raw), torch.exp(log_aug)
    forward = p * (torch.log(p + 1e-8) - torch.log(q + 1e-8))
    inverse = q * (torch.log(q + 1e-8) - torch.log(p + 1e-8))
    penalty = (forward + inverse) / 2
    A1 = A + z[:, None] * torch.min(1.0 * penalty, torch.abs(A) / 2)
    H = -p * torch.log(p + 1e-8)
    return A1 + torch.min(0.4 * H, torch.abs(A1) / 2.0)


def random_batch(seed, rows=5, tokens=7):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(rows, tokens, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(), -draw().abs() * 2, -draw().abs() * 2, torch.rand(rows, generator=generator) < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_released_is_what_the_authors_code_does(seed):
    advantages, raw, noised, noisy = random_batch(seed)
    got = released_advantages(advantages, sampled_entropy(raw), sampled_divergence(raw, noised), noisy)
    torch.testing.assert_close(got, transcription(advantages, raw, noised, noisy.double()))


def test_released_caps_the_second_bonus_by_the_shaped_advantage():
    # A = -1: the perception bonus lifts it to -.5, so that g_out is at most .25: a quarter of A is left.
    advantages, large, noisy = tensor([-1.0]), tensor([9.0]), torch.tensor([True])
    torch.testing.assert_close(released_advantages(advantages, large, large, noisy), tensor([-0.25]))
    torch.testing.assert_close(paper_advantages(advantages, large, large, noisy), tensor([0.0]))


def test_settings_reach_the_bonuses():
    advantages, one, noisy = tensor([4.0]), tensor([1.0]), torch.tensor([True])
    arguments = (advantages, one, one, noisy, Bonus(0.5, 1.0), Bonus(0.25, 1.0))
    torch.testing.assert_close(paper_advantages(*arguments), tensor([4.75]))
    torch.testing.assert_close(released_advantages(*arguments), tensor([4.75]))


@pytest.mark.parametrize("shape", [paper_advantages, released_advantages])
def test_without_uncertainty_the_base_comes_back(shape):
    advantages, _, _, noisy = random_batch(0)
    nothing = torch.zeros_like(advantages)
    torch.testing.assert_close(shape(advantages, nothing, nothing, noisy), advantages)


def test_sampled_estimates_by_hand():
    p, q = tensor([0.5, 0.25, 1.0]), tensor([0.25, 0.25, 1.0])
    expected = tensor([0.5 * 0.25 * math.log(2), 0.0, 0.0])
    torch.testing.assert_close(sampled_divergence(p.log(), q.log()), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(sampled_divergence(q.log(), p.log()), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(
        sampled_entropy(p.log()), tensor([0.5 * math.log(2), 0.25 * math.log(4), 0.0]), atol=1e-7, rtol=0
    )


def test_sampled_estimates_of_the_impossible_are_finite_and_not_negative():
    extremes = tensor([0.0, -1e-9, -1e3, -50.0])
    for values in (sampled_entropy(extremes), sampled_divergence(extremes, extremes.flip(1))):
        assert values.isfinite().all() and (values >= 0).all()
