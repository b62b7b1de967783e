"""Divergence over the whole vocabulary: by hand, against a slow twin, and against the estimates at sampled tokens."""

import math

import pytest
import torch

from verl_mars.algos.divergence import sampled_dependency, vocabulary_divergence

ONE = torch.eye(2)


def twin(hidden, other, weight, bias=None, temperature=1.0):
    """All logits at once, in float64."""

    def logs(states):
        logits = states.double() @ weight.double().T
        return torch.log_softmax((logits if bias is None else logits + bias.double()) / temperature, dim=-1)

    p, q = logs(hidden), logs(other)
    return (p.exp() * (p - q)).sum(1), (q.exp() * (q - p)).sum(1)


def policies(tokens=7, units=5, words=23, scale=3.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    hidden, other = (torch.randn(tokens, units, generator=draw) * scale for _ in range(2))
    return hidden, other, torch.randn(words, units, generator=draw), torch.randn(words, generator=draw)


def test_by_hand():
    # Logits are the states: p = (1/2, 1/2), q = (3/4, 1/4).
    hidden, other = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    forward, reverse = vocabulary_divergence(hidden, other, ONE)
    assert forward.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), abs=1e-6)
    assert reverse.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 5, 22, 23, 1000, None])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_slow_twin_agrees_for_every_chunk(chunk, temperature):
    hidden, other, weight, bias = policies()
    got = vocabulary_divergence(hidden, other, weight, bias, temperature, chunk)
    for mine, expected in zip(got, twin(hidden, other, weight, bias, temperature), strict=True):
        torch.testing.assert_close(mine.double(), expected, atol=1e-5, rtol=1e-5)


def test_views_exchanged_exchange_the_results():
    hidden, other, weight, _ = policies(seed=1)
    torch.testing.assert_close(
        vocabulary_divergence(hidden, other, weight), vocabulary_divergence(other, hidden, weight)[::-1]
    )


def test_the_same_view_is_no_distance_away():
    hidden, _, weight, bias = policies(scale=30.0)
    for values in vocabulary_divergence(hidden, hidden, weight, bias, chunk=4):
        assert values.tolist() == [0.0] * len(hidden)


def test_logits_shifted_for_all_words_change_nothing():
    """As far as float32 goes: a shift of 100 leaves five digits after the point."""
    hidden, other, weight, bias = policies(seed=2)
    plain = vocabulary_divergence(hidden, other, weight, bias, chunk=3)
    shifted = vocabulary_divergence(hidden, other, weight, bias + 100, chunk=3)
    torch.testing.assert_close(plain, shifted, atol=2e-4, rtol=1e-3)


def test_large_logits_stay_finite():
    """The largest logit comes in the last chunk, which is where an online softmax must shrink what it has."""
    hidden = torch.tensor([[300.0, -300.0]])
    weight = torch.tensor([[0.0, 1.0], [0.5, 0.0], [1.0, 0.0]])
    forward, reverse = vocabulary_divergence(hidden, -hidden, weight, chunk=1)
    assert forward.item() == pytest.approx(600.0) and reverse.item() == pytest.approx(600.0)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_types_of_weights(kind, tolerance):
    hidden, other, weight, _ = policies(scale=1.0)
    got, _ = vocabulary_divergence(hidden.to(kind), other.to(kind), weight.to(kind))
    expected, _ = twin(hidden.to(kind), other.to(kind), weight.to(kind))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


def test_no_tokens():
    _, _, weight, _ = policies()
    assert [values.shape for values in vocabulary_divergence(*torch.zeros(2, 0, 5), weight)] == [(0,), (0,)]


def test_the_sampled_estimate_means_the_exact_one():
    """k3 of tokens drawn from p: its mean over 20,000 draws is the exact divergence, within five standard errors."""
    hidden, other, weight, bias = policies(tokens=4, scale=0.7, seed=3)
    exact, _ = vocabulary_divergence(hidden, other, weight, bias)
    p, q = (torch.log_softmax(states @ weight.T + bias, dim=-1) for states in (hidden, other))
    draws = torch.multinomial(p.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    values = sampled_dependency(p.gather(1, draws), q.gather(1, draws))
    error = values.std(1) / math.sqrt(values.shape[1])
    assert ((values.mean(1) - exact).abs() < 5 * error).all() and (error < exact / 5).all()


@pytest.mark.parametrize(
    ("shapes", "temperature"),
    [(((2, 3), (3, 3), (5, 3)), 1.0), (((2, 3), (2, 3), (5, 4)), 1.0), (((3,), (3,), (5, 3)), 1.0)]
    + [(((2, 3), (2, 3), (5, 3)), 0.0)],
)
def test_what_does_not_fit_is_refused(shapes, temperature):
    with pytest.raises(ValueError):
        vocabulary_divergence(*(torch.zeros(shape) for shape in shapes), temperature=temperature)
