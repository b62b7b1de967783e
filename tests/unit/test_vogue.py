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
    released_entropy,
    sampled_divergence,
    sampled_entropy,
    symmetric_divergence,
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


def authors_function(advantages, raw, augmented, augmented_branch):
    """What ``compute_grpo_outcome_advantage_dupl`` of ruiiu/DUPL does after GRPO, a token at a time.

    With the scripts' settings: kl_penalty_weight 1.0, alpha 0.4, kappa 2.0, the fixed exploration mode. The function
    takes the log-probs of both views of each response, and *both* of its terms look at the branch: the divergence is
    added there only, and the entropy is the augmented view's there.
    """
    shaped = []
    for row, z in enumerate(augmented_branch.tolist()):
        tokens = []
        for a, log_p, log_q in zip(advantages[row].tolist(), raw[row].tolist(), augmented[row].tolist(), strict=True):
            p, q = math.exp(log_p), math.exp(log_q)
            forward = p * (log_p - math.log(q + 1e-8))
            inverse = q * (log_q - math.log(p + 1e-8))
            a += min((forward + inverse) / 2, abs(a) / 2) if z else 0.0
            own, own_log = (q, log_q) if z else (p, log_p)
            tokens.append(a + min(0.4 * (-own * own_log), abs(a) / 2.0))
        shaped.append(tokens)
    return torch.tensor(shaped, dtype=torch.float64)


def random_batch(seed, rows=5, tokens=7):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(rows, tokens, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(), -draw().abs() * 2, -draw().abs() * 2, torch.rand(rows, generator=generator) < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_released_is_what_the_authors_function_does(seed):
    advantages, raw, noised, noisy = random_batch(seed)
    entropy = released_entropy(raw, noised, noisy)
    got = released_advantages(advantages, entropy, sampled_divergence(raw, noised), noisy)
    torch.testing.assert_close(got, authors_function(advantages, raw, noised, noisy), atol=1e-6, rtol=0)


def test_the_entropy_of_a_noisy_row_is_the_noisy_views():
    raw, noised = tensor([0.5], [0.5]).log(), tensor([0.25], [0.25]).log()
    got = released_entropy(raw, noised, torch.tensor([False, True]))
    torch.testing.assert_close(got, tensor([0.5 * math.log(2)], [0.25 * math.log(4)]), atol=1e-7, rtol=0)


def test_released_caps_the_second_bonus_by_the_shaped_advantage():
    # A = -1: the perception bonus lifts it to -.5, so that g_out is at most .25: a quarter of A is left.
    advantages, large, noisy = tensor([-1.0]), tensor([9.0]), torch.tensor([True])
    torch.testing.assert_close(released_advantages(advantages, large, large, noisy), tensor([-0.25]))
    torch.testing.assert_close(paper_advantages(advantages, large, large, noisy), tensor([0.0]))


def test_settings_reach_the_bonuses():
    advantages, one, noisy = tensor([4.0]), tensor([1.0]), torch.tensor([True])
    arguments = (advantages, one, one, noisy, Bonus(0.5, 2.0), Bonus(0.25, 2.0))
    torch.testing.assert_close(paper_advantages(*arguments), tensor([4.75]))
    torch.testing.assert_close(released_advantages(*arguments), tensor([4.75]))


@pytest.mark.parametrize(
    ("shape", "betas", "share"), [(paper_advantages, (1.0, 1.0), "2"), (released_advantages, (0.5, 2.0), "2")]
)
def test_bonuses_that_could_turn_the_sign_of_an_advantage_are_refused(shape, betas, share):
    # beta = 1 twice: A = -1 with large uncertainties would become -1 + 1 + 1 = +1
    large, noisy = tensor([9.0]), torch.tensor([True])
    with pytest.raises(ValueError, match=rf"come to {share} \|A\|"):
        shape(tensor([-1.0]), large, large, noisy, Bonus(1.0, betas[0]), Bonus(1.0, betas[1]))


accepted = [(paper_advantages, b) for b in ((2.0, 2.0), (1.5, 3.0), (4.0, 4 / 3))]
accepted += [(released_advantages, b) for b in ((1.0, 1.0), (1.0, 2.0), (2.0, 1.0))]


@settings(max_examples=100, deadline=None)
@given(numbers, st.sampled_from(accepted))
def test_no_accepted_bonus_turns_the_sign_of_an_advantage(pairs, case):
    advantages, uncertainty = tensor(*zip(*pairs, strict=True)).chunk(2)
    shape, (perception, output) = case
    shaped = shape(
        advantages, uncertainty, uncertainty, torch.tensor([True]), Bonus(1.0, perception), Bonus(1.0, output)
    )
    assert (shaped * advantages >= -1e-9 * advantages.abs().max()).all()


def test_shapes_that_would_broadcast_are_refused():
    values, column, noisy = torch.zeros(3, 3), torch.zeros(3, 1), torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(3, 1\)"):
        sampled_divergence(values, column)
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(3, 1\)"):
        symmetric_divergence(values, column)
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(3, 1\)"):
        released_entropy(values, column, noisy)
    for shape in (paper_advantages, released_advantages):
        with pytest.raises(ValueError, match=r"noisy must be \(3,\) bool.*\(3, 3\)"):
            shape(values, values, values, torch.zeros(3, 3, dtype=torch.bool))


def test_no_bonus_at_weight_zero_even_where_the_uncertainty_is_infinite():
    infinite = tensor([math.inf])
    torch.testing.assert_close(exploration_bonus(tensor([1.0]), infinite, 0.0, 2.0), tensor([0.0]))


def test_results_carry_no_gradient():
    advantages = torch.ones(1, 2, requires_grad=True)
    for shape in (paper_advantages, released_advantages):
        shaped = shape(advantages, torch.ones(1, 2), torch.ones(1, 2), torch.tensor([True]))
        assert not shaped.requires_grad


@pytest.mark.parametrize("shape", [paper_advantages, released_advantages])
def test_bf16_inputs(shape):
    advantages, raw, noised, noisy = random_batch(1)
    arguments = advantages, sampled_entropy(raw), sampled_divergence(raw, noised)
    exact = shape(*arguments, noisy)
    got = shape(*(value.bfloat16() for value in arguments), noisy)
    torch.testing.assert_close(got.double(), exact, atol=3e-2, rtol=3e-2)


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
