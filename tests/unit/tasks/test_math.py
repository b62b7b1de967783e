"""Expressions that need math-verify, and its process. Skipped where the extra ``math`` is not installed."""

import importlib.util
import json
import time

import pytest

from verl_mars.reward import compute_score
from verl_mars.tasks import math_process
from verl_mars.tasks.math import bare

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason='needs math-verify: pip install "math-verify>=0.9"'
)


def score(gold, answer, **settings):
    text = f"<think>a</think><answer>{answer}</answer>"
    return compute_score("d", text, json.dumps({"answer": gold}), {"task": "math"}, **settings)


@pytest.fixture(autouse=True, scope="module")
def end_of_the_process():
    yield
    math_process.stop()


@needs_math_verify
@pytest.mark.parametrize(
    ("gold", "answer", "acc"),
    [
        ("x^2+2x+1", "(x+1)^2", 1),
        ("x^2+2x+1", "(x+2)^2", 0),
        ("\\sqrt{8}", "$2\\sqrt{2}$", 1),
        ("\\frac{\\sqrt{3}}{2}", "\\dfrac{\\sqrt3}{2}", 1),
        ("3", "1+1+1", 1),
        ("3", "2 or 3", 0),  # hedging: a set is not a number
        ("3", "1, 2, 3", 0),
        ("\\{1, 2\\}", "\\{2, 1\\}", 1),
        ("12\\text{ cm}", "12", 1),
        ("90^\\circ", "90", 1),
        ("50\\%", "0.5", 1),
        ("1/3", "0.3333333", 1),  # math-verify rounds to six digits
        ("2.5", "2.50001", 0),
        ("3", "\\text{", 0),
        ("3", "__import__('os').system('true')", 0),
        ("3", "\ud800", 0),
        ("3", "\x00", 0),
    ],
)
def test_expressions(gold, answer, acc):
    assert score(gold, answer, math_timeout_seconds=20)["acc"] == acc


@needs_math_verify
@pytest.mark.parametrize("answer", ["9^{9^{9^{9}}}", "(" * 400])
@pytest.mark.slow
def test_what_never_ends_is_ended_and_the_next_answer_is_scored(answer):
    start = time.monotonic()
    result = score("3", answer, math_timeout_seconds=0.3)
    assert result["acc"] == 0.0 and result["error"] == "math-verify was not done within 0.3 s"
    assert result["answered"] == 0.0
    assert time.monotonic() - start < 60, "starting the process is not on the clock, all else is"
    assert score("2x", "x+x", math_timeout_seconds=20)["acc"] == 1.0


@needs_math_verify
@pytest.mark.slow
def test_a_process_that_died_is_started_again():
    assert score("2x", "x+x", math_timeout_seconds=20)["acc"] == 1.0
    math_process._process.kill()
    math_process._process.wait()
    assert score("2x", "x+x", math_timeout_seconds=20)["acc"] == 1.0


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "math-verify>=0.9"'):
        score("2x", "x+x")
    assert score("2x", "2x")["acc"] == 1.0, "equal text needs no math-verify"


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("$x$", "x"),
        ("$$x$$", "x"),
        ("\\(x\\)", "x"),
        ("\\[ x \\]", "x"),
        ("$x$.", "x"),
        ("\\boxed{x}", "x"),
        ("so \\boxed{1} and \\boxed{2}", "so \\boxed{1} and \\boxed{2}"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("\\boxed{\\boxed{2}}", "2"),
        ("\\boxed{x", "\\boxed{x"),
        ("$", "$"),
        ("", ""),
    ],
)
def test_delimiters_and_boxes_are_taken_off(text, inside):
    assert bare(text) == inside
