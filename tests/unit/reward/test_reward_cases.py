"""Every case of the tables in reward_cases.py and reward_box_cases.py."""

import json

import pytest
import reward_box_cases
import reward_cases

from verl_mars.reward import compute_score
from verl_mars.reward.score import KEYS

WEIGHTS = {"accuracy_weight": 0.9, "format_weight": 0.1}
TABLES = {
    "yes": reward_cases.YES,
    "no": reward_cases.NO,
    "words": reward_cases.WORDS,
    "numbers": reward_cases.NUMBERS,
    "choices": reward_cases.CHOICES,
    "math": reward_cases.MATH,
    "form": reward_cases.FORM,
    "boxes": reward_box_cases.BOXES,
}
ALL = [(f"{name}-{number}", case) for name, cases in TABLES.items() for number, case in enumerate(cases)]


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in ALL])
def test_case(case):
    info = {"task": case.task, "index": 7, **case.info}
    result = compute_score("cases", case.response, json.dumps(case.truth), info, **WEIGHTS, **case.settings)
    said = (result["acc"], result["format"], result["score"])
    wanted = (case.acc, case.form, 0.9 * case.acc + 0.1 * case.form)
    assert said == pytest.approx(wanted, abs=1e-9), f"{case.why}: {case.response[:200]!r} gave {result}"
    assert tuple(result) == KEYS
    assert bool(result["error"]) != bool(result["answered"])
    json.dumps(result, allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_the_tables_are_large_and_every_case_differs():
    seen = {(case.task, json.dumps(case.truth), case.response, repr(case.settings), repr(case.info)) for _, case in ALL}
    assert len(seen) == len(ALL) >= 250
    assert all(case.why for _, case in ALL)
