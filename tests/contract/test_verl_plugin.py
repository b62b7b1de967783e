"""What verl-mars hangs on where verl loads plugins, estimators, data, rewards. A failure names the change of verl."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import verl  # noqa: F401  first: it loads the plugin
from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl_contract import expect, in_fresh_process

# ---------------------------------------------------------------- plugin loading


def registered_in_a_fresh_process(policy):
    code = (
        "import json, sys, verl\n"
        "from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as known\n"
        "print(json.dumps(['verl_mars.register' in sys.modules, 'mars' in known]))"
    )
    # Without the plugin torchvision cannot be imported beside a CPU torch: declare its operators first.
    code = "from verl_mars._compat import define_missing_torchvision_ops as f; f()\n" + code
    return in_fresh_process(code, VERL_USE_EXTERNAL_PLUGINS=policy)


@pytest.mark.parametrize(("policy", "loaded"), [("auto", True), ("mars", True), ("MARS", True), ("none", False)])
def test_entry_point_is_loaded_as_the_policy_says(policy, loaded):
    expect(
        registered_in_a_fresh_process(policy) == [loaded, loaded],
        f"how VERL_USE_EXTERNAL_PLUGINS={policy} selects entry points of group verl.plugins",
        "pyproject.toml (entry-points) and verl_mars/register.py",
    )


def test_importing_verl_with_the_plugin_imports_no_trainer():
    code = "import sys, verl; print([m for m in sys.modules if m.startswith(('verl.trainer', 'verl.workers'))])"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert run.stdout.strip().splitlines()[-1] == "[]", "register.py must cost a process nothing: import late, by hooks"


def test_registering_twice_changes_nothing():
    import importlib

    import verl_mars.register as register

    before = core_algos.ADV_ESTIMATOR_REGISTRY["mars"]
    importlib.reload(register)
    assert core_algos.ADV_ESTIMATOR_REGISTRY["mars"] is before
    assert register.FAILURES == []


# ---------------------------------------------------------------- estimators


def batch(seed=0, rows=12, tokens=5):
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=draw)).long()
    rewards = torch.zeros(rows, tokens)
    rewards[torch.arange(rows), mask.sum(1) - 1] = torch.rand(rows, generator=draw)
    uids = np.array([f"u{i}" for i in torch.randint(0, 4, (rows,), generator=draw)], dtype=object)
    return rewards, mask, uids


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_without_anchors_mars_is_verls_grpo(normalize, seed):
    rewards, mask, uids = batch(seed)
    config = OmegaConf.create({"norm_adv_by_std_in_grpo": normalize})
    mars, returns = core_algos.get_adv_estimator_fn("mars")(
        token_level_rewards=rewards,
        response_mask=mask,
        index=uids,
        anchor_scores=torch.full((len(uids), 2), torch.nan),
        config=config,
    )
    grpo, _ = core_algos.compute_grpo_outcome_advantage(
        token_level_rewards=rewards, response_mask=mask, index=uids, norm_adv_by_std_in_grpo=normalize
    )
    torch.testing.assert_close(mars, grpo, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(returns, mars)


def test_mars_without_any_anchors_names_the_setting():
    rewards, mask, uids = batch()
    with pytest.raises(ValueError, match="trainer.v1.trainer_mode=mars_sync"):
        core_algos.get_adv_estimator_fn("mars")(token_level_rewards=rewards, response_mask=mask, index=uids, config={})


def test_verl_passes_rewards_mask_uids_and_config_to_an_estimator():
    rewards, mask, uids = batch()
    seen = {}

    def probe(**kwargs):
        seen.update(kwargs)
        return kwargs["token_level_rewards"], kwargs["token_level_rewards"]

    core_algos.ADV_ESTIMATOR_REGISTRY["verl_mars_probe"] = probe
    try:
        data = DataProto.from_dict(
            tensors={"token_level_rewards": rewards, "response_mask": mask}, non_tensors={"uid": uids}
        )
        compute_advantage(data, adv_estimator="verl_mars_probe", config={"key": 1})
    finally:
        del core_algos.ADV_ESTIMATOR_REGISTRY["verl_mars_probe"]
    expect(
        {"token_level_rewards", "response_mask", "index", "config"} <= set(seen),
        f"what compute_advantage passes to a registered estimator (now {sorted(seen)})",
        "verl_mars/methods/estimator.py",
    )
    assert seen["index"].tolist() == uids.tolist()


@pytest.mark.parametrize(
    "name",
    ["grpo", "grpo_vectorized", "grpo_passk", "rloo", "rloo_vectorized", "opo", "gpg", "reinforce_plus_plus_baseline"],
)
def test_verls_estimators_can_be_a_base(name):
    from verl_mars.methods.reshaping import base_faults

    faults = list(base_faults(name, "base"))
    expect(faults == [], f"the arguments of the estimator {name}: {faults}", "verl_mars/methods/reshaping.py")


# ---------------------------------------------------------------- data and rewards


def test_messages_of_a_row():
    example = {
        "prompt": [{"role": "user", "content": "<image>a<image>b"}],
        "images": [{"image": "/data/0.png"}, {"image": "/data/1.png"}],
    }
    dataset = SimpleNamespace(image_key="images", video_key="videos", audio_key="audios", processor=object())
    messages = RLHFDataset._build_messages(dataset, example, "prompt")
    expect(
        messages[0]["content"]
        == [
            {"type": "image", "image": "/data/0.png"},
            {"type": "text", "text": "a"},
            {"type": "image", "image": "/data/1.png"},
            {"type": "text", "text": "b"},
        ],
        "how RLHFDataset turns `<image>` into message parts",
        "verl_mars/views.py",
    )


def test_row_has_raw_prompt_and_index():
    source = inspect.getsource(RLHFDataset.__getitem__)
    expect(
        'row_dict["raw_prompt"]' in source and 'row_dict["index"]' in source,
        "the fields that RLHFDataset adds to a row",
        "verl_mars/views.py (raw_prompt) and verl_mars/rollout (index)",
    )


def test_reward_manager_registry():
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

    manager = get_reward_manager_cls("mars")
    expect(
        inspect.iscoroutinefunction(manager.run_single),
        "reward managers have run_single",
        "verl_mars/reward/manager.py",
    )


# ---------------------------------------------------------------- faults that we work round


@pytest.mark.skipif(torch.version.cuda is not None or torch.version.hip is not None, reason="torch has an accelerator")
def test_torchvision_still_needs_its_operators_declared():
    pytest.importorskip("torchvision")
    run = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    expect(
        run.returncode != 0 and "torchvision::nms does not exist" in run.stderr,
        "torchvision imports beside a CPU build of torch by itself, so define_missing_torchvision_ops can go",
        "verl_mars/_compat.py (define_missing_torchvision_ops)",
    )
