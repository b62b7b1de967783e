"""What the study's loop makes without verl: other views, dynamic sampling, and controls, against the product's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from study import loop, rollout
from study.advantages import (
    _entropy,
    advantages,
    method_of,
    padded,
    trajectory,
    trajectory_log_probs,
    visual_inputs,
)
from study.answers import OVERLONG, Scored, World
from study.arms import ARMS, Arm
from study.rollout import PROMPTS, At, Rollout, images_of, roll_out

from verl_mars.algos.mars import mono_anchored_advantage
from verl_mars.cpu.sampling import Response
from verl_mars.methods.base import Presentation
from verl_mars.preflight.doctor import compose_recipe
from verl_mars.toy import world
from verl_mars.toy.model import build_model, build_processor, build_tokenizer
from verl_mars.views import Blind, OtherPixels
from verl_mars.vision.patches import PatchLayout, mask_patches

pytest.importorskip("verl")

AT = At(seed=0, step=1, steps=10)


@pytest.fixture(scope="module")
def model():
    return build_model(seed=0).eval()


@pytest.fixture(scope="module")
def scenes(model):
    with torch.no_grad():
        return World(model, build_tokenizer(), world.make_scenes(40, 0))


def first(count):
    return np.arange(count)


def rolled(model, scenes, arm, method=None, at=AT):
    with torch.no_grad():
        made, _ = roll_out(model, scenes, arm, method or method_of(arm), first, at)
    return made, padded(made, scenes.tokenizer.pad_token_id)


def shaped(model, scenes, arm, made, sampled):
    with torch.no_grad():
        return advantages(model, scenes, arm, method_of(arm), made, sampled, AT)


def own_view(model, scenes, scene, response):
    return trajectory(model, scenes.ids[scene], response, visual_inputs(images_of(scenes.row(scene))))


def by_transformers(model, shown):
    """(R,) log-probs of a trajectory's response, from the stock forward pass."""
    ids = torch.cat((shown.prompt, shown.response))[None]
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=shown.position_ids[:, None], **shown.visual_inputs).logits[0]
    every = torch.log_softmax(logits[len(shown.prompt) - 1 : -1], dim=-1)
    return every.gather(1, shown.response[:, None])[:, 0]


def test_log_probs_under_a_view_are_those_of_the_stock_model(model, scenes):
    """Prompts of several lengths; blind, with patches of the pictures black, and with another scene's pictures."""
    layout, image = PatchLayout.of(build_processor()), model.config.image_token_id
    own = [own_view(model, scenes, scene, list(range(40, 44 + scene))) for scene in range(4)]
    views = {
        "blind": [Blind(frozenset([image])) for _ in own],
        "masked": [OtherPixels(mask_patches(each.visual_inputs, layout, 0.5, 7)) for each in own],
        "others": [OtherPixels(own[0].visual_inputs) for _ in own],
    }
    seen = {}
    for name, of_rows in views.items():
        shown = [view.show(each) for view, each in zip(of_rows, own, strict=True)]
        with torch.no_grad():
            found = trajectory_log_probs(model, shown)
        for values, each in zip(found, shown, strict=True):
            torch.testing.assert_close(values, by_transformers(model, each), atol=2e-5, rtol=1e-4)
        seen[name] = torch.cat(found[1:])
    assert not torch.allclose(seen["blind"], seen["others"], atol=1e-3), "the views look the same"
    assert not torch.allclose(seen["masked"], seen["others"], atol=1e-3), "the views look the same"


def test_log_probs_under_the_own_view_are_the_samplers(model, scenes):
    made, sampled = rolled(model, scenes, ARMS["grpo"])
    own = [own_view(model, scenes, row // 8, each.token_ids) for row, each in enumerate(made.fused.responses)]
    with torch.no_grad():
        found = trajectory_log_probs(model, own)
    for values, row, mask in zip(found, sampled.log_probs, sampled.mask.bool(), strict=True):
        torch.testing.assert_close(values, row[mask], atol=2e-5, rtol=1e-4)


def test_the_entropy_is_that_of_the_stock_model(model, scenes):
    made, sampled = rolled(model, scenes, ARMS["vogue"], at=At(seed=0, step=10, steps=10))
    with torch.no_grad():
        found = _entropy(model, scenes, made, sampled)
        for row in (0, 9):
            shown = own_view(model, scenes, row // 8, made.fused.responses[row].token_ids)
            ids = torch.cat((shown.prompt, shown.response))[None]
            logits = model(input_ids=ids, position_ids=shown.position_ids[:, None], **shown.visual_inputs).logits[0]
            expected = torch.distributions.Categorical(logits=logits[len(shown.prompt) - 1 : -1]).entropy()
            torch.testing.assert_close(found[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)
    assert not found[~sampled.mask.bool()].any()


def test_top_p_leaves_out_the_least_probable_tokens_and_reports_their_share(model, scenes):
    """The sampler's log-probs stay those of the whole vocabulary."""
    made, sampled = rolled(model, scenes, replace(ARMS["grpo_top_p"], top_p=1e-6))
    greedy = scenes.answer(model, made.scenes)
    for row, response in enumerate(made.fused.responses):
        assert response.token_ids == greedy.responses[row // 8].token_ids
    assert sampled.log_probs[sampled.mask.bool()].max() < -0.1, "of the one token that is left it would be 0"


def result(rewards, accuracy=None):
    accuracy = np.ones(len(rewards)) if accuracy is None else accuracy
    tokens = Response([1, 2], [-0.5, -0.5], "stop")
    return Scored([tokens] * len(rewards), np.array(rewards, float), accuracy, np.ones(len(rewards)))


def groups(fused, anchors=(), scenes=PROMPTS):
    shown = [Presentation({"raw_prompt": []})] * scenes
    return Rollout(np.arange(scenes), shown, torch.zeros(scenes, 2, 4, 1), fused, anchors)


@pytest.mark.parametrize("name", ["mars", "shuffled"])
def test_anchors_go_to_their_prompt_or_to_another(name):
    rng = np.random.default_rng(0)
    drawn = (rng.random((3, 8 * PROMPTS)) < 0.5).astype(float)
    fused = result(0.9 * drawn[0] + 0.1, drawn[0])
    anchors = [result(np.arange(PROMPTS)), result(drawn[1][:PROMPTS])]  # no two alike
    made = groups(fused, anchors)
    found, _ = advantages(None, None, ARMS[name], method_of(ARMS[name]), made, padded(made, 0), AT)
    own = torch.from_numpy(np.stack([np.repeat(each.reward, 8) for each in anchors], axis=1)).float()
    uids = [str(row // 8) for row in range(8 * PROMPTS)]
    expected = mono_anchored_advantage(torch.from_numpy(fused.reward).float(), uids, own, True)
    same = (found == expected[:, None]).all(1).reshape(PROMPTS, 8).all(1)
    assert same.all() if name == "mars" else not same.any()


def test_shuffled_token_weights_are_those_of_the_response_in_another_order(model, scenes):
    """Every response has the base's advantage times its own weights."""
    rewards = np.tile([1.0, 0.0], 4 * PROMPTS)
    made, sampled = rolled(model, scenes, ARMS["grpo"])
    made = replace(made, fused=replace(made.fused, reward=rewards, accuracy=rewards))
    base, _ = shaped(model, scenes, ARMS["grpo"], made, sampled)
    weighed = {name: shaped(model, scenes, ARMS[name], made, sampled)[0] / base for name in ("pgpo", "pgpo_shuffled")}
    moved = 0
    for one, other, mask in zip(*weighed.values(), sampled.mask.bool(), strict=True):
        torch.testing.assert_close(one[mask].sort().values, other[mask].sort().values, atol=1e-4, rtol=1e-3)
        assert one[mask].sum().item() == pytest.approx(mask.sum().item(), rel=1e-3)
        moved += not torch.allclose(one[mask], other[mask], atol=1e-3)
    assert moved > len(made.fused.responses) // 2


def test_vogue_trains_on_noisy_pictures_and_rescores_under_the_raw_ones(model, scenes):
    """At the first of many steps every group is noisy. Without noise the other view is the own one."""
    early = At(seed=0, step=0, steps=10)
    raw = scenes.visual(first(PROMPTS))
    for name in ("vogue", "vogue_no_noise"):
        made, sampled = rolled(model, scenes, ARMS[name], at=early)
        _, metrics = shaped(model, scenes, ARMS[name], made, sampled)
        assert metrics["vogue/noisy_share"] == 1.0
        noisy = name == "vogue"
        assert torch.allclose(made.visual, raw, atol=1e-4) != noisy
        assert metrics["vogue/uncertainty"] > 1e-6 if noisy else metrics["vogue/uncertainty"] < 1e-6
    late = At(seed=0, step=10, steps=10)
    made, _ = rolled(model, scenes, ARMS["vogue"], at=late)
    assert torch.equal(made.visual, raw)


MIXED, RIGHT, WRONG = [1.0] + [0.0] * 7, [1.0] * 8, [0.0] * 8


def test_a_group_that_teaches_nothing_is_dropped():
    """Mixed rewards teach; equal ones do with an anchor that differs, if the method asks."""
    fused = result([*MIXED, *RIGHT, *RIGHT, *WRONG])
    anchors = [result([1, 1, 0, 0]), result([0, 1, 1, 0])]
    made = groups(fused, anchors, scenes=4)
    assert rollout._teaching(replace(made, anchors=()), method_of(ARMS["dapo"])) == [0]
    assert rollout._teaching(made, method_of(ARMS["mars_dapo"])) == [0, 2]
    kept = made.take([0, 2])
    assert kept.fused.reward.tolist() == [*MIXED, *RIGHT] and kept.scenes.tolist() == [0, 2]
    assert [anchor.reward.tolist() for anchor in kept.anchors] == [[1, 0], [0, 1]]


def test_dynamic_sampling_fills_a_step_and_counts_what_it_dropped(monkeypatch):
    """Scenes of an odd number teach nothing: 16 that teach are the even ones of 32."""
    drawn = iter(range(1000))

    def answers(model, world, arm, method, scenes, at, draw):
        rewards = [reward for scene in scenes for reward in (RIGHT if scene % 2 else MIXED)]
        return replace(groups(result(rewards), scenes=len(scenes)), scenes=scenes)

    monkeypatch.setattr(rollout, "_roll_out", answers)
    arm = ARMS["dapo"]
    made, spent = roll_out(None, None, arm, method_of(arm), lambda n: np.array([next(drawn) for _ in range(n)]), AT)
    assert made.scenes.tolist() == list(range(0, 32, 2)) and len(made.fused.reward) == 8 * PROMPTS
    assert spent["rollouts"] == 8 * next(drawn) and spent["tokens"] == 2 * spent["rollouts"]
    odd = iter(range(1, 10**6, 2))
    with pytest.raises(RuntimeError, match="step 1: 100 draws of prompts had too few groups that teach anything"):
        roll_out(None, None, arm, method_of(arm), lambda n: np.array([next(odd) for _ in range(n)]), AT)


def test_the_loops_dapo_is_that_of_the_recipe():
    config = compose_recipe("toy_dapo")
    actor, reward = config.actor_rollout_ref.actor, config.reward.reward_kwargs
    assert loop.CLIP_DAPO == (actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c)
    assert actor.loss_agg_mode == "token-mean" and config.algorithm.filter_groups.metric == "reward"
    buffer = OVERLONG.overlong_buffer_cfg
    own = {"max_resp_len": OVERLONG.max_resp_len, "len": buffer.len, "penalty_factor": buffer.penalty_factor}
    theirs = reward.overlong_buffer_cfg
    assert own == {
        "max_resp_len": reward.max_resp_len,
        "len": theirs.len,
        "penalty_factor": theirs.penalty_factor,
    }
    grpo = compose_recipe("toy_mars_grpo").actor_rollout_ref.actor
    assert loop.CLIP == (grpo.clip_ratio_low, grpo.clip_ratio_high, grpo.clip_ratio_c)


def test_a_long_answer_loses_reward():
    long = Response([1] * 11, [-0.5] * 11, "stop")
    scored = replace(result([1.0, 1.0]), responses=[long, Response([1] * 10, [-0.5] * 10, "stop")])
    assert scored.with_overlong_penalty().reward.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("name", sorted(ARMS))
def test_every_arm_gives_advantages_inside_the_responses(model, scenes, name):
    arm: Arm = ARMS[name]
    made, sampled = rolled(model, scenes, replace(arm, dapo=False))
    rewards = np.tile([1.0, 0.0], len(made.fused.reward) // 2)
    made = replace(made, fused=replace(made.fused, reward=rewards, accuracy=rewards))
    values, metrics = shaped(model, scenes, arm, made, sampled)
    assert values.shape == sampled.mask.shape and torch.isfinite(values).all()
    assert not values[~sampled.mask.bool()].any() and values.any()
    assert (arm.estimator != "grpo") == bool(metrics)
