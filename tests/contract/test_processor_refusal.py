"""A model whose processor verl does not know would train without its images: refused where a method needs them."""

import json
import warnings

import pytest
from verl.utils.tokenizer import hf_processor

from verl_mars.preflight.doctor import recipe_faults
from verl_mars.toy import model


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    """The toy model, with a processor class that verl does not know."""
    folder = tmp_path_factory.mktemp("unknown")
    model.save(model.build_model(seed=0), folder)
    file = folder / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processor_class": "InternVLProcessor"}))
    return folder


def test_verl_takes_no_notice_of_such_a_processor(unknown):
    """If this fails, verl refuses or knows it now: look at preflight/data.py, processor_faults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert hf_processor(str(unknown), local_files_only=True) is None


@pytest.mark.parametrize("recipe", ["toy_mars_grpo", "toy_pgpo_grpo"])
def test_a_method_that_compares_views_refuses_it(unknown, recipe):
    found = [
        fault for fault in recipe_faults(recipe, [f"actor_rollout_ref.model.path={unknown}"]) if "without" in fault
    ]
    assert len(found) == 1 and f"actor_rollout_ref.model.path = {unknown}" in found[0] and "Qwen3-VL" in found[0]


def test_training_on_text_is_nobody_elses_business(unknown):
    assert not list(recipe_faults("toy_grpo", [f"actor_rollout_ref.model.path={unknown}"]))
