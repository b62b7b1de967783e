"""Which attention the recipes for real models train with."""

import pytest
from omegaconf import OmegaConf

from verl_mars import hydra_callbacks
from verl_mars.preflight.doctor import compose_recipe

CHOSEN = "+actor_rollout_ref.model.override_config.attn_implementation=eager"


def after_the_callback(monkeypatch, *overrides, installed):
    config = compose_recipe("mars_grpo", overrides)
    monkeypatch.setattr(hydra_callbacks, "find_spec", lambda name: object() if installed else None)
    hydra_callbacks.InstalledAttention().on_run_start(config)
    model = config.actor_rollout_ref.model
    return OmegaConf.to_container(model.override_config), model.use_remove_padding


def test_flash_attention_stays_where_it_is_installed(monkeypatch):
    assert after_the_callback(monkeypatch, installed=True) == ({}, True)


def test_torchs_own_attention_does_not_pack_rows_and_says_so(monkeypatch, capsys):
    assert after_the_callback(monkeypatch, installed=False) == ({"attn_implementation": "sdpa"}, False)
    assert "flash-attn is not installed" in capsys.readouterr().out


def test_a_choice_of_the_users_own_stays(monkeypatch):
    assert after_the_callback(monkeypatch, CHOSEN, installed=False) == ({"attn_implementation": "eager"}, True)


def test_a_multirun_is_told_what_to_give(monkeypatch):
    config = compose_recipe("mars_grpo")
    monkeypatch.setattr(hydra_callbacks, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="attn_implementation=sdpa .*use_remove_padding=false"):
        hydra_callbacks.InstalledAttention().on_multirun_start(config)


def test_the_recipes_name_the_callback():
    callbacks = compose_recipe("mars_grpo").hydra.callbacks
    assert "verl_mars.hydra_callbacks.InstalledAttention" in [c._target_ for c in callbacks.values()]
