"""Recipes with a paper's settings have the numbers of that paper."""

import pytest
from test_recipes import FULL, composed

from verl_mars.preflight.doctor import compose_recipe

pytestmark = pytest.mark.recipes

AUTHORS = {
    "data.max_prompt_length": 4096,
    "data.max_response_length": 8192,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.actor.grad_clip": 1.0,
    "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 1.0,
    "algorithm.use_kl_in_reward": False,
    "trainer.total_epochs": 2,
    "trainer.n_gpus_per_node": 8,
    "trainer.nnodes": 1,
}
AUTHORS_GRPO = AUTHORS | {
    "data.train_batch_size": 128,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 32,
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_coef": 0.001,
    "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    "actor_rollout_ref.rollout.n": 14,
    "algorithm.filter_groups.enable": False,
}
AUTHORS_DAPO = AUTHORS | {
    "data.train_batch_size": 16,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.28,
    "actor_rollout_ref.actor.clip_ratio_c": 10.0,
    "actor_rollout_ref.actor.optim.lr_warmup_steps": 10,
    "actor_rollout_ref.actor.optim.weight_decay": 0.1,
    "actor_rollout_ref.rollout.n": 12,
    "algorithm.filter_groups.enable": True,
    "reward.reward_kwargs.overlong_buffer_cfg.enable": True,
    "reward.reward_kwargs.overlong_buffer_cfg.len": 4096,
    "reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": 1.0,
}


@pytest.mark.parametrize(("recipe", "settings"), [("mars_grpo", AUTHORS_GRPO), ("mars_dapo", AUTHORS_DAPO)])
def test_the_authors_settings_are_the_defaults(recipe, settings):
    config = composed(recipe)
    assert {key: config[key] for key in settings} == settings


@pytest.mark.parametrize("recipe", ["grpo", "mars_grpo", "dapo", "mars_dapo"])
def test_the_authors_sampling_is_one_word_in_either_arm(recipe):
    one, other = composed(recipe), composed(recipe, "+paper=authors")
    differ = {key: other[key] for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert differ == {"actor_rollout_ref.rollout.top_p": 0.9}


def test_both_arms_have_one_order_of_rows():
    for recipe in ("grpo", "toy_grpo"):
        sampler = compose_recipe(recipe).trainer.v1.sampler
        assert sampler.custom_sampler.name == "OrderedReplayBuffer"
    seeds = {compose_recipe(name, ["data.seed=5"]).trainer.v1.sampler.sampler_kwargs.order_seed for name in FULL}
    assert seeds == {5}


EASY_R1 = {
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.optim.weight_decay": 0.01,
    "actor_rollout_ref.actor.optim.lr_warmup_steps": -1,
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": 0.0,
    "actor_rollout_ref.actor.clip_ratio_c": 3.0,
}
"""What the other papers' framework sets, and not the warm-up, decay and dual clip of the MARS authors."""
PGPO = EASY_R1 | {
    "data.train_batch_size": 384,
    "data.max_response_length": 2048,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 128,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.rollout.n": 5,
    "actor_rollout_ref.rollout.top_p": 0.99,
    "reward.reward_kwargs.accuracy_weight": 0.9,
    "reward.reward_kwargs.format_weight": 0.1,
    "algorithm.pgpo.tau": 0.4,
    "algorithm.pgpo.beta": 2.0,
}
VOGUE = EASY_R1 | {
    "data.train_batch_size": 256,
    "data.max_response_length": 2048,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 128,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.optim.weight_decay": 0.01,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.rollout.n": 5,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "trainer.total_training_steps": 200,
    "algorithm.vogue.variant": "paper",
    "algorithm.vogue.noise.sigma": 0.4,
    "algorithm.vogue.perception_alpha": 1.0,
    "algorithm.vogue.perception_beta": 2.0,
    "algorithm.vogue.output_alpha": 0.4,
    "algorithm.vogue.output_beta": 2.0,
}
PAPO = EASY_R1 | {
    "data.train_batch_size": 384,
    "data.max_response_length": 2048,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 128,
    "actor_rollout_ref.rollout.n": 5,
    "actor_rollout_ref.rollout.top_p": 0.99,
    "reward.reward_kwargs.accuracy_weight": 0.9,
    "reward.reward_kwargs.format_weight": 0.1,
    "algorithm.papo.mask_ratio": 0.6,
}
PAPO_GRPO = PAPO | {
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_coef": 0.01,
    "actor_rollout_ref.actor.clip_ratio_high": 0.3,
    "algorithm.papo.gamma": 0.02,
    "algorithm.papo.eta": 0.0,
}
PAPO_DAPO = PAPO | {
    "actor_rollout_ref.actor.use_kl_loss": False,
    "algorithm.papo.gamma": 0.01,
    "algorithm.papo.eta": 0.03,
    "algorithm.filter_groups.metric": "acc",
}
VPPO = EASY_R1 | {
    "data.train_batch_size": 384,
    "data.max_response_length": 2048,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 128,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.top_p": 0.99,
    "reward.reward_kwargs.accuracy_weight": 1.0,
    "reward.reward_kwargs.format_weight": 0.0,
    "algorithm.vppo.mask_ratio": 0.5,
    "algorithm.vppo.token_share": 0.4,
    "algorithm.vppo.scale_min": 0.9,
    "algorithm.vppo.eta": 0.06,
    "algorithm.filter_groups.metric": "acc",
}
CLIP_HIGHER = {
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.28,
    "algorithm.filter_groups.enable": True,
    "reward.reward_kwargs.overlong_buffer_cfg.enable": False,
}


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("pgpo_grpo", PGPO),
        ("pgpo_dapo", PGPO | CLIP_HIGHER),
        ("vogue_grpo", VOGUE),
        ("vogue_dapo", VOGUE | CLIP_HIGHER),
        ("papo_grpo", PAPO_GRPO),
        ("papo_dapo", PAPO_DAPO | CLIP_HIGHER),
        ("vppo_dapo", VPPO | CLIP_HIGHER),
        ("mars_pgpo_dapo", AUTHORS_DAPO | {"algorithm.pgpo.base": "mars"}),
    ],
)
def test_the_papers_settings_are_the_defaults(recipe, settings):
    config = composed(recipe)
    assert {key: config[key] for key in settings} == settings
