"""A checkpoint of another run is not gone on from; test_resume.py holds the files to those that verl writes."""

import json
import shutil

import pytest

from verl_mars.preflight.checkpoints import Identity, how_to_continue
from verl_mars.preflight.configuration import raise_on_faults
from verl_mars.preflight.doctor import compose_recipe, recipe_faults
from verl_mars.toy import model


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    model.save(model.build_model(seed=0), folder)
    return folder


@pytest.fixture
def run(tmp_path, toy):
    """Overrides of a run whose second step was saved by the same run."""
    overrides = [f"actor_rollout_ref.model.path={toy}", f"trainer.default_local_dir={tmp_path}"]
    overrides += ["trainer.resume_mode=auto"]
    folder = tmp_path / "global_step_2"
    saved = folder / "actor" / "huggingface"
    saved.mkdir(parents=True)
    (saved / "config.json").write_text((toy / "config.json").read_text())
    (folder / "actor" / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    Identity.of(compose_recipe("toy_mars_grpo", overrides)).save(folder)
    return overrides


def faults(run, *overrides, recipe="toy_mars_grpo"):
    return list(recipe_faults(recipe, [*run, *overrides]))


@pytest.mark.parametrize(
    "override",
    ["actor_rollout_ref.actor.optim.lr=0.5", "actor_rollout_ref.rollout.n=4", "trainer.total_epochs=9", "data.seed=3"],
)
def test_its_own_checkpoint_is_gone_on_from_under_other_settings(run, override):
    assert faults(run, override) == []


@pytest.mark.parametrize(
    ("overrides", "recipe", "words"),
    [
        ([], "toy_pgpo_grpo", ["algorithm.adv_estimator = 'pgpo'", "was trained with 'mars'"]),
        (["algorithm.adv_estimator=grpo"], "toy_mars_grpo", ["algorithm.adv_estimator = 'grpo'", "with 'mars'"]),
        ([], "toy_grpo", ["algorithm.adv_estimator = 'grpo'", "with 'mars'"]),
    ],
)
def test_that_of_another_recipe_is_refused_unless_it_is_named(run, tmp_path, overrides, recipe, words):
    (found,) = faults(run, *overrides, recipe=recipe)
    folder = f"{tmp_path}/global_step_2"
    words = [*words, folder, "trainer.default_local_dir", f"trainer.resume_from_path={folder} to go on from it"]
    assert all(word in found for word in words), found
    named = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={folder}"]
    assert faults(run, *overrides, *named, recipe=recipe) == []
    assert faults(run, *overrides, "trainer.resume_mode=disable", recipe=recipe) == []


def test_the_base_estimator_counts(run, tmp_path):
    Identity.of(compose_recipe("toy_pgpo_grpo", run)).save(tmp_path / "global_step_2")
    assert faults(run, recipe="toy_pgpo_grpo") == []
    (found,) = faults(run, "algorithm.pgpo.base=mars", recipe="toy_pgpo_grpo")
    assert "algorithm.pgpo.base = 'mars'" in found and "with 'grpo'" in found


def test_a_model_of_another_shape_is_refused_even_if_it_is_named(run, tmp_path, toy):
    other = shutil.copytree(toy, tmp_path / "toy")
    config = json.loads((toy / "config.json").read_text())
    config["text_config"]["hidden_size"] *= 2
    (other / "config.json").write_text(json.dumps(config))
    folder = f"{tmp_path}/global_step_2"
    for named in ([], ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={folder}"]):
        (found,) = faults(run, f"actor_rollout_ref.model.path={other}", *named)
        assert "text_config.hidden_size" in found and str(config["text_config"]["hidden_size"]) in found
        assert f"actor_rollout_ref.model.path = {other}" in found and "trainer.default_local_dir" in found


def test_a_model_of_another_name_is_refused(run, tmp_path, toy):
    """Of the same shape, fine-tuned say: its weights would be exchanged for those of the checkpoint without a word."""
    other = shutil.copytree(toy, tmp_path / "tuned")
    (found,) = faults(run, f"actor_rollout_ref.model.path={other}")
    assert "actor_rollout_ref.model.path = 'tuned'" in found and "with 'toy'" in found


def test_other_data_are_refused(run, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for rows in (2, 3):
        pq.write_table(pa.table({"x": list(range(rows))}), tmp_path / f"{rows}.parquet")
    plain = ["algorithm.mars.check_data=false"]
    two, three = (f"data.train_files={tmp_path}/{rows}.parquet" for rows in (2, 3))
    Identity.of(compose_recipe("toy_mars_grpo", [*run, two])).save(tmp_path / "global_step_2")
    assert faults(run, *plain, two) == []
    (found,) = faults(run, *plain, three)
    assert "rows of data.train_files = 3" in found and "with 2" in found


def test_another_number_of_ranks_is_refused(run, tmp_path):
    (found,) = faults(run, "trainer.n_gpus_per_node=2")
    words = [
        "trainer.nnodes x n_gpus_per_node = 2",
        "saved by 1 ranks",
        "verl.model_merger",
        f"{tmp_path}/global_step_2",
    ]
    assert all(word in found for word in words), found


def test_one_that_no_mode_of_ours_saved(run, tmp_path):
    (tmp_path / "global_step_2" / "recipe.json").unlink()
    (found,) = faults(run)
    assert "has no recipe.json" in found and "trainer.default_local_dir" in found
    assert faults(run, recipe="toy_grpo") == []  # verl's own mode goes on from verl's own


@pytest.mark.parametrize("name", ["global_step_3", "global_step_2/", "global_step_2/actor"])
def test_a_named_folder_that_verl_cannot_read(run, tmp_path, name):
    (found,) = faults(run, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={tmp_path}/{name}")
    assert f"trainer.resume_from_path = {tmp_path}/{name}" in found and "global_step_N" in found


def test_the_trainer_mode_refuses_it(run):
    config = compose_recipe("toy_mars_grpo", [*run, "algorithm.adv_estimator=grpo"])
    with pytest.raises(ValueError, match="(?s)before any model is loaded.*was trained with 'mars'"):
        raise_on_faults(config)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.resume_mode=auto", "Give the same command again: it goes on from"),
        ("trainer.resume_mode=disable", "Give the same command again with trainer.resume_mode=auto: it goes on"),
        ("trainer.resume_mode=resume_path", "again with trainer.resume_from_path="),
        ("trainer.default_local_dir=/nowhere", "No checkpoint was saved"),
    ],
)
def test_how_to_continue(run, override, sentence):
    assert sentence in how_to_continue(compose_recipe("toy_mars_grpo", [*run, override]))
