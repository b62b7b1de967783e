"""PAPO and VPPO as methods: the masked view of each row, advantages over the base `mars`, metrics, settings."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from verl_mars.algos.divergence import sampled_dependency
from verl_mars.algos.mars import mono_anchored_advantage
from verl_mars.algos.papo import perception_advantage
from verl_mars.algos.vppo import pivotal_tokens, response_scale
from verl_mars.methods import METHODS, RowsToView, RowValues, ViewContext
from verl_mars.methods.estimator import estimator, hand_over
from verl_mars.rows import AnchorRows

UIDS = ["a", "b"] * 4
ANCHORS = torch.tensor([[0.2, 0.9]] * 8)


def batch(seed=0):
    """(8, 5) rewards with the score on the last token, and the mask of responses of 2 to 5 tokens."""
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(5) < torch.randint(2, 6, (8, 1), generator=draw)).long()
    rewards = torch.zeros(8, 5)
    rewards[torch.arange(8), mask.sum(1) - 1] = torch.rand(8, generator=draw)
    return rewards, mask


def values_of(mask, real=None, moved=True):
    draw = torch.Generator().manual_seed(1)
    old, view = (-torch.rand(mask.shape, generator=draw).double() * mask for _ in range(2))
    return RowValues(
        real=torch.ones(8, dtype=torch.bool) if real is None else real,
        last_output=torch.arange(8),
        tags=[{"response_len": 3}] * 8,
        log_probs=old,
        view_log_probs=view if moved else old,
        anchors=AnchorRows(ANCHORS, ANCHORS, [["rgb", "ir"]] * 8, torch.ones(8), torch.ones(8)),
    )


def run(name, settings, values, mask, rewards, uids=UIDS):
    config = {name: {"base": "mars", **settings}}
    with hand_over(METHODS[name](config), values) as handover:
        got, _ = estimator(name)(rewards, mask, uids, config)
    return got, handover.metrics(), handover.result.tokens


def base(rewards, mask):
    return mono_anchored_advantage(rewards.sum(1), UIDS, ANCHORS)[:, None] * mask


def test_papo_adds_its_pull_to_the_advantages_of_mars():
    rewards, mask = batch()
    values = values_of(mask)
    got, metrics, tokens = run("papo", {"gamma": 0.5, "eta": 0.1}, values, mask, rewards)
    pull = perception_advantage(values.log_probs, values.view_log_probs, 0.5, 0.0, 10.0)
    torch.testing.assert_close(got, (base(rewards, mask) + (pull + 0.1) * mask).float())
    assert metrics["papo/pull"] == pytest.approx(pull[mask.bool()].mean().item())
    assert metrics["papo/perception_kl"] > 0 and metrics["papo/clipped_tokens"] == 0
    assert "mars/info_gain" in metrics and {"dependency", "pull"} <= set(tokens)
    assert run("papo", {"max_divergence": 0.0}, values, mask, rewards)[1]["papo/clipped_tokens"] > 0.9


def test_vppo_keeps_the_pivotal_tokens_of_mars():
    rewards, mask = batch()
    values = values_of(mask)
    got, metrics, tokens = run("vppo", {"eta": 0.1}, values, mask, rewards)
    dependency = sampled_dependency(values.log_probs, values.view_log_probs)
    pivotal = pivotal_tokens(dependency, mask, 0.4)
    scale = response_scale(dependency, mask, values.real, 0.9, None)
    expected = base(rewards, mask) * pivotal * scale[:, None] + 0.1 * mask
    torch.testing.assert_close(got, expected.float())
    assert metrics["vppo/scale_max"] == pytest.approx(scale.max().item()) and metrics["vppo/scale_max"] > 1
    assert metrics["vppo/pivotal_dependency"] > metrics["vppo/dependency_mean"] > 0
    assert "mars/info_gain" in metrics and {"dependency", "pivotal"} <= set(tokens)


def test_vppo_clamps_a_dependency():
    rewards, mask = batch()
    values = values_of(mask)
    far = replace(values, view_log_probs=values.log_probs - 30 * mask)
    assert run("vppo", {}, far, mask, rewards)[1]["vppo/dependency_mean"] == 10.0
    assert run("vppo", {"max_dependency": 2.0}, far, mask, rewards)[1]["vppo/dependency_mean"] == 2.0


def test_a_view_that_changes_nothing_leaves_papo_at_the_base_and_vppo_at_a_part_of_its_tokens():
    rewards, mask = batch()
    values = values_of(mask, moved=False)
    torch.testing.assert_close(run("papo", {}, values, mask, rewards)[0], base(rewards, mask))
    torch.testing.assert_close(run("vppo", {"token_share": 1.0}, values, mask, rewards)[0], base(rewards, mask))


@pytest.mark.parametrize("name", ["papo", "vppo"])
def test_padding_gets_nothing_and_moves_no_mean(name):
    rewards, mask = batch()
    real = torch.tensor([True] * 7 + [False])
    values = values_of(mask, real)
    uids = [*UIDS[:7], "pad"]  # verl gives padding a uid of its own
    got, metrics, _ = run(name, {"eta": 0.1}, values, mask, rewards, uids)
    assert got[7].tolist() == [0.0] * 5
    other = replace(values, view_log_probs=torch.cat((values.view_log_probs[:7], torch.full((1, 5), -9.0))))
    again, more, _ = run(name, {"eta": 0.1}, other, mask, rewards, uids)
    torch.testing.assert_close(again, got)
    assert more == metrics


@pytest.mark.parametrize("name", ["pgpo", "papo", "vppo", "vogue"])
def test_uids_are_asked_for_as_mars_asks(name):
    rewards, mask = batch()
    with pytest.raises(ValueError, match=rf"algorithm.adv_estimator={name} needs the prompt uid.*`index`"):
        estimator(name)(rewards, mask, log_probs=rewards.double(), view_log_probs=rewards.double())


@pytest.mark.parametrize("name", ["papo", "vppo"])
def test_without_a_rescored_view_the_setting_is_named(name):
    rewards, mask = batch()
    with pytest.raises(ValueError, match=rf"adv_estimator={name} got no view log-probs.*trainer_mode=mars_sync"):
        estimator(name)(rewards, mask, UIDS, {name: {"base": "mars"}}, anchor_scores=ANCHORS)


def test_defaults_are_the_papers():
    papo, vppo = METHODS["papo"]().settings, METHODS["vppo"]().settings
    assert (papo.mask_ratio, papo.gamma, papo.eta, papo.max_divergence) == (0.6, 0.02, 0.0, 10.0)
    assert (vppo.mask_ratio, vppo.token_share, vppo.scale_min, vppo.scale_max) == (0.5, 0.4, 0.9, None)


@pytest.mark.parametrize(
    ("name", "section", "words"),
    [
        ("papo", {"mask_ratio": 1.5}, "algorithm.papo.mask_ratio = 1.5"),
        ("papo", {"gamma": -1.0}, "algorithm.papo.gamma = -1.0"),
        ("vppo", {"token_share": 0.0}, "algorithm.vppo.token_share = 0.0"),
        ("vppo", {"eta": math.inf}, "algorithm.vppo.eta = inf"),
        ("vppo", {"share": 0.4}, "algorithm.vppo.share: unknown key"),
    ],
)
def test_faults_are_named(name, section, words):
    with pytest.raises(ValueError, match=words):
        METHODS[name]({name: section})


# ---------------------------------------------------------------- the masked view

PROCESSOR = SimpleNamespace(
    image_processor=SimpleNamespace(
        patch_size=14, merge_size=2, image_mean=[0.5] * 3, image_std=[0.25] * 3, do_normalize=True
    )
)


def pixels(seed, high=4):
    draw = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.rand(high * 4, 1176, generator=draw), "image_grid_thw": torch.tensor([[1, high, 4]])}


def views(name, step=1, seed=0, **settings):
    """Of two rows of prompt 3, one of prompt 4, one without images and one of padding."""
    rows = RowsToView(
        keys=["a_0_0", "a_1_0", "b_0_0", "c_0_0", "pad_0_0"],
        real=torch.tensor([True] * 4 + [False]),
        trajectories=[],
        fields={
            "multi_modal_inputs": [pixels(0), pixels(0), pixels(0), {}, pixels(0)],
            "index": [3, 3, 4, 5, 3],
        },
    )
    return METHODS[name]({name: settings}).views(rows, ViewContext(None, PROCESSOR, step, seed))


def hidden(view):
    return (view.visual_inputs["pixel_values"] == -2.0).all(1)  # black is -mean / std


@pytest.mark.parametrize("name", ["papo", "vppo"])
def test_rows_of_a_prompt_see_the_same_patches_and_other_prompts_others(name):
    first, second, other, *rest = views(name)
    assert torch.equal(hidden(first), hidden(second)) and not torch.equal(hidden(first), hidden(other))
    assert rest == [None, None]
    assert torch.equal(hidden(views(name)[0]), hidden(first))
    for again in (views(name, step=2), views(name, seed=1)):
        assert not torch.equal(hidden(again[0]), hidden(first))


def test_the_share_of_patches_is_the_settings():
    assert hidden(views("papo", mask_ratio=1.0)[0]).all() and not hidden(views("vppo", mask_ratio=0.0)[0]).any()


def test_a_model_of_another_family_is_refused():
    rows = RowsToView(["a_0_0"], torch.tensor([True]), [], {"multi_modal_inputs": [{}], "index": [0]})
    with pytest.raises(ValueError, match="models of the Qwen-VL family only"):
        METHODS["papo"]().views(rows, ViewContext(None, SimpleNamespace(), 1, 0))
