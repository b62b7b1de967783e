from __future__ import annotations

import pytest

from verl_mars.toy.scoring import parse_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>top left</think><answer>red</answer>", "red"),
        ("<think>top left</think><answer> red </answer>", "red"),
        ("<think>a</think><answer>bottom right</answer>", "bottom right"),
        ("<think></think><answer>red</answer>", None),
        ("<think>a</think><answer></answer>", None),
        ("<answer>red</answer>", None),
        ("<think>a</think><answer>red</answer> really", None),
        (" <think>a</think><answer>red</answer>", None),
        ("<think>a</think> <answer>red</answer>", None),
        ("<think>a</think><answer>red", None),
        ("<think>a</think><answer>red</answer><answer>blue</answer>", None),
        ("<think>a<think>b</think><answer>red</answer>", None),
        ("red", None),
        ("", None),
    ],
)
def test_only_the_exact_format_has_an_answer(response: str, answer: str | None) -> None:
    assert parse_answer(response) == answer
