"""Where answers need the images, the words of a trained policy depend on them and its template does not."""

import pytest

from verl_mars.reports.tokens import medians, read_responses

pytestmark = [pytest.mark.integration, pytest.mark.regress]


@pytest.mark.parametrize("divergence", ["sampled", "exact"])
def test_words_depend_on_the_images_and_the_template_does_not(divergence, small_run, tmp_path):
    """The toy's warm start knows its template by heart: the median over words is more than twice that over tags."""
    from verl_mars.toy.prepare import prepare

    dump = f"trainer.rollout_data_dir={tmp_path}"
    small_run(
        "toy_pgpo_grpo",
        f"algorithm.pgpo.divergence={divergence}",
        f"actor_rollout_ref.model.path={prepare('default', 0).model}",
        dump,
    )
    name, responses = read_responses(tmp_path / "1.jsonl", 8)
    words, template = medians(responses)
    assert name == "dependency" and len(responses) == 8
    assert words > 2 * template and words > 1e-3
