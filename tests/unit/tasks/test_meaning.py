"""What changes the meaning of a right answer takes its point away; what does not leaves it."""

import itertools
import json
import random
from pathlib import Path

import meaning
import pytest
from answers import RIGHT, WRONG

from verl_mars.reward.settings import RewardSettings
from verl_mars.tasks import TASKS, math_process

SETTINGS = RewardSettings(math_timeout_seconds=20.0)


@pytest.fixture(autouse=True, scope="module")
def end_of_the_process():
    yield
    math_process.stop()


def acc(task, truth, answer):
    return TASKS[task].score(answer, TASKS[task].read(truth), {}, SETTINGS).acc


def test_every_task_has_changes_of_meaning():
    assert set(meaning.CHANGES) == set(TASKS)


def changes_that_earn_a_point(task, number, seed):
    changes = itertools.islice(meaning.CHANGES[task](random.Random(seed)), number)
    return [(truth, answer) for truth, answer in changes if acc(task, truth, answer) == 1.0]


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"math"}))
def test_no_change_of_meaning_earns_a_point(task):
    assert changes_that_earn_a_point(task, 500, seed=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_change_of_meaning_earns_a_point_in_twenty_thousand(task):
    if task == "math":
        pytest.importorskip("math_verify")
    assert changes_that_earn_a_point(task, 20_000, seed=0) == []


LINES = (Path(__file__).parent / "answers.jsonl").read_text(encoding="utf-8").split("\n")
KINDS = [json.loads(line) for line in LINES if line]


def case_of(kind):
    name = f"{kind['task']}-{json.dumps(kind['truth'])[:60]}"
    return pytest.param(kind, id=name, marks=pytest.mark.slow if kind["task"] == "math" else ())  # sympy is slow


@pytest.mark.parametrize("kind", [case_of(kind) for kind in KINDS])
def test_answers_of_every_kind(kind):
    """Per truth the answers that must earn their point, and those that must not."""
    if kind["task"] == "math":
        pytest.importorskip("math_verify")
    scores = {answer: acc(kind["task"], kind["truth"], answer) for answer in kind["right"] + kind["wrong"]}
    assert [answer for answer in kind["right"] if scores[answer] != 1.0] == []
    assert [answer for answer in kind["wrong"] if scores[answer] == 1.0] == []


@pytest.mark.parametrize(("task", "truth", "answers"), RIGHT)
def test_right_answers_in_their_usual_wrappings(task, truth, answers):
    if task == "math":
        pytest.importorskip("math_verify")
    assert [answer for answer in answers if acc(task, truth, answer) != 1.0] == []


@pytest.mark.parametrize(("task", "truth", "answers"), WRONG)
def test_wrong_answers_that_look_right(task, truth, answers):
    if task == "math":
        pytest.importorskip("math_verify")
    assert [answer for answer in answers if acc(task, truth, answer) == 1.0] == []
