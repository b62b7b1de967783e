"""Every recipe and every overlay composes, passes verl's own checks and ours, and sets what it says it sets."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from verl_mars.methods import METHODS
from verl_mars.preflight.doctor import compose_recipe, inspect_recipe

pytestmark = pytest.mark.recipes

ROOT = Path(__file__).parents[2]
RECIPES_FOLDER = ROOT / "recipes"
RECIPES = sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml") if path.stem not in ("base", "toy_base"))
OVERLAYS = {
    group: sorted(path.stem for path in (RECIPES_FOLDER / group).glob("*.yaml"))
    for group in ("model", "hardware", "dataset", "adapter")
}
SIBLINGS = (
    *("pgpo_grpo", "pgpo_dapo", "vogue_grpo", "vogue_dapo", "mars_pgpo_dapo"),
    *("papo_grpo", "papo_dapo", "vppo_dapo"),
)
FULL = ("grpo", "dapo", "mars_grpo", "mars_dapo", *SIBLINGS)


def leaves(tree, prefix=""):
    """``{"a.b": value}`` of a nested mapping; an empty mapping is a leaf."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def composed(name, *overrides):
    config = OmegaConf.to_container(compose_recipe(name, overrides))
    return leaves({key: value for key, value in config.items() if key != "hydra"})


def keys_of_file(path):
    return {key for key in leaves(yaml.safe_load(path.read_text()) or {}) if key.split(".")[0] != "defaults"}


SHORTER = {"gpu_24gb": ("data.max_prompt_length=2048", "data.max_response_length=2048")}
"""What the overlay says its rows must be cut to."""


def combinations(recipe):
    """All pairs of hardware and data with the models in turn for one recipe, every overlay once for the others.

    What is left out is implied: models touch no key that other overlays touch, as a test below holds.
    """
    models = itertools.cycle(OVERLAYS["model"])
    if recipe == "mars_dapo":
        pairs = list(itertools.product(OVERLAYS["hardware"], OVERLAYS["dataset"]))
    else:
        pairs = list(zip(itertools.cycle(OVERLAYS["hardware"]), OVERLAYS["dataset"], strict=False))
    return [(next(models), hardware, dataset) for hardware, dataset in pairs]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_passes_the_doctor(recipe):
    assert inspect_recipe(recipe).faults == []


@pytest.mark.parametrize("recipe", ("mars_grpo", "pgpo_dapo"))
def test_lora_fits_all_hardware(recipe):
    for hardware in OVERLAYS["hardware"]:
        overlays = ["adapter=lora", f"hardware={hardware}", *SHORTER.get(hardware, ())]
        faults = inspect_recipe(recipe, overlays, data=False).faults
        # verl builds the adapter's configuration for an installed engine only, and none is needed for these tests.
        assert [fault for fault in faults if "vllm version None not supported" not in fault] == [], hardware


@pytest.mark.parametrize("recipe", FULL)
def test_every_overlay_fits_every_recipe(recipe):
    for model, hardware, dataset in combinations(recipe):
        overlays = [f"model={model}", f"hardware={hardware}", f"dataset={dataset}", *SHORTER.get(hardware, ())]
        assert inspect_recipe(recipe, overlays, data=False).faults == [], overlays


def test_overlays_of_different_groups_touch_different_keys():
    keys = {
        (group, name): keys_of_file(RECIPES_FOLDER / group / f"{name}.yaml")
        for group, names in OVERLAYS.items()
        for name in names
        if name != "toy"  # brings a model of its own
    }
    assert all(keys.values())
    for (one, other), (two, another) in itertools.combinations(keys, 2):
        if one != two:
            shared = keys[one, other] & keys[two, another]
            if {other, another} == {"cpu_vllm", "lora"}:
                shared.discard("actor_rollout_ref.rollout.load_format")  # both read the checkpoint
            assert not shared, f"{one}={other} and {two}={another} both set {sorted(shared)}: the order decides"


NEW_KEYS = (
    "actor_rollout_ref.rollout.enable_sleep_mode",  # vLLM's, for its CPU build
    "actor_rollout_ref.rollout.engine_kwargs.vllm.",
    "algorithm.mars.",
    "algorithm.pgpo.",
    "algorithm.vogue.",
    "algorithm.papo.",
    "algorithm.vppo.",
    "algorithm.probe.",
    "actor_rollout_ref.rollout.limit_images",  # known to verl's dataclass, not in its YAML
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.",  # likewise
    "actor_rollout_ref.ref.fsdp_config.mixed_precision.",
    "actor_rollout_ref.model.override_config.attn_implementation",
    "data.images_once.",
    "data.root",  # where the conversions lie; for the paths beside it
    "reward.reward_kwargs.",
    "ray_kwargs.",
    "trainer.v1.sampler.sampler_kwargs.",
    "hydra.callbacks.",
)


@pytest.fixture(scope="module")
def verls_keys():
    return composed("ppo_trainer").keys()


@pytest.mark.parametrize("path", sorted(RECIPES_FOLDER.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_sets_a_key_that_verl_does_not_have(path, verls_keys):
    unknown = {key for key in keys_of_file(path) if key not in verls_keys and not key.startswith(NEW_KEYS)}
    assert not unknown, f"verl has no {sorted(unknown)}"


SAMPLER = {f"trainer.v1.sampler.custom_sampler.{key}" for key in ("path", "name")}


@pytest.mark.parametrize(
    ("ours", "verls", "besides"),
    [
        ("mars_grpo", "grpo", SAMPLER),
        ("mars_dapo", "dapo", set()),
        ("toy_mars_grpo", "toy_grpo", SAMPLER),
        ("toy_mars_dapo", "toy_dapo", set()),
    ],
)
def test_ours_and_verls_own_differ_in_the_algorithm_alone(ours, verls, besides):
    """verl's GRPO names the replay buffer that our trainer modes bring, so that rows have one order in both arms."""
    one, other = composed(ours), composed(verls)
    differ = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert {key for key in differ if not key.startswith("algorithm.mars.")} == besides | {
        "algorithm.adv_estimator",
        "trainer.v1.trainer_mode",
        "trainer.experiment_name",
    }


@pytest.mark.parametrize(
    ("name", "recipe"),
    [(name, f"toy_{name}_grpo") for name in ("mars", "pgpo", "vogue", "papo")] + [("vppo", "toy_vppo_dapo")],
)
def test_a_recipe_shows_the_defaults_of_its_settings(name, recipe):
    """Or a reader of the recipe would be told something else than one of the documentation."""
    shown = OmegaConf.to_container(compose_recipe(recipe).algorithm[name], resolve=False)
    shown = {key: value for key, value in shown.items() if not str(value).startswith("${")}
    assert METHODS[name]({name: shown}).settings == METHODS[name]().settings


def test_the_weight_of_accuracy_is_that_of_the_reward():
    assert compose_recipe("toy_mars_grpo").algorithm.mars.accuracy_weight == 0.9
    assert compose_recipe("mars_grpo").algorithm.mars.accuracy_weight is None


def test_a_row_of_6_views_and_an_answer_fit_into_the_engine_and_into_a_micro_batch():
    for hardware in OVERLAYS["hardware"]:
        shorter = SHORTER.get(hardware, ())
        overlay = (RECIPES_FOLDER / "hardware" / f"{hardware}.yaml").read_text()
        assert all(override in overlay for override in shorter)
        config = compose_recipe("mars_grpo", [f"hardware={hardware}", "dataset=nuscenes", *shorter])
        longest = config.data.max_prompt_length + config.data.max_response_length
        assert config.actor_rollout_ref.rollout.max_model_len >= longest
        assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu >= longest
        assert config.actor_rollout_ref.rollout.limit_images == 6


def test_checkpoints_of_other_models_data_and_algorithms_lie_apart():
    def folder(recipe, *overrides):
        return compose_recipe(recipe, overrides).trainer.default_local_dir

    folders = [
        folder("mars_grpo", "dataset=llvip"),
        folder("grpo", "dataset=llvip"),
        folder("mars_grpo", "dataset=ocr_vqa"),
        folder("mars_grpo", "dataset=llvip", "model=qwen3_vl_4b"),
    ]
    assert len(set(folders)) == 4


# ---------------------------------------------------------------- what the docs say of the recipes

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command_lines():
    """(recipe, overrides) of every command line of the docs that names a recipe."""
    found = {}
    for file in DOCS:
        text = file.read_text().replace("\\\n", " ")
        for name, rest in re.findall(r"--config-name[= ]([a-z_]+)((?: +[\w.]+=[^\s`|]+)*)", text):
            found[name, tuple(rest.split())] = file.name
    return sorted(found)


def test_the_docs_have_command_lines():
    assert len(command_lines()) >= 10


@pytest.mark.parametrize(("recipe", "overrides"), command_lines())
def test_a_command_line_of_the_docs_is_one_that_hydra_takes(recipe, overrides):
    compose_recipe(recipe, overrides)


def test_conversions_in_the_docs_are_those_of_the_overlays():
    overlays = "".join(path.read_text() for path in (RECIPES_FOLDER / "dataset").glob("*.yaml"))
    said = re.findall(r"`(verl-mars data convert [^`]*)`", (ROOT / "docs" / "recipes.md").read_text())
    assert len(said) == 5 and all(f"#   {command}\n" in overlays for command in said), said


def test_every_recipe_and_overlay_is_in_the_docs():
    text = (ROOT / "docs" / "recipes.md").read_text()
    for name in [*RECIPES, *itertools.chain(*OVERLAYS.values())]:
        assert f"`{name}`" in text, f"docs/recipes.md does not name {name}"


# ---------------------------------------------------------------- what the doctor says of a recipe


def test_the_doctor_says_what_it_did_not_look_at():
    state = inspect_recipe("mars_grpo")
    assert state.faults == []
    notes = "\n".join(state.notes)
    assert "no data named" in notes and "Qwen/Qwen2.5-VL-3B-Instruct: fetched when the run starts" in notes


ONE_REWARD_GPU = ("reward.reward_model.nnodes=1", "reward.reward_model.n_gpus_per_node=1")


@pytest.mark.parametrize(
    ("overrides", "cpus"),
    [
        (["hardware=eight_gpus"], 33),  # 1 + 8 + 3 x 8
        (["hardware=one_gpu"], 6),
        (["hardware=one_gpu", "reward.reward_model.enable_resource_pool=true", *ONE_REWARD_GPU], 9),
        (["hardware=cpu_separate", "trainer.v1.trainer_mode=mars_separate_async"], 7),
        (["hardware=cpu_separate"], 5),
    ],
)
def test_the_doctor_says_where_ray_has_too_few_cpus(overrides, cpus, monkeypatch):
    """verl would wait for ever. test_trainer_modes.py trains with exactly as many."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def notes(*more):
        return [note for note in inspect_recipe("mars_grpo", [*overrides, *more], data=False).notes if "CPUs" in note]

    (note,) = notes(f"ray_kwargs.ray_init.num_cpus={cpus - 1}")
    assert f"verl's actors reserve {cpus} of Ray's CPUs, and Ray would have {cpus - 1} here" in note
    assert notes(f"ray_kwargs.ray_init.num_cpus={cpus}") == []
    monkeypatch.setattr("ray._private.utils._get_docker_cpus", lambda: 64.0)  # a container's quota
    assert notes("ray_kwargs.ray_init.num_cpus=null") == []
    monkeypatch.setattr("ray._private.utils._get_docker_cpus", lambda: cpus - 1.0)
    (note,) = notes("ray_kwargs.ray_init.num_cpus=null")
    assert f"Ray would have {cpus - 1} here" in note
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert notes("ray_kwargs.ray_init.num_cpus=null") == []


def test_the_toy_needs_no_notes():
    assert inspect_recipe("mars_dapo", ["hardware=cpu", "dataset=toy"]).notes == []


@pytest.mark.parametrize("recipe", ["mars_grpo", "grpo"])
def test_data_that_is_not_there_is_a_fault(recipe):
    found = inspect_recipe(recipe, ["dataset=llvip"])
    assert any("data/llvip/train-00000.parquet" in fault for fault in found.faults), found
    assert inspect_recipe(recipe, ["dataset=llvip"], data=False).faults == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor_rollout_ref.actor.loss_agg_mode=mean", ["actor_rollout_ref.actor", "Invalid loss_agg_mode: mean"]),
        ("+actor_rollout_ref.actor.clip_ratio_hi=0.3", ["actor_rollout_ref.actor", "clip_ratio_hi"]),
        ("+actor_rollout_ref.rollout.max_images=2", ["actor_rollout_ref.rollout", "max_images"]),
        ("+actor_rollout_ref.model.pth=x", ["actor_rollout_ref.model.pth", "known:", "path"]),
        ("actor_rollout_ref.actor.clip_ratio_hi=0.3", ["cannot be composed", "clip_ratio_hi"]),
        ("actor_rollout_ref.model.path=/models/none", ["/models/none", "no folder with a config.json"]),
        ("actor_rollout_ref.model.path=null", ["actor_rollout_ref.model.path is not set"]),
        ("data.max_prompt_length=${data.no_such_key}", ["cannot be resolved", "no_such_key"]),
        ("actor_rollout_ref.actor.use_dynamic_bsz=false", ["ppo_micro_batch_size_per_gpu"]),
        ("dataset=llvp", ["cannot be composed", "dataset/llvp", "llvip"]),
    ],
)
def test_what_verl_would_meet_later_is_told_now(override, words):
    faults = inspect_recipe("mars_grpo", [override], data=False).faults
    assert len(faults) == 1 and all(word in faults[0] for word in words), faults
