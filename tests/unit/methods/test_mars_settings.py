"""``algorithm.mars``: unknown keys and impossible values are refused by name."""

import pytest
from omegaconf import OmegaConf

from verl_mars.methods.mars import Mars


def test_defaults_are_the_authors():
    settings = Mars(OmegaConf.create({"adv_estimator": "mars"})).settings
    assert (settings.anchors_per_source, settings.mono_prompt) == (1, "repeat")


def test_values_arrive():
    algorithm = OmegaConf.create({"mars": {"anchors_per_source": 3, "mono_prompt": "drop"}})
    settings = Mars(algorithm).settings
    assert (settings.anchors_per_source, settings.mono_prompt) == (3, "drop")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"anchor_per_source": 1}, "algorithm.mars.anchor_per_source: unknown key; did you mean 'anchors_per_source'"),
        ({"anchors_per_source": 0}, "algorithm.mars.anchors_per_source = 0: .*greater than or equal to 1"),
        ({"anchors_per_source": "two"}, "algorithm.mars.anchors_per_source = 'two'"),
        ({"mono_prompt": "blank"}, "algorithm.mars.mono_prompt = 'blank': .*'repeat' or 'drop'"),
        ({"anchor_timeout_seconds": 0}, "algorithm.mars.anchor_timeout_seconds = 0"),
        (7, "algorithm.mars must be a mapping"),
    ],
)
def test_faults_are_named(section, words):
    with pytest.raises(ValueError, match=words):
        Mars(OmegaConf.create({"mars": section}))


def test_all_faults_are_told_at_once():
    with pytest.raises(ValueError, match="(?s)anchors_per_source.*mono_prompt"):
        Mars({"mars": {"anchors_per_source": 0, "mono_prompt": "blank"}})
