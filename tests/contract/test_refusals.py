"""What is refused before any model is loaded: on verl's real configuration, with real files."""

import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image

from verl_mars.preflight.configuration import config_faults, raise_on_faults
from verl_mars.preflight.doctor import compose_recipe, recipe_faults


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (56, 56)).save(path)
    return str(path)


def make_row(image, index=0):
    return {
        "data_source": "test",
        "prompt": [{"role": "user", "content": "<image><image>where?"}],
        "images": [{"image": image}, {"image": image}],
        "ability": "vision",
        "reward_model": {"style": "rule", "ground_truth": json.dumps({"answers": ["left"]})},
        "extra_info": {"index": index, "sample_id": f"s{index}", "task": "vqa"},
        "sources": [{"name": "rgb", "images": [0]}, {"name": "ir", "images": [1]}],
    }


def write(tmp_path, rows):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return f"data.train_files={path}"


def faults(*overrides):
    return list(recipe_faults("toy_mars_grpo", overrides))


def test_the_recipe_is_fine(tmp_path, image):
    assert faults(write(tmp_path, [make_row(image)])) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor_rollout_ref.rollout.n=1", ["actor_rollout_ref.rollout.n = 1", "2 or more"]),
        ("+algorithm.mars.anchor_count=2", ["algorithm.mars.anchor_count", "allowed:", "anchors_per_source"]),
        (
            "algorithm.mars.anchors_per_source=0",
            ["algorithm.mars.anchors_per_source = 0", "greater than or equal to 1"],
        ),
        ("algorithm.mars.mono_prompt=blank", ["algorithm.mars.mono_prompt = 'blank'", "'repeat' or 'drop'"]),
        ("algorithm.use_kl_in_reward=true", ["algorithm.use_kl_in_reward = True", "use_kl_loss"]),
        ("algorithm.adv_estimator=marz", ["algorithm.adv_estimator = 'marz'", "known:", "mars"]),
        ("+data.images_once.enabled=true", ["data.images_once.enabled", "did you mean 'enable'"]),
        ("skip.rollout_tq.enable=true", ["skip.rollout_tq.enable = True", "data.images_once.enable=false"]),
        ("+data.images_once.max_gib=0", ["data.images_once.max_gib = 0", "greater than 0"]),
        ("trainer.v1.trainer_mode=sync", ["trainer.v1.trainer_mode = 'sync'", "mars_sync"]),
        ("trainer.use_v1=false", ["trainer.use_v1 = False", "set it to true"]),
        ("reward.reward_model.enable=true", ["reward.reward_model.enable_resource_pool = False", "own pool"]),
        (
            "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=my.Manager",
            ["agent_loop_manager_class = 'my.Manager'", "verl_mars.rollout.manager.MarsAgentLoopManager"],
        ),
        ("trainer.n_gpus_per_node=3", ["= 32 rows do not divide among 3"]),
        (
            "trainer.v1.sampler.max_off_policy_threshold=0",
            ["trainer.v1.sampler.max_off_policy_threshold = 0", "null for any age"],
        ),
        (
            "trainer.v1.sampler.max_off_policy_strategy=keep",
            ["trainer.v1.sampler.max_off_policy_strategy = 'keep'", "allowed: drop, wait"],
        ),
        ("trainer.resume_mode=always", ["trainer.resume_mode = 'always'", "allowed: auto, disable, resume_path"]),
    ],
)
def test_a_setting_that_cannot_work_is_named(override, words):
    found = faults(override)
    assert len(found) == 1 and all(word in found[0] for word in words), found


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            [
                "+algorithm.filter_groups={enable:true,metric:reward}",
                "trainer.v1.sampler.custom_sampler={path:pkg://verl_mars.rollout.replay_buffer,name:OrderedReplayBuffer}",
            ],
            ["custom_sampler.name = 'OrderedReplayBuffer'", "dynamic sampling would be off", "null"],
        ),
        (
            ["+algorithm.filter_groups={enable:true,metric:acc}"],
            ["algorithm.filter_groups.metric = 'acc'", "filter_on=fused"],
        ),
        (
            [
                "trainer.v1.trainer_mode=mars_separate_async",
                "hardware=cpu_separate",
                "trainer.v1.separate_async.parameter_sync_step=3",
            ],
            ["data.train_batch_size = ", "parameter_sync_step x actor.ppo_mini_batch_size"],
        ),
        (
            [
                "trainer.v1.trainer_mode=mars_separate_async",
                "hardware=cpu_separate",
                "trainer.v1.separate_async.parameter_sync_step=1",
                "actor_rollout_ref.actor.ppo_mini_batch_size=${data.train_batch_size}",
                "actor_rollout_ref.hybrid_engine=false",
            ],
            ["actor_rollout_ref.hybrid_engine = False", "leave it at true"],
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(overrides, words):
    found = faults(*overrides)
    assert len(found) == 1 and all(word in found[0] for word in words), found


@pytest.mark.parametrize("recipe", ["toy_mars_dapo", "toy_dapo"])
def test_a_group_of_one_under_dynamic_sampling(recipe):
    """verl would drop every group and sample for ever, whatever the estimator."""
    found = list(recipe_faults(recipe, ["actor_rollout_ref.rollout.n=1", "algorithm.filter_groups.enable=true"]))
    words = ["actor_rollout_ref.rollout.n = 1", "algorithm.filter_groups.enable=true", "2 or more"]
    assert len(found) == 1 and all(word in found[0] for word in words), found


@pytest.mark.parametrize("recipe", ["toy_mars_grpo", "toy_pgpo_grpo"])
def test_a_colocated_reward_model_beside_a_rollout_that_never_pauses(recipe):
    overrides = ["trainer.v1.trainer_mode=mars_separate_async", "hardware=cpu_separate"]
    overrides += ["trainer.v1.separate_async.parameter_sync_step=1", "reward.reward_model.enable=true"]
    overrides += ["actor_rollout_ref.actor.ppo_mini_batch_size=${data.train_batch_size}"]
    found = list(recipe_faults(recipe, overrides))
    assert len(found) == 1 and "enable_resource_pool = False" in found[0] and "own pool" in found[0], found


def test_a_mode_without_devices_of_its_own_is_told_what_it_lacks():
    found = faults("trainer.v1.trainer_mode=mars_separate_async")
    keys = ("rollout.nnodes = 0", "checkpoint_engine.backend = 'naive'")
    assert all(any(key in fault for fault in found) for key in keys), found


def broken(image, change):
    row = make_row(image)
    change(row)
    return row


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("sources"), ["sources"]),
        (lambda row: row["sources"][1].update(images=[2]), ["sources[1].images", "2"]),
        (lambda row: row["images"][1].update(image=row["images"][1]["image"] + ".gone"), ["images[1]", ".gone"]),
        (lambda row: row["images"].pop(), ["images", "<image>"]),
    ],
)
def test_a_faulty_row_is_named(tmp_path, image, change, words):
    found = faults(
        write(tmp_path, [make_row(image), broken(image, change)] if "sources" not in words else [broken(image, change)])
    )
    assert found and all(any(word in fault for fault in found) for word in words), found
    assert all("train.parquet" in fault for fault in found)


def test_a_broken_image_is_named(tmp_path, image):
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG\r\n\x1a\n")
    row = make_row(image)
    row["images"][1]["image"] = str(torn)
    found = faults(write(tmp_path, [row]))
    assert len(found) == 1 and "torn.png" in found[0] and "row 0" in found[0], found


def test_fewer_images_allowed_than_a_prompt_has(tmp_path, image):
    found = faults(write(tmp_path, [make_row(image)]), "+actor_rollout_ref.rollout.limit_images=1")
    assert len(found) == 1 and "2" in found[0] and "1" in found[0] and "limit_images" in found[0], found


def test_a_file_that_is_not_there(tmp_path):
    found = faults(f"data.train_files={tmp_path}/none.parquet")
    assert len(found) == 1 and "none.parquet" in found[0], found


def test_the_trainer_mode_refuses_with_all_faults_at_once():
    config = compose_recipe("toy_mars_grpo", ["actor_rollout_ref.rollout.n=1", "algorithm.mars.mono_prompt=blank"])
    with pytest.raises(ValueError, match="(?s)before any model is loaded.*rollout.n = 1") as error:
        raise_on_faults(config)
    assert "mono_prompt" in str(error.value)


def test_another_estimator_in_a_mars_mode_is_left_alone():
    """The other arm of a comparison: no anchors, and no complaint about settings of `mars`."""
    assert faults("algorithm.adv_estimator=grpo") == []


# ---------------------------------------------------------------- estimators that score a view


@pytest.mark.parametrize("recipe", ["toy_pgpo_grpo", "toy_vogue_grpo", "toy_mars_pgpo_dapo"])
def test_recipes_that_score_a_view_are_fine(recipe):
    assert list(recipe_faults(recipe)) == []


@pytest.mark.parametrize("name", ["pgpo", "vogue"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.v1.trainer_mode=sync", ["trainer.v1.trainer_mode = 'sync' rescores no view", "mars_sync"]),
        ("trainer.use_v1=false", ["trainer.use_v1 = False", "set it to true"]),
        ("actor_rollout_ref.rollout.n=1", ["actor_rollout_ref.rollout.n = 1"]),
        ("algorithm.rollout_correction.bypass_mode=true", ["bypass_mode = True", "set it to false"]),
        ("algorithm.{}.divergence=most", ["divergence = 'most'", "'sampled' or 'exact'"]),
        ("algorithm.{}.base=gae", ["base = 'gae'", "'grpo'", "'mars'"]),
        ("+algorithm.{}.bais=grpo", ["bais: unknown key", "base"]),
    ],
)
def test_what_cannot_score_a_view_is_named(name, override, words):
    found = list(recipe_faults(f"toy_{name}_grpo", [override.format(name)]))
    assert len(found) == 1 and all(word in found[0] for word in words), found


@pytest.mark.parametrize("name", ["pgpo", "vogue"])
def test_comparing_over_the_whole_vocabulary_is_fine(name):
    assert list(recipe_faults(f"toy_{name}_grpo", [f"algorithm.{name}.divergence=exact"])) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actor_rollout_ref.actor.strategy", "megatron"),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size", 2),
        ("actor_rollout_ref.model.use_fused_kernels", True),
    ],
)
def test_what_comparing_over_the_whole_vocabulary_cannot_go_with_is_named(key, value):
    config = compose_recipe("toy_pgpo_grpo", ["algorithm.pgpo.divergence=exact"])
    OmegaConf.update(config, key, value, force_add=True)
    found = list(config_faults(config))
    assert len(found) == 1 and f"{key} = {value!r}" in found[0] and "divergence=sampled" in found[0], found


@pytest.mark.parametrize(
    ("strategy", "original", "words"),
    [
        ("megatron", True, ["freeze_vision_tower = True with strategy 'megatron'", "fsdp2"]),
        ("fsdp", False, ["strategy 'fsdp'", "fsdp_config.use_orig_params=true"]),
        ("fsdp", True, []),
        ("fsdp2", False, []),
    ],
)
def test_a_frozen_vision_tower_needs_an_engine_that_can_have_one(strategy, original, words):
    config = compose_recipe("toy_mars_grpo", ["actor_rollout_ref.actor.freeze_vision_tower=true"])
    OmegaConf.update(config, "actor_rollout_ref.actor.strategy", strategy)
    OmegaConf.update(config, "actor_rollout_ref.actor.fsdp_config.use_orig_params", original)
    found = [fault for fault in config_faults(config) if "freeze_vision_tower" in fault]
    assert len(found) == bool(words) and all(word in fault for fault in found for word in words), found


def test_a_base_of_mars_brings_the_checks_of_mars():
    found = list(recipe_faults("toy_pgpo_grpo", ["algorithm.pgpo.base=mars", "algorithm.use_kl_in_reward=true"]))
    assert len(found) == 1 and "algorithm.use_kl_in_reward = True" in found[0], found


@pytest.mark.parametrize(("variant", "count"), [("paper", 1), ("released", 0)])
def test_anchors_of_noisy_groups_are_not_kept(variant, count):
    overrides = ["algorithm.vogue.base=mars", f"algorithm.vogue.variant={variant}", "+algorithm.mars.anchor_every=2"]
    found = list(recipe_faults("toy_vogue_grpo", overrides))
    assert len(found) == count and all("anchor_every = 2" in fault for fault in found), found


# ---------------------------------------------------------------- sampling from a part of the vocabulary

TOP_P = "actor_rollout_ref.rollout.top_p=0.9"


@pytest.mark.parametrize("recipe", ["toy_mars_grpo", "toy_grpo"])
@pytest.mark.parametrize("key", ["rollout_is=sequence", "rollout_rs=seq_sum_k1", "bypass_mode=true"])
@pytest.mark.parametrize("cut", [TOP_P, "actor_rollout_ref.rollout.top_k=20"])
def test_rollout_correction_of_renormalised_log_probs_is_refused(recipe, key, cut):
    override = f"algorithm.rollout_correction.{key}"
    (found,) = recipe_faults(recipe, [override, cut])
    assert key.split("=")[0] in found and cut.rpartition(".")[2].replace("=", " = ") in found, found
    assert "renormalised" in found
    assert recipe_faults(recipe, [override]) == []
    assert recipe_faults(recipe, [override, cut, "actor_rollout_ref.rollout.logprobs_mode=raw_logprobs"]) == []


def test_the_doctor_warns_of_a_part_of_the_vocabulary_under_mars():
    from verl_mars.preflight.doctor import inspect_recipe

    def notes(recipe, *overrides):
        return [note for note in inspect_recipe(recipe, overrides).notes if "part of the vocabulary" in note]

    assert len(notes("mars_grpo", "+paper=authors")) == 1
    assert notes("mars_grpo") == notes("grpo", "+paper=authors") == []


def test_the_trainer_warns_too(caplog, monkeypatch):
    monkeypatch.setattr("verl_mars.preflight.configuration.data_faults", lambda config, method: [])
    raise_on_faults(compose_recipe("toy_mars_grpo", [TOP_P]))
    assert "part of the vocabulary" in caplog.text


@pytest.mark.parametrize(
    ("variant", "betas", "count"), [("paper", (1, 1), 1), ("released", (1, 1), 0), ("released", (0.5, 2), 1)]
)
def test_bonuses_that_could_turn_a_sign_are_refused(variant, betas, count):
    overrides = [f"algorithm.vogue.variant={variant}", f"algorithm.vogue.perception_beta={float(betas[0])}"]
    found = recipe_faults("toy_vogue_grpo", [*overrides, f"algorithm.vogue.output_beta={float(betas[1])}"])
    assert len(found) == count and all("must be at most 1" in fault for fault in found), found


@pytest.mark.parametrize("recipe", ["toy_mars_grpo", "toy_mars_pgpo_dapo"])
@pytest.mark.parametrize("anchors", ["mono", "leave_one_out"])
def test_tools_that_would_show_several_sources_are_looked_for(monkeypatch, recipe, anchors):
    from verl_mars.methods.table import method_of
    from verl_mars.preflight.data import data_faults

    asked = {}
    monkeypatch.setattr(
        "verl_mars.data.check.check_files", lambda files, **rules: asked.update(rules) or SimpleNamespace(faults=[])
    )
    config = compose_recipe(recipe, [f"++algorithm.mars.anchors={anchors}", "data.train_files=[a.parquet]"])
    assert data_faults(config, method_of(config.algorithm)) == []
    assert asked["join_sources"] is (anchors == "leave_one_out")


def test_a_setting_without_a_default_is_named():
    """verl's own `ppo_trainer` names no engine; a recipe built on it may forget to."""
    overrides = ["actor_rollout_ref.actor.use_dynamic_bsz=true", "actor_rollout_ref.model.path=some/model"]
    (fault,) = recipe_faults("ppo_trainer", [*overrides, "data.train_files=train.parquet"])
    assert "Missing mandatory value: actor_rollout_ref.rollout.name" in fault
