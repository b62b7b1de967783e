"""Real Ray and verl on the CPU: ``verl-mars doctor --see``, and a training that looks before its first step."""

import pytest
from out_of_sight import blinded
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.toy.prepare import prepare

pytestmark = [pytest.mark.integration, pytest.mark.recipes]


@pytest.fixture(scope="module")
def toy():
    """The toy's files and its warm-started model, which sees."""
    return prepare(progress=False)


BFLOAT16 = (
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",
    "actor_rollout_ref.rollout.dtype=bfloat16",
)
"""Two passes over one row, in other company, then differ by rounding."""


@pytest.mark.parametrize("precision", [(), BFLOAT16], ids=["float32", "bfloat16"])
def test_the_doctor_refuses_a_model_out_of_sight(toy, toy_data, tmp_path, precision):
    model = blinded(toy.model, tmp_path / "blinded")
    given = [*toy_data, f"actor_rollout_ref.model.path={model}", *precision]
    recipe = ["--config-name", "toy_mars_grpo", "--see", "--no-ray"]
    result = CliRunner().invoke(app, ["doctor", *recipe, *given])
    assert result.exit_code == 1, result.output
    for name in ("rollout engine", "trainer"):
        assert f"the {name} does not see the images" in result.output
    assert "would be trained without its images" in result.output and "disagree" not in result.output


def test_a_training_with_its_images_passes(toy, small_run):
    """The model of the toy sees; the look is over before the first step, and changes nothing in it."""
    path = f"actor_rollout_ref.model.path={toy.model}"
    looked = small_run("toy_mars_grpo", path, "algorithm.probe.see=8")
    assert '"faults": []' in looked.log and "verl-mars see: " in looked.log
    assert looked.metrics[2]["actor/grad_norm"] > 0
    plain = small_run("toy_mars_grpo", path)
    assert looked.metrics[1]["critic/score/mean"] == plain.metrics[1]["critic/score/mean"]
