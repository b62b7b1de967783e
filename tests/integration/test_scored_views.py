"""Real Ray, verl and FSDP on the CPU: PGPO and VOGUE train, and what they score is what the model says."""

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pgpo_run(small_run):
    return small_run("toy_pgpo_grpo")


@pytest.fixture(scope="module")
def vogue_run(small_run):
    return small_run("toy_vogue_grpo")


def test_pgpo_reports_its_dependency(pgpo_run):
    for step in (1, 2):
        metrics = pgpo_run.metrics[step]
        assert metrics["pgpo/dependency_mean"] > 0
        assert 0 < metrics["pgpo/boosted_tokens"] < 1
        assert 0 < metrics["timing_s/score_view"] < metrics["timing_s/step"]
        assert metrics["perf/score_view_share"] == pytest.approx(
            metrics["timing_s/score_view"] / metrics["timing_s/step"]
        )


def test_vogue_reports_its_branch(vogue_run):
    assert vogue_run.metrics[1]["vogue/noisy_share"] == pytest.approx(0.5, abs=0.4)
    assert vogue_run.metrics[1]["vogue/uncertainty"] > 0
    assert vogue_run.metrics[2]["vogue/noisy_share"] == 0  # the annealing ends with the training
    assert "vogue/uncertainty" not in vogue_run.metrics[2]
