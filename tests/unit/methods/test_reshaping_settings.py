"""``algorithm.pgpo`` and ``algorithm.vogue``: the papers' defaults, faults by name, whose advantages are reshaped."""

import pytest
from omegaconf import OmegaConf

from verl_mars.methods import METHODS, method_of
from verl_mars.methods.pgpo import Pgpo
from verl_mars.methods.vogue import Vogue


def test_defaults_are_the_papers():
    pgpo, vogue = Pgpo().settings, Vogue().settings
    assert (pgpo.base, pgpo.tau, pgpo.beta, pgpo.gate) == ("grpo", 0.4, 2.0, "absolute")
    assert (vogue.perception_alpha, vogue.perception_beta) == (1.0, 2.0)
    assert (vogue.output_alpha, vogue.output_beta) == (0.4, 2.0)
    assert (vogue.noisy_start, vogue.noisy_end, vogue.noise.sigma) == (1.0, 0.0, 0.4)


def test_values_arrive_from_yaml():
    noise = {"sigma": 0.2, "flips": False, "turnable_tasks": ["count"]}
    vogue = Vogue(OmegaConf.create({"vogue": {"variant": "released", "noise": noise}})).settings
    assert vogue.variant == "released"
    assert (vogue.noise.sigma, vogue.noise.flips, vogue.noise.turnable_tasks) == (0.2, False, ("count",))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"tau": 1.5}, "algorithm.pgpo.tau = 1.5: .*less than or equal to 1"),
        ({"beta": -1}, "algorithm.pgpo.beta = -1"),
        ({"gate": "median"}, "algorithm.pgpo.gate = 'median': .*'absolute' or 'quantile'"),
        ({"base": "vogue"}, "algorithm.pgpo.base = 'vogue': it reshapes advantages itself"),
        ({"divergence": "most"}, "algorithm.pgpo.divergence = 'most': .*'sampled' or 'exact'"),
        ({"threshold": 0.4}, "algorithm.pgpo.threshold: unknown key.*allowed: base, divergence"),
    ],
)
def test_faults_of_pgpo_are_named(section, words):
    with pytest.raises(ValueError, match=words):
        Pgpo(OmegaConf.create({"pgpo": section}))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"variant": "v1"}, "algorithm.vogue.variant = 'v1': .*'paper' or 'released'"),
        ({"perception_beta": 0}, "algorithm.vogue.perception_beta = 0: .*greater than 0"),
        ({"divergence": "most"}, "algorithm.vogue.divergence = 'most': .*'sampled' or 'exact'"),
        ({"noise": {"sigma": -0.1}}, "algorithm.vogue.noise.sigma = -0.1"),
        ({"noise": {"blur": 1}}, "algorithm.vogue.noise.blur: unknown key.*allowed: sigma, flips"),
    ],
)
def test_faults_of_vogue_are_named(section, words):
    with pytest.raises(ValueError, match=words):
        Vogue(OmegaConf.create({"vogue": section}))


@pytest.mark.parametrize(
    ("algorithm", "base", "anchored"),
    [
        ({"adv_estimator": "grpo"}, "", False),
        ({"adv_estimator": "mars"}, "", True),
        ({"adv_estimator": "pgpo"}, "grpo", False),
        ({"adv_estimator": "vogue", "vogue": {"base": "mars"}}, "mars", True),
        ({"adv_estimator": "grpo", "pgpo": {"base": "mars"}}, "", False),
    ],
)
def test_whose_advantages_are_reshaped(algorithm, base, anchored):
    method = method_of(OmegaConf.create(algorithm))
    assert (method.base_name, method.anchoring is not None) == (base, anchored)


def test_a_base_of_mars_brings_its_settings_along():
    algorithm = {"vogue": {"base": "mars"}, "mars": {"anchor_every": 3, "mono_prompt": "drop", "check_data": False}}
    method = METHODS["vogue"](algorithm)
    assert (method.anchor_epochs, method.mono_prompt, method.check_data) == (3, "drop", False)
    assert method.group_filter is method.anchoring is method.base
