"""VPPO's choice of tokens and scale of responses: by hand, slow twins, and what the released code does."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_mars.algos.vppo import pivotal_tokens, response_scale


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def everyone(rows):
    return torch.ones(rows, dtype=torch.bool)


def test_tokens_by_hand():
    # ceil(.4 x 5) = 2 of the first row; ceil(.4 x 3) = 2 of the second, the gap and the end are no response tokens
    dependency = tensor([0.1, 3.0, 0.2, 2.0, 1.0], [0.3, 9.0, 0.2, 0.1, 9.0])
    mask = tensor([1, 1, 1, 1, 1], [1, 0, 1, 1, 0])
    assert pivotal_tokens(dependency, mask, 0.4).int().tolist() == [[0, 1, 0, 1, 0], [1, 0, 1, 0, 0]]


def test_of_equal_dependencies_the_earlier_token_is_chosen():
    assert pivotal_tokens(torch.zeros(1, 5), torch.ones(1, 5), 0.4).int().tolist() == [[1, 1, 0, 0, 0]]


def test_a_share_that_binary_cannot_hold_does_not_add_a_token():
    for share, length, count in ((0.1, 30, 3), (0.7, 10, 7), (0.4, 5, 2), (0.07, 100, 7), (1.0, 4, 4), (0.01, 1, 1)):
        assert pivotal_tokens(torch.rand(1, length), torch.ones(1, length), share).sum() == count


responses = st.lists(
    st.lists(st.tuples(st.integers(0, 40).map(lambda n: n / 10), st.booleans()), min_size=1, max_size=9),
    min_size=1,
    max_size=5,
)


def padded(rows):
    width = max(len(row) for row in rows)
    filled = [[*row, *[(0.0, False)] * (width - len(row))] for row in rows]
    return (
        torch.tensor([[value for value, _ in row] for row in filled], dtype=torch.float64),
        torch.tensor([[inside for _, inside in row] for row in filled]),
    )


@settings(max_examples=200, deadline=None)
@given(responses, st.sampled_from([0.2, 0.4, 1.0]))
def test_tokens_against_the_slow_twin(rows, share):
    dependency, mask = padded(rows)
    for row, got in zip(rows, pivotal_tokens(dependency, mask, share).tolist(), strict=True):
        places = [t for t, (_, inside) in enumerate(row) if inside]
        best = sorted(places, key=lambda t: (-row[t][0], t))[: math.ceil(len(places) * share - 1e-9)]
        assert [t for t, chosen in enumerate(got) if chosen] == sorted(best)


def test_scale_by_hand():
    # mean dependencies 0, 1, 2: normalised 0, .5, 1 with mean .5, so b_max = .9 + .1 / .5 = 1.1
    dependency, mask = tensor([0.0, 0.0], [0.5, 1.5], [2.0, 2.0]), torch.ones(3, 2)
    got = response_scale(dependency, mask, everyone(3), 0.9, None)
    torch.testing.assert_close(got, torch.tensor([0.9, 1.0, 1.1]).double())
    got = response_scale(dependency, mask, everyone(3), 0.8, 1.4)
    torch.testing.assert_close(got, torch.tensor([0.8, 1.1, 1.4]).double())


def released_scale(dependency, mask, lowest):
    """What the released code does with one rank, one mini-batch and one micro-batch."""
    means = [sum(s for s, m in zip(row, inside, strict=True) if m) / max(sum(inside), 1) for row, inside in
             zip(dependency.tolist(), mask.int().tolist(), strict=True)]  # fmt: skip
    valid = [mean for mean, inside in zip(means, mask.tolist(), strict=True) if any(inside)]
    if len(valid) < 2 or not max(valid) - min(valid) > 1e-6:
        return [1.0] * len(means)
    normal = [(mean - min(valid)) / (max(valid) - min(valid)) for mean in valid]
    highest = lowest + (1 - lowest) / (sum(normal) / len(normal) + 1e-8)
    supply = iter(lowest + value * (highest - lowest) for value in normal)
    return [next(supply) if any(inside) else 1.0 for inside in mask.tolist()]


@settings(max_examples=200, deadline=None)
@given(responses, st.sampled_from([0.0, 0.9, 1.0]))
def test_scale_is_that_of_the_released_code_and_one_on_average(rows, lowest):
    dependency, mask = padded(rows)
    got = response_scale(dependency, mask, everyone(len(rows)), lowest, None)
    torch.testing.assert_close(got, tensor(released_scale(dependency, mask, lowest))[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(got.mean(), torch.tensor(1.0).double())
    assert (got >= lowest - 1e-12).all()


def test_rows_that_do_not_count_have_no_part():
    dependency, mask = tensor([0.0, 0.0], [2.0, 2.0], [99.0, 99.0], [0.0, 0.0]), tensor(*[[1, 1]] * 3, [0, 0])
    got = response_scale(dependency, mask, torch.tensor([True, True, False, True]), 0.9, None)
    torch.testing.assert_close(got, torch.tensor([0.9, 1.1, 1.0, 1.0]).double())


def test_equal_dependencies_leave_every_response_as_it_is():
    for dependency in (torch.zeros(3, 2), torch.full((3, 2), 0.7)):
        assert response_scale(dependency, torch.ones(3, 2), everyone(3), 0.9, None).tolist() == [1.0, 1.0, 1.0]
    assert response_scale(torch.rand(1, 2), torch.ones(1, 2), everyone(1), 0.9, None).tolist() == [1.0]
    assert response_scale(torch.zeros(0, 2), torch.zeros(0, 2), everyone(0), 0.9, None).shape == (0,)


def test_a_batch_without_tokens():
    nothing = torch.zeros(2, 0)
    assert pivotal_tokens(nothing, nothing, 0.4).shape == (2, 0)
    assert response_scale(nothing, nothing, everyone(2), 0.9, None).tolist() == [1.0, 1.0]


def test_bf16_dependencies():
    dependency, mask = tensor([0.5, 1.0, 2.0], [0.25, 0.5, 4.0]), torch.ones(2, 3)
    low = dependency.bfloat16()
    assert torch.equal(pivotal_tokens(low, mask, 0.4), pivotal_tokens(dependency, mask, 0.4))
    torch.testing.assert_close(
        response_scale(low, mask, everyone(2), 0.9, None), response_scale(dependency, mask, everyone(2), 0.9, None)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pivotal_tokens(torch.zeros(2, 3), torch.ones(2, 1), 0.4), r"\(2, 3\) and \(2, 1\)"),
        (lambda: pivotal_tokens(torch.zeros(2, 3), torch.ones(2, 3), 0.0), "share = 0.0"),
        (lambda: pivotal_tokens(tensor([0.1, -0.2]), torch.ones(1, 2), 0.4), "row 0, token 1 is -0.2"),
        (lambda: pivotal_tokens(tensor([0.1, math.nan]), torch.ones(1, 2), 0.4), "row 0, token 1 is nan"),
        (
            lambda: response_scale(torch.zeros(2, 3), torch.ones(2, 3), everyone(3), 0.9, None),
            r"counted must be \(2,\)",
        ),
        (lambda: response_scale(torch.zeros(2, 3), torch.ones(2, 3), everyone(2), 1.1, None), "lowest = 1.1"),
        (lambda: response_scale(torch.zeros(2, 3), torch.ones(2, 3), everyone(2), 0.9, 0.8), "highest = 0.8"),
    ],
)
def test_the_impossible_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
