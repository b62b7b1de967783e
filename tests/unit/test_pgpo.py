"""PGPO's token weights: by hand, against a slow twin, and what must hold for any input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.algos.pgpo import sampled_dependency, token_weights, weigh_tokens

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
def test_against_the_slow_twin(rows, tau, gate):
    dependency, mask = padded(rows)
    got = token_weights(dependency, mask, tau=tau, gate=gate)
    torch.testing.assert_close(got, slow_weights(dependency, mask, tau=tau, gate=gate), atol=1e-5, rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(responses, st.sampled_from([0.0, 0.4, 1.0]), st.floats(0, 5), st.sampled_from(["absolute", "quantile"]))
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
        ({"dependency": tensor([0.1, -0.2])}, "row 0, token 1 is -0.2"),
        ({"dependency": tensor([0.1, math.nan])}, "row 0, token 1 is nan"),
        ({"dependency": tensor([0.1, 0.2, 0.3])}, r"\(1, 3\) and \(1, 2\)"),
    ],
)
def test_the_impossible_is_refused_by_name(change, words):
    arguments = {"dependency": tensor([0.1, 0.2]), "response_mask": torch.ones(1, 2), **change}
    with pytest.raises(ValueError, match=words):
        token_weights(**arguments)


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
