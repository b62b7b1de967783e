"""Real Ray, verl and FSDP on the CPU: every trajectory carries the anchors of its own prompt, nothing else changes."""

import pytest
from anchor_world import (
    FAILS,
    PROMPTS,
    ROLLOUTS,
    anchor,
    assert_formula,
    assert_own_anchors,
    real_rows,
    rows_of,
    run_world,
    sources_of,
)

STEPS = (1, 2, 3, 4)  # two epochs, of which the second one uses the anchors of the first
ANSWER_TOKENS = 8

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_verl, tiny_model):
    """Two epochs of two steps of `mars` over six prompts.

    A batch of 3 prompts x 4 rollouts is padded to 16 rows, for mini-batches of 2 x 4.
    """
    return run_world(
        tmp_path_factory.mktemp("anchors"),
        run_verl,
        tiny_model,
        "data.train_batch_size=3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "algorithm.mars.anchor_every=2",
        f"data.max_response_length={ANSWER_TOKENS}",
        "trainer.total_epochs=2",
        f"trainer.total_training_steps={len(STEPS)}",
        "trainer.val_before_train=true",
    )


def test_rows_trained_on_are_prompts_times_rollouts(run):
    for step in run.steps:
        real = rows_of(step)
        assert len(real) == 3 * ROLLOUTS
        assert len({row["uid"] for row in real}) == 3
    seen = [row["index"] for row in real_rows(run) if row["key"].split("_")[1] == "0"]
    assert sorted(seen) == sorted([*range(PROMPTS)] * 2)


def test_the_batch_was_padded_and_reordered(run):
    """Or the next test would prove nothing."""
    for step in run.steps:
        assert sum(row["is_padding"] for row in step["rows"]) == 4
        assert all(row["uid"].startswith("pad") for row in step["rows"] if row["is_padding"])


def test_each_trajectory_has_the_anchors_of_its_own_prompt(run):
    assert_own_anchors(run)


def test_advantages_are_those_of_the_formula(run):
    assert_formula(run)


def test_padding_rows_have_no_advantage(run):
    assert all(set(row["advantages"]) == {0.0} for step in run.steps for row in step["rows"] if row["is_padding"])


def test_mono_sessions_never_reach_the_training_partition(run):
    for step in run.steps:
        assert sorted(step["stored"]) == sorted(row["key"] for row in step["rows"])
        sessions = {row["key"].split("_")[1] for row in step["rows"] if not row["is_padding"]}
        assert sessions == {str(session) for session in range(ROLLOUTS)}


def test_missing_anchors_are_counted_and_the_step_goes_on(run):
    # prompt 0 has one source, prompt 4 has a session that fails, in each epoch
    assert sum(run.metrics[step]["mars/missing_anchors"] for step in STEPS) == 4
    assert "its anchor is missing: " in run.log and "this mono session fails on purpose" in run.log


def test_metrics_of_the_anchors(run):
    names = {"mars/info_gain", "mars/info_gain/rgb", "mars/anchor_score/ir", "mars/fused_score", "timing_s/anchors"}
    names |= {"mars/interference_groups", "mars/rescued_groups", "mars/missing_anchors"}
    names |= {"mars/anchor_tokens", "mars/anchor_token_share", "mars/anchor_version_gap"}
    for step in STEPS:
        assert names <= set(run.metrics[step])
    every = [anchor(i, "rgb") for i in range(1, PROMPTS)]
    shares = [len({r["index"] for r in step["rows"] if not r["is_padding"] and r["index"] > 0}) for step in run.steps]
    got = sum(run.metrics[step]["mars/anchor_score/rgb"] * shares[step - 1] for step in STEPS) / sum(shares)
    assert got == pytest.approx(sum(every) / len(every), abs=1e-5)


def test_anchors_have_the_weights_of_their_group_until_they_are_used_again(run):
    for step in (1, 2):
        assert run.metrics[step]["mars/anchor_version_gap"] == 0
    assert sum(run.metrics[step]["mars/anchor_version_gap"] for step in (3, 4)) > 1  # two updates later; one failed


def test_each_source_is_scored_once_a_prompt_and_validation_is_fused_only(run):
    """Once in two epochs, but for the prompt whose anchors are not whole: its sessions run again."""
    mono = [entry["truth"] for entry in run.scored if entry["truth"].startswith("anchor")]
    once = sum(len(sources_of(i)) for i in range(1, PROMPTS))
    assert len(mono) == once + len(sources_of(FAILS[0]))
    assert len(set(mono)) == once
    assert {entry["split"] for entry in run.scored if entry["truth"] in mono} == {"train"}
    assert sum(entry["split"] == "val" for entry in run.scored) == PROMPTS


def test_mono_sessions_are_as_long_as_they_may_be(run):
    sessions = sum(len(sources_of(i)) - ((i, "ir") == FAILS) for i in range(1, PROMPTS))
    longest = ANSWER_TOKENS * (sessions + len(sources_of(FAILS[0])) - 1)
    tokens = sum(run.metrics[step]["mars/anchor_tokens"] for step in STEPS)
    assert sessions <= tokens <= longest
    for step in STEPS:
        assert run.metrics[step]["mars/anchor_token_share"] < 0.5


def test_rollout_and_actor_agree_on_log_probs(run):
    for step in STEPS:
        assert run.metrics[step]["rollout_corr/log_ppl_abs_diff"] < 1e-3
