"""Stock verl on the CPU: its own configuration and the overlay ``hardware: cpu``, no environment variable."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from letters_reward import LETTERS
from PIL import Image

pytestmark = pytest.mark.integration

PROMPTS, ROLLOUTS = 4, 4


def write_rows(path, count):
    """Rows with two pictures each, but every fourth has none."""
    draw = np.random.default_rng(0)

    def picture():
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (56, 56, 3), dtype=np.uint8)).save(file, "PNG")
        return {"bytes": file.getvalue()}

    rows = [
        {
            "data_source": "letters",
            "prompt": [{"role": "user", "content": "<image>" * images + "where is the hot object?"}],
            "images": [picture() for _ in range(images)],
            "ability": "vision",
            "reward_model": {"style": "rule", "ground_truth": "x"},
            "extra_info": {"index": index},
        }
        for index, images in enumerate((2, 2, 2, 0) * (count // 4))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def run(run_verl, tiny_model, tmp_path_factory):
    """Two steps of stock GRPO with a reference model, on two FSDP ranks and two rollout replicas."""
    folder = tmp_path_factory.mktemp("letters")
    rows = write_rows(folder / "rows.parquet", PROMPTS * 2)
    return run_verl(
        "ppo_trainer",
        "+hardware=cpu",
        "algorithm.adv_estimator=grpo",
        f"data.train_files={rows}",
        f"data.val_files={rows}",
        "data.image_key=images",
        f"data.train_batch_size={PROMPTS}",
        "data.max_prompt_length=64",
        "data.max_response_length=8",
        f"actor_rollout_ref.model.path={tiny_model}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.optim.lr=1e-2",  # far enough that weights of the step before would be noticed
        f"actor_rollout_ref.rollout.n={ROLLOUTS}",
        *LETTERS,
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=false",
        "trainer.resume_mode=disable",
    )


def test_both_steps_were_trained(run):
    assert sorted(run.metrics) == [1, 2]
    for metrics in run.metrics.values():
        assert metrics["actor/grad_norm"] > 0
        assert metrics["critic/score/max"] > metrics["critic/score/min"]


def test_the_actor_agrees_with_what_the_server_reported(run):
    for metrics in run.metrics.values():
        assert metrics["rollout_corr/log_ppl_abs_diff"] < 1e-5
        assert metrics["training/rollout_probs_diff_max"] < 1e-5


def test_the_server_samples_from_the_new_weights(run):
    """The policy moved away from the reference model, that is from the first weights, and the server moved with it."""
    assert run.metrics[1]["actor/kl_loss"] == 0
    assert run.metrics[2]["actor/kl_loss"] > 1e-2
