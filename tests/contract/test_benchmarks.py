"""The tables of docs/benchmarks.md are those of the figures beside the benchmarks."""

import importlib
from collections import Counter
from pathlib import Path

import gpu_steps
import probe_client
import pytest
import report
import step_time
import step_time_arms

MODULES = {
    name: name for name in ("step_time", "estimator", "import_time", "anchor_memory", "gpu_steps", "probe_client")
}
MODULES |= {"images": "images", "images_sessions": "images_sessions", "images_sending": "images_sending"}
MODULES |= {"gpu": "gpu_cases"}


@pytest.mark.parametrize(("name", "module"), MODULES.items())
def test_the_page_has_the_table_of_the_figures(name, module):
    page, table = report.PAGE.read_text(), importlib.import_module(module).table(report.read(name))
    assert report.exchange(page, name, table) == page, f"run `python benchmarks/{module}.py`"


def test_what_the_step_time_must_hold():
    parts = report.read("step_time")["parts"]
    assert set(parts) == {str(k) for k in step_time.PARTS}
    assert all(verdict for part in parts.values() for verdict in part["holds"].values())


def test_what_the_probes_client_must_hold():
    found = report.read("probe_client")
    assert found["rows"] == probe_client.ROWS and found["requests"] == probe_client.ROWS * probe_client.VIEWS
    assert found["milliseconds_a_request"] < probe_client.MILLISECONDS
    assert found["megabytes"] < probe_client.MEGABYTES
    assert found["report_megabytes"] < 20


def test_each_block_has_all_arms_and_six_blocks_every_order():
    steps = [step_time_arms.arm_of(step) for step in range(1, 19)]
    blocks = [tuple(steps[first : first + 3]) for first in range(0, 18, 3)]
    assert len(set(blocks)) == 6
    assert all(set(block) == set(step_time_arms.ARMS) for block in blocks)


def test_arms_on_a_gpu_come_in_blocks_and_at_every_place():
    steps = [step_time_arms.arm_of(step, gpu_steps.ARMS) for step in range(1, 26)]
    blocks = [steps[first : first + 5] for first in range(0, 25, 5)]
    assert all(set(block) == set(gpu_steps.ARMS) for block in blocks)
    assert all(set(place) == set(gpu_steps.ARMS) for place in zip(*blocks, strict=True))


def test_the_steps_on_a_gpu_are_of_the_arms_that_they_are_called():
    for step in report.read("gpu_steps")["steps"]:
        assert step["arm"] == step_time_arms.arm_of(step["step"], gpu_steps.ARMS)
        assert ("mars/anchor_tokens" in step) == (step["arm"] in ("mars", "two_phase"))
        step_time_arms.refuse_other_arm(step["step"], step["arm"], step)
        assert ("timing_s/score_view" in step) == step["arm"].startswith("pgpo")


def test_ratios_on_a_gpu_are_those_of_one_block():
    order = [step_time_arms.arm_of(step, gpu_steps.ARMS) for step in range(1, 18)]
    seconds = {"grpo": 2.0, "mars": 3.0, "two_phase": 4.0, "pgpo": 1.0, "pgpo_exact": 5.0}
    steps = [{"arm": arm, "timing_s/step": seconds[arm] * (100 if place < 5 else 1)} for place, arm in enumerate(order)]
    found = gpu_steps.summary(steps)
    assert found["step_over_grpo"] == {
        "mars": [1.5] * 2,
        "two_phase": [2.0] * 2,
        "pgpo": [0.5] * 2,
        "pgpo_exact": [2.5] * 2,
    }
    assert len(found["arms"]["pgpo_exact"]["step"]) == order[5:].count("pgpo_exact")


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


@pytest.mark.parametrize("tokens", [0.0, 1.0])
def test_steps_of_another_arm_are_refused(tokens):
    """The second phase of `two_phase` once came without a first: its steps had the metric, of no tokens."""
    step, arm = (1, "grpo") if tokens else (2, "mars")
    with pytest.raises(SystemExit, match=f"step {step} is not of arm {arm}: it has {tokens:g} tokens of anchors"):
        step_time.summary([{"mars/anchor_tokens": tokens}] * 6, 2, 8, 1)
