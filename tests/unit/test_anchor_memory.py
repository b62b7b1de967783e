"""Anchors that serve several epochs."""

import json
import logging
import math

import pytest

from verl_mars.trainer.anchor_memory import AnchorMemory, prompt_identity


def epoch(memory, prompt="a", score=1.0, version=0.0):
    """Whether the mono sessions of a prompt ran in this epoch."""
    known = memory.recall(prompt)
    if not known:
        memory.remember(prompt, ["rgb"], [score, math.nan], [version, math.nan])
    return not known


@pytest.mark.parametrize("every", [1, 2, 3])
def test_mono_sessions_run_every_kth_epoch(every):
    memory = AnchorMemory(every)
    assert [epoch(memory) for _ in range(7)] == [n % every == 0 for n in range(7)]


def test_what_is_recalled_is_what_was_measured_last():
    memory = AnchorMemory(2)
    epoch(memory, score=0.25, version=3.0)
    assert json.loads(memory.recall("a")) == [["rgb", 0.25, 3.0]]
    epoch(memory, score=0.75, version=5.0)
    assert json.loads(memory.recall("a")) == [["rgb", 0.75, 5.0]]


def test_a_failed_session_is_run_again():
    memory = AnchorMemory(5)
    memory.remember("a", ["rgb", "ir"], [1.0, math.nan], [0.0, math.nan])
    assert memory.recall("a") == ""


def test_a_checkpoint_carries_it(tmp_path):
    memory, other = AnchorMemory(2), AnchorMemory(2)
    epoch(memory, "a")
    epoch(memory, "b")
    memory.recall("b")
    memory.save(tmp_path / "global_step_1")
    other.load(tmp_path / "global_step_1")
    assert [epoch(other, "a"), epoch(other, "b")] == [False, True]


def test_a_checkpoint_without_it_is_said_to_be_one(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        AnchorMemory(2).load(tmp_path)
    assert "run once more" in caplog.text


def test_prompts_of_two_data_sets_do_not_mix():
    names = {prompt_identity("one", 0, {}), prompt_identity("two", 0, {}), prompt_identity("one", 1, None)}
    assert len(names | {prompt_identity("one", 0, {"sample_id": "x"})}) == 4
    assert prompt_identity("one", 0, {"sample_id": "x"}) == prompt_identity("one", 7, {"sample_id": "x"})
