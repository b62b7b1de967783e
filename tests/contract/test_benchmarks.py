"""The tables of docs/benchmarks.md are those of the figures beside the benchmarks."""

import importlib
from collections import Counter
from pathlib import Path

import pytest
import report
import step_time
import step_time_arms

NAMES = ("step_time", "estimator", "import_time", "anchor_memory")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_table_of_the_figures(name):
    page, table = report.PAGE.read_text(), importlib.import_module(name).table(report.read(name))
    assert report.exchange(page, name, table) == page, f"run `python benchmarks/{name}.py`"


def test_what_the_step_time_must_hold():
    parts = report.read("step_time")["parts"]
    assert set(parts) == {str(k) for k in step_time.PARTS}
    assert all(verdict for part in parts.values() for verdict in part["holds"].values())


def test_each_block_has_all_arms_and_six_blocks_every_order():
    steps = [step_time_arms.arm_of(step) for step in range(1, 19)]
    blocks = [tuple(steps[first : first + 3]) for first in range(0, 18, 3)]
    assert len(set(blocks)) == 6
    assert all(set(block) == set(step_time_arms.ARMS) for block in blocks)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_rows_have_as_many_anchors_as_they_say(k, tmp_path):
    rows = list(step_time.toy_rows(k, 2, tmp_path))
    assert len(rows) == 2 * 3 * step_time.PROMPTS
    batches = [rows[first : first + step_time.PROMPTS] for first in range(0, len(rows), step_time.PROMPTS)]
    for batch in batches:
        anchors = [len(row["sources"]) if len(row["sources"]) > 1 else 0 for row in batch]
        assert sum(anchors) == k * step_time.PROMPTS
        assert all(Path(image["image"]).exists() for row in batch for image in row["images"])
    for block in (batches[:3], batches[3:]):
        assert block[0] != block[1]  # rows are told apart by index and sample
        assert len(Counter(tuple(image["image"] for image in row["images"]) for b in block for row in b)) == 16
    assert len({row["extra_info"]["index"] for row in rows}) == len(rows)


def test_a_verdict_says_no():
    """Where MARS takes longer than the bound, and longer than two phases."""

    def metrics(step, seconds):
        arm = step_time_arms.arm_of(step)
        timers = {f"timing_s/{timer}": 1.0 for timer in ("submit", "gen", "old_log_prob", "adv", "update_actor")}
        anchors = {} if arm == "grpo" else {"mars/anchor_tokens": 288.0}
        return timers | anchors | {"timing_s/step": seconds[arm], "response_length/mean": 9.0}

    def holds(**seconds):
        steps = [metrics(step, seconds) for step in range(1, 22)]
        return step_time.summary(steps, 2, 8, 1)["holds"]

    assert holds(grpo=1.0, mars=1.2, two_phase=1.3) == {"token_bound": True, "two_phase": True}
    assert holds(grpo=1.0, mars=1.32, two_phase=1.3) == {"token_bound": False, "two_phase": False}


def test_steps_of_another_arm_are_refused():
    with pytest.raises(AssertionError, match="step 1 is not of arm grpo"):
        step_time.summary([{"mars/anchor_tokens": 1.0}] * 6, 2, 8, 0)
