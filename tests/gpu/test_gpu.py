"""Every method on CUDA, two steps of real verl each at Qwen2.5-VL-3B's width, and the estimator. ``make test-gpu``.

A case is a run of its own and takes 3 to 4 minutes, most of them imports. Not with ``-n``: Ray numbers the jobs of each
cluster from 1, and verl 0.9.1 names the socket of the weight transfer after the job, so that two runs that share /tmp
exchange their weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

import pytest
import torch
import true_shapes
import weight_transfer

from verl_mars.algos.mars import mono_anchored_advantage

STEPS, PROMPTS, ROLLOUTS = 2, 8, 4
MARS = {"mars/info_gain": None, "mars/missing_anchors": 0.0}
NO_KL = "actor_rollout_ref.actor.use_kl_loss=false"  # a reference model less to load
EAGER = "actor_rollout_ref.rollout.enforce_eager=true"  # the case `mars` shows that compiling and CUDA graphs work
WRITTEN_DOWN = (
    "actor/perf/max_memory_allocated_gb",
    "actor/perf/max_memory_reserved_gb",
    weight_transfer.CORRELATION,
    weight_transfer.LOG_PPL,
)


@dataclass(frozen=True)
class Case:
    """A recipe, what is changed in it, and the metrics of its first step; ``None``: any number."""

    recipe: str
    overrides: tuple[str, ...] = ()
    first: Mapping[str, float | None] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("vllm",)


CASES = {
    "mars": Case("mars_grpo", first=MARS),
    "pgpo": Case("pgpo_grpo", (EAGER,), first={"pgpo/dependency_mean": None}),
    "pgpo_exact": Case("pgpo_grpo", ("algorithm.pgpo.divergence=exact", EAGER), first={"pgpo/dependency_mean": None}),
    "vogue": Case("vogue_grpo", (EAGER,), first={"vogue/uncertainty": None}),
    "mars_lora": Case("mars_grpo", ("adapter=lora", EAGER), first=MARS, needs=("vllm", "peft")),
    "mars_transformers": Case(
        "mars_grpo",
        ("actor_rollout_ref.rollout.name=transformers", NO_KL),
        first=MARS,
        modules=("verl_mars.cpu",),
        needs=(),
    ),
}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Overrides that name the model and scenes of the toy world; every case trains on the same."""
    from verl_mars.toy import world
    from verl_mars.toy.rows import write_split

    folder = tmp_path_factory.mktemp("gpu")
    true_shapes.save(folder / "model")
    files = [
        f"data.{split}_files={write_split(world.make_scenes(count, [0, count]), split, folder)}"
        for split, count in (("train", PROMPTS * STEPS), ("val", 8))
    ]
    return [*files, f"actor_rollout_ref.model.path={folder / 'model'}"]


@pytest.fixture
def train(data, run_main, tmp_path, record_property):
    """A function that trains a case and writes down what it measured."""

    def run(case, *overrides, modules=()):
        missing = [name for name in case.needs if find_spec(name) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")
        settings = [
            *data,
            "hardware=one_gpu",
            "dataset=toy",
            "data.train_batch_size=8",
            # The papers' overlays come after the data set's and set lengths of their own.
            "data.max_response_length=12",
            "actor_rollout_ref.rollout.max_model_len=96",
            "actor_rollout_ref.rollout.top_p=1.0",
            f"actor_rollout_ref.rollout.n={ROLLOUTS}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
            weight_transfer.LEARNING_RATE,
            # On the device: offloading is what `one_gpu` does for all 36 layers.
            "actor_rollout_ref.actor.fsdp_config.offload_policy=false",
            # Each is a process that imports torch and verl.
            "actor_rollout_ref.rollout.agent.num_workers=1",
            "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
            "reward.num_workers=1",
            "reward.custom_reward_function.path=pkg://letters_reward",
            "reward.custom_reward_function.name=compute_score",
            f"trainer.total_training_steps={STEPS}",
            "trainer.test_freq=-1",
            "trainer.val_before_train=false",
            # vLLM takes the memory that other programs allocate while it starts for its own.
            "actor_rollout_ref.rollout.gpu_memory_utilization=0.05",
            "actor_rollout_ref.rollout.max_num_seqs=64",
            f"+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes={2**30}",
        ]
        result = run_main(tmp_path, case.recipe, [*settings, *case.overrides, *overrides], [*case.modules, *modules])
        for step, metrics in sorted(result.metrics.items()):
            for name in WRITTEN_DOWN:
                if name in metrics:
                    record_property(f"{step} {name}", metrics[name])
        assert result.returncode == 0, "\n".join(result.log.splitlines()[-60:])
        assert sorted(result.metrics) == list(range(1, STEPS + 1))
        return result.metrics

    return run


@pytest.mark.parametrize("name", CASES)
def test_two_steps_are_trained(name, train):
    case = CASES[name]
    metrics = train(case)
    for step in metrics.values():
        assert math.isfinite(step["actor/grad_norm"]) and step["actor/grad_norm"] > 0
        assert weight_transfer.differences(step) == []
    for key, value in case.first.items():
        assert math.isfinite(metrics[1][key])
        assert value is None or metrics[1][key] == value


def test_an_engine_without_the_update_is_noticed(train):
    """The same run, but the weights that reach the engine are always the first ones."""
    metrics = train(CASES["mars"], NO_KL, EAGER, modules=["stale_weights"])
    assert weight_transfer.differences(metrics[1]) == []
    assert len(weight_transfer.differences(metrics[2])) == 2, "both signs"


@pytest.mark.parametrize("rows", [1792, 100_000])
def test_the_estimator_is_the_same_on_the_device(rows):
    draw = torch.Generator().manual_seed(0)
    group = torch.randint(0, rows // 14, (rows,), generator=draw)
    anchors = torch.rand(rows // 14, 2, generator=draw)
    anchors[::7, 1] = torch.nan
    scores = torch.rand(rows, generator=draw)
    here = mono_anchored_advantage(scores, group, anchors[group])
    there = mono_anchored_advantage(scores.cuda(), group.cuda(), anchors[group].cuda())
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, atol=1e-6, rtol=1e-6)
