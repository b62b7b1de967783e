"""PGPO's token weights: by hand, against a slow twin, and what must hold for any input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.algos.pgpo import SMALLEST_SPANS, effective_tokens, token_weights, weigh_tokens

TAU, BETA, EPS = 0.4, 2.0, 1e-8


def slow_weights(dependency, mask, tau=TAU, beta=BETA, gate="absolute"):
    """Equations 4 to 7, a token at a time."""
    rows = []
    for values, inside in zip(dependency.tolist(), mask.tolist(), strict=True):
        logs = [math.log1p(s) for s, m in zip(values, inside, strict=True) if m]
        length = len(logs)
        weights = [1.0] * length
        if length and max(logs) - min(logs) > 1e-6:
            scores = [(x - min(logs)) / (max(logs) - min(logs) + EPS) for x in logs]
            at = tau if gate == "absolute" else sorted(scores)[min(math.floor(length * tau), length - 1)]
            raw = [i / (at + EPS) if i < at else 1 + beta * (i - at) / (1 - at + EPS) for i in scores]
            if sum(raw) > EPS:
                weights = [w * length / sum(raw) for w in raw]
        supply = iter(weights)
        rows.append([next(supply) if m else 0.0 for m in inside])
    return torch.tensor(rows, dtype=torch.float64)


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


responses = st.lists(
    st.lists(st.tuples(st.integers(0, 500).map(lambda n: n / 10), st.booleans()), min_size=1, max_size=9),
    min_size=1,
    max_size=4,
)


def padded(rows):
    width = max(len(row) for row in rows)
    filled = [[*row, *[(0.0, False)] * (width - len(row))] for row in rows]
    pick = lambda i, kind: torch.tensor([[pair[i] for pair in row] for row in filled], dtype=kind)  # noqa: E731
    return pick(0, torch.float64), pick(1, torch.bool)


def test_by_hand():
    # S = 0, e - 1, e^2 - 1: logs 0, 1, 2, so I = 0, .5, 1. Suppressed: 0. Boosted: 1 + 2 (.1 / .6) = 4/3 and 3.
    # The sum is 13/3 for three tokens: times 9/13.
    dependency = tensor([0.0, math.e - 1, math.e**2 - 1])
    got = weigh_tokens(dependency, torch.ones(1, 3))
    torch.testing.assert_close(got.normalized, tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(got.weights, tensor([0.0, 4 / 3 * 9 / 13, 3 * 9 / 13]), atol=1e-6, rtol=0)
    assert got.boosted.tolist() == [[False, True, True]]


def test_suppression_by_hand():
    # logs 0, .2, 1: I = 0, .2, 1. Suppressed to 0 and .2 / .4; boosted to 3. Sum 3.5 for three tokens.
    dependency = tensor([0.0, math.expm1(0.2), math.expm1(1.0)])
    expected = tensor([0.0, 0.5 * 3 / 3.5, 3.0 * 3 / 3.5])
    torch.testing.assert_close(token_weights(dependency, torch.ones(1, 3)), expected, atol=1e-6, rtol=0)


def test_tau_one_only_suppresses_and_tau_zero_only_boosts():
    dependency = tensor([0.0, math.expm1(0.5), math.expm1(1.0)])  # I = 0, .5, 1
    mask = torch.ones(1, 3)
    torch.testing.assert_close(token_weights(dependency, mask, tau=1.0), tensor([0.0, 1.0, 2.0]), atol=1e-6, rtol=0)
    # 1 + 2 I = 1, 2, 3: sum 6, times 3 / 6
    torch.testing.assert_close(token_weights(dependency, mask, tau=0.0), tensor([0.5, 1.0, 1.5]), atol=1e-6, rtol=0)


def test_quantile_by_hand():
    # I = 0, .25, .5, 1; floor(4 * .5) = 2: the threshold is .5. Suppressed: 0, .5; boosted: 1, 3. Sum 4.5.
    dependency = torch.expm1(tensor([0.0, 0.5, 1.0, 2.0]))
    expected = tensor([0.0, 0.5, 1.0, 3.0]) * 4 / 4.5
    got = token_weights(dependency, torch.ones(1, 4), tau=0.5, gate="quantile")
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@settings(max_examples=200, deadline=None)
@given(responses, st.sampled_from([0.0, 0.2, 0.4, 1.0]), st.sampled_from(["absolute", "quantile"]))
@pytest.mark.slow
def test_against_the_slow_twin(rows, tau, gate):
    dependency, mask = padded(rows)
    got = token_weights(dependency, mask, tau=tau, gate=gate)
    torch.testing.assert_close(got, slow_weights(dependency, mask, tau=tau, gate=gate), atol=1e-5, rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(responses, st.sampled_from([0.0, 0.4, 1.0]), st.floats(0, 5), st.sampled_from(["absolute", "quantile"]))
@pytest.mark.slow
def test_weights_sum_to_the_length_and_keep_rank(rows, tau, beta, gate):
    dependency, mask = padded(rows)
    weights = token_weights(dependency, mask, tau, beta, gate)
    torch.testing.assert_close(weights.sum(1), mask.sum(1).double(), atol=1e-6, rtol=1e-6)
    assert (weights[~mask] == 0).all() and (weights >= 0).all()
    for values, weight, inside in zip(dependency, weights, mask, strict=True):
        order = values[inside].argsort()
        assert (weight[inside][order].diff() >= -1e-9).all()


@pytest.mark.parametrize("gate", ["absolute", "quantile"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_equal_dependencies_leave_the_advantage_alone(value, gate):
    mask = tensor([1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0])
    torch.testing.assert_close(token_weights(torch.full((3, 4), value).double(), mask, gate=gate), mask)


def test_rounding_noise_is_not_blown_up():
    noise = torch.rand(1, 6, generator=torch.Generator().manual_seed(0)) * 1e-7
    torch.testing.assert_close(token_weights(noise, torch.ones(1, 6)), torch.ones(1, 6))


LOG_PROB_NOISE = {torch.float32: 1e-4, torch.float16: 0.055 / 8, torch.bfloat16: 0.055}
"""Standard deviation of the log-probs of two forward passes over the same tokens."""


@pytest.mark.parametrize("kind", list(LOG_PROB_NOISE))
def test_the_noise_between_two_forward_passes_is_not_blown_up(kind):
    generator = torch.Generator().manual_seed(0)
    log_probs = -torch.rand(64, 300, generator=generator, dtype=torch.float64)
    noise = LOG_PROB_NOISE[kind] * torch.randn(64, 300, generator=generator, dtype=torch.float64)
    dependency, mask = sampled_dependency(log_probs, log_probs + noise), torch.ones(64, 300)
    weights = token_weights(dependency, mask, min_span=SMALLEST_SPANS[kind])
    assert (weights == 1).double().mean() > 0.98
    if kind != torch.float32:  # the guard of float32 lets it through: a few tokens have a whole response's advantage
        blown_up = token_weights(dependency, mask)
        assert blown_up.max() > 10 and effective_tokens(blown_up, mask).median() < 0.5


def test_a_cap_on_weights_by_hand():
    # By suppression I = 0, 0, 0, 1 and w = 0, 0, 0, 3, brought to 4: 0, 0, 0, 4. Cut to 2, the other 2 spread on three.
    dependency, mask = tensor([0.0, 0.0, 0.0, 1.0, 9.0]), tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(token_weights(dependency, mask), tensor([0.0, 0.0, 0.0, 4.0, 0.0]), atol=1e-6, rtol=0)
    got = token_weights(dependency, mask, max_weight=2.0)
    torch.testing.assert_close(got, tensor([2 / 3, 2 / 3, 2 / 3, 2.0, 0.0]), atol=1e-6, rtol=0)


def test_a_cap_holds_where_one_token_of_a_thousand_depends_on_the_images():
    dependency, mask = torch.zeros(1, 1000), torch.ones(1, 1000)
    dependency[0, 7] = 2.0
    assert token_weights(dependency, mask)[0, 7] == pytest.approx(1000, rel=1e-3)
    assert token_weights(dependency, mask, max_weight=20.0)[0, 7] == pytest.approx(20, rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(responses, st.sampled_from([1.0, 1.3, 2.0, 50.0]))
@pytest.mark.slow
def test_capped_weights_sum_to_the_length_and_keep_rank(rows, cap):
    dependency, mask = padded(rows)
    free, weights = token_weights(dependency, mask), token_weights(dependency, mask, max_weight=cap)
    torch.testing.assert_close(weights.sum(1), mask.sum(1).double(), atol=1e-6, rtol=1e-6)
    assert (weights[~mask] == 0).all() and (weights >= 0).all() and (weights <= cap + 1e-9).all()
    for values, weight, inside in zip(dependency, weights, mask, strict=True):
        assert (weight[inside][values[inside].argsort()].diff() >= -1e-9).all()
    untouched = free.amax(1) <= cap
    torch.testing.assert_close(weights[untouched], free[untouched], atol=1e-9, rtol=0)


def test_a_clamp_on_dependencies_by_hand():
    # An outlier of 382 (the blind view finds the token e^6 times likelier) and an image token of 4: log 1 + S is 5.95
    # and 1.61, so that I = .27 is suppressed; clamped at 10 it is log 5 / log 11 = .67 and boosted.
    dependency, mask = tensor([0.0, 4.0, 382.4]), torch.ones(1, 3)
    assert weigh_tokens(dependency, mask).boosted.tolist() == [[False, False, True]]
    clamped = weigh_tokens(dependency, mask, max_dependency=10.0)
    torch.testing.assert_close(clamped.normalized, tensor([0.0, math.log(5) / math.log(11), 1.0]), atol=1e-6, rtol=0)
    assert clamped.boosted.tolist() == [[False, True, True]]


def test_effective_tokens_by_hand():
    weights = tensor([1, 1, 1, 1], [4, 0, 0, 0], [2, 0, 2, 5], [9, 9, 9, 9])
    mask = tensor([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0])
    got = effective_tokens(weights, mask)
    torch.testing.assert_close(got[:3], torch.tensor([1.0, 0.25, 2 / 3]).double())
    assert got[3].isnan()


def test_a_batch_without_tokens():
    nothing = torch.zeros(3, 0)
    assert weigh_tokens(nothing, nothing).weights.shape == (3, 0)
    assert weigh_tokens(nothing, nothing, gate="quantile").boosted.shape == (3, 0)


def test_bf16_dependencies():
    dependency = tensor([0.0, 0.5, 1.0, 4.0])
    got = token_weights(dependency.bfloat16(), torch.ones(1, 4))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), token_weights(dependency, torch.ones(1, 4)), atol=1e-6, rtol=1e-6)


def test_one_token():
    torch.testing.assert_close(token_weights(tensor([3.0, 0.0]), tensor([1.0, 0.0])), tensor([1.0, 0.0]))


def test_values_outside_the_response_do_not_matter():
    mask = tensor([1, 1, 1, 0, 0])
    one = token_weights(tensor([0.1, 2.0, 0.5, 9.0, math.nan]), mask)
    other = token_weights(tensor([0.1, 2.0, 0.5, -1.0, math.inf]), mask)
    torch.testing.assert_close(one, other)


def test_weights_carry_no_gradient():
    dependency = torch.rand(2, 3, requires_grad=True)
    assert not token_weights(dependency, torch.ones(2, 3)).requires_grad


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tau": 1.5}, "tau = 1.5"),
        ({"tau": math.nan}, "tau"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"gate": "median"}, "allowed are absolute, quantile"),
        ({"min_span": -1.0}, "min_span = -1.0"),
        ({"max_weight": 0.5}, "max_weight = 0.5: at least 1"),
        ({"max_dependency": 0.0}, "max_dependency = 0.0"),
        ({"dependency": tensor([0.1, -0.2])}, "row 0, token 1 is -0.2"),
        ({"dependency": tensor([0.1, math.nan])}, "row 0, token 1 is nan"),
        ({"dependency": tensor([0.1, 0.2, 0.3])}, r"\(1, 3\) and \(1, 2\)"),
    ],
)
def test_the_impossible_is_refused_by_name(change, words):
    arguments = {"dependency": tensor([0.1, 0.2]), "response_mask": torch.ones(1, 2), **change}
    with pytest.raises(ValueError, match=words):
        token_weights(**arguments)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 1\)"):
        sampled_dependency(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 1\)"):
        effective_tokens(torch.zeros(2, 3), torch.zeros(2, 1))


def test_sampled_dependency_by_hand():
    # r = 2: 1 - log 2. r = 1/2: -1/2 + log 2. r = 1: 0.
    fused = torch.log(tensor([0.25, 0.5, 0.3]))
    blind = torch.log(tensor([0.5, 0.25, 0.3]))
    expected = tensor([1 - math.log(2), math.log(2) - 0.5, 0.0])
    torch.testing.assert_close(sampled_dependency(fused, blind), expected)


def test_sampled_dependency_has_the_kl_as_its_mean():
    generator = torch.Generator().manual_seed(3)
    p, q = torch.softmax(torch.randn(2, 5, generator=generator, dtype=torch.float64), -1)
    mean = (p * sampled_dependency(p.log()[None], q.log()[None])[0]).sum()  # over every token, by its probability
    torch.testing.assert_close(mean, (p * (p.log() - q.log())).sum())


def test_sampled_dependency_stays_finite_and_never_negative():
    fused = tensor([0.0, -1e-9, -80.0, -80.0]).float()
    blind = tensor([-200.0, 0.0, -80.0, 0.0]).float()
    got = sampled_dependency(fused, blind)
    assert got.isfinite().all() and (got >= 0).all()
    torch.testing.assert_close(got, tensor([math.exp(-20) + 19, 0.0, 0.0, math.exp(20) - 21]), rtol=1e-6, atol=1e-15)
