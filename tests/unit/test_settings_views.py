"""``algorithm.pgpo`` and ``algorithm.vogue``: the papers' defaults, faults by name, whose advantages are reshaped."""

import pytest
from omegaconf import OmegaConf

from verl_mars.settings import PgpoSettings, VogueSettings, group_estimator
from verl_mars.views import Noise


def test_defaults_are_the_papers():
    pgpo, vogue = PgpoSettings.from_algorithm(None), VogueSettings.from_algorithm(None)
    assert (pgpo.base, pgpo.tau, pgpo.beta, pgpo.gate) == ("grpo", 0.4, 2.0, "absolute")
    assert (vogue.perception_alpha, vogue.perception_beta) == (1.0, 2.0)
    assert (vogue.output_alpha, vogue.output_beta) == (0.4, 2.0)
    assert (vogue.noisy_start, vogue.noisy_end, vogue.noise.sigma) == (1.0, 0.0, 0.4)


def test_settings_and_view_agree_about_the_noise():
    assert Noise(**VogueSettings().noise.model_dump()) == Noise()


def test_values_arrive_from_yaml():
    noise = {"sigma": 0.2, "flips": False, "turnable_tasks": ["count"]}
    vogue = VogueSettings.from_algorithm(OmegaConf.create({"vogue": {"variant": "released", "noise": noise}}))
    assert vogue.variant == "released"
    assert (vogue.noise.sigma, vogue.noise.flips, vogue.noise.turnable_tasks) == (0.2, False, ("count",))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"tau": 1.5}, "algorithm.pgpo.tau = 1.5: .*less than or equal to 1"),
        ({"beta": -1}, "algorithm.pgpo.beta = -1"),
        ({"gate": "median"}, "algorithm.pgpo.gate = 'median': .*'absolute' or 'quantile'"),
        ({"base": "gae"}, "algorithm.pgpo.base = 'gae': .*'grpo'.*'mars'"),
        ({"divergence": "most"}, "algorithm.pgpo.divergence = 'most': .*'sampled' or 'exact'"),
        ({"threshold": 0.4}, "algorithm.pgpo.threshold: unknown key; allowed: base, tau, beta"),
    ],
)
def test_faults_of_pgpo_are_named(section, words):
    with pytest.raises(ValueError, match=words):
        PgpoSettings.from_algorithm(OmegaConf.create({"pgpo": section}))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"variant": "v1"}, "algorithm.vogue.variant = 'v1': .*'paper' or 'released'"),
        ({"perception_beta": 0}, "algorithm.vogue.perception_beta = 0: .*greater than 0"),
        ({"divergence": "most"}, "algorithm.vogue.divergence = 'most': .*'sampled' or 'exact'"),
        ({"noise": {"sigma": -0.1}}, "algorithm.vogue.noise.sigma = -0.1"),
        ({"noise": {"blur": 1}}, "algorithm.vogue.noise.blur: unknown key; allowed: sigma, flips, rotation_degrees"),
    ],
)
def test_faults_of_vogue_are_named(section, words):
    with pytest.raises(ValueError, match=words):
        VogueSettings.from_algorithm(OmegaConf.create({"vogue": section}))


@pytest.mark.parametrize(
    ("algorithm", "base"),
    [
        ({"adv_estimator": "grpo"}, "grpo"),
        ({"adv_estimator": "mars"}, "mars"),
        ({"adv_estimator": "pgpo"}, "grpo"),
        ({"adv_estimator": "vogue", "vogue": {"base": "mars"}}, "mars"),
        ({"adv_estimator": "grpo", "pgpo": {"base": "mars"}}, "grpo"),
    ],
)
def test_whose_advantages_are_reshaped(algorithm, base):
    assert group_estimator(OmegaConf.create(algorithm)) == base
