"""What the rewards take for granted about verl, transformers and qwen_vl_utils.

A failure names what changed there and the file of ours to look at.
"""

import asyncio
import inspect
import json
import random

import numpy as np
import pytest
import torch
import verl  # noqa: F401  first: it loads the plugin
from omegaconf import OmegaConf
from PIL import Image
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.metric_utils import process_validation_metrics
from verl.trainer.ppo.reward import load_reward_manager

from verl_mars.errors import RowError
from verl_mars.reward import compute_score
from verl_mars.reward.manager import MarsRewardManager, overlong_penalty
from verl_mars.reward.score import KEYS
from verl_mars.reward.settings import RewardSettings
from verl_mars.vision.checkpoint import read_family, read_limits
from verl_mars.vision.families import frame_named
from verl_mars.vision.resize import ImageLimits, limits_of, seen_size

BOXES = {"boxes": [[10, 20, 110, 220]], "labels": ["person"], "frame": 0, "size": [1280, 1024]}


class Letters:
    """A tokenizer of one character a token; 1 ends a response."""

    eos_token_id, pad_token_id = 1, 0

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(chr(int(i)) for i in ids if int(i) > 1)


def config(reward=None, response_length=1000, model="/no/such/model", data=None, **custom):
    return OmegaConf.create(
        {
            "reward": {
                "custom_reward_function": {"path": None, "name": "compute_score", **custom},
                "reward_manager": {"source": "register", "name": "mars"},
                "sandbox_fusion": {"url": None},
                "reward_kwargs": reward or {},
            },
            "actor_rollout_ref": {"model": {"path": model}, "rollout": {"response_length": response_length}},
            "data": data or {},
        }
    )


def item(text, truth=None, *, task="vqa", eos=True, prompt=3, padding=0, **info):
    """One trajectory as verl's agent loop hands it to the reward worker."""
    ids = torch.tensor([[*map(ord, text), *([1] if eos else []), *([0] * padding)]])
    mask = torch.ones(1, prompt + ids.shape[1], dtype=torch.int64)
    mask[0, mask.shape[1] - padding :] = 0
    extra = np.empty(1, dtype=object)
    extra[0] = {"task": task, "index": 12, **info}
    return DataProto(
        batch=TensorDict({"prompts": torch.ones(1, prompt).long(), "responses": ids, "attention_mask": mask}, 1),
        non_tensor_batch={
            "data_source": np.array(["set"]),
            "reward_model": np.array([{"style": "rule", "ground_truth": json.dumps(truth or {"answers": ["red"]})}]),
            "extra_info": extra,
            "raw_prompt": np.array([[{"role": "user", "content": "?"}]], dtype=object),
            "tool_extra_fields": np.array([{"turn_scores": []}], dtype=object),
            "__num_turns__": np.array([2]),
        },
    )


def run(settings, data):
    async def score():
        return await load_reward_manager(settings, Letters()).run_single(data)

    return asyncio.run(score())


GOOD = "<think>a</think><answer>red</answer>"


# ---------------------------------------------------------------- the manager in verl's reward loop


def test_the_manager_is_registered_and_has_verls_signature():
    assert get_reward_manager_cls("mars") is MarsRewardManager
    base = inspect.signature(RewardManagerBase.__init__).parameters
    assert list(base) == ["self", "config", "tokenizer", "compute_score"], "verl changed RewardManagerBase.__init__"
    naive = inspect.signature(get_reward_manager_cls("naive").__init__).parameters
    assert list(inspect.signature(MarsRewardManager.__init__).parameters) == list(naive), (
        "verl passes other arguments to reward managers; look at verl_mars/reward/manager.py"
    )


def test_a_response_is_scored_with_all_keys():
    result = run(config(), item(GOOD))
    assert set(result) == {"reward_score", "reward_extra_info"}
    assert result["reward_score"] == 1.0 and tuple(result["reward_extra_info"]) == KEYS


def test_weights_come_from_reward_kwargs():
    result = run(config({"accuracy_weight": 0.9, "format_weight": 0.1}), item("<answer>red</answer>"))
    assert result["reward_score"] == pytest.approx(0.95)


def test_padding_after_the_response_is_not_read():
    assert run(config(), item(GOOD, padding=7))["reward_score"] == 1.0


def test_only_the_last_of_several_sequences_counts():
    first, last = item("<think>a</think><answer>one two</answer>"), item(GOOD, padding=4)
    assert run(config(), DataProto.concat([first, last]))["reward_score"] == 1.0


def test_the_row_is_left_as_it_is():
    data = item(GOOD)
    before = json.dumps(data.non_tensor_batch["extra_info"][0])
    run(config(), data)
    assert json.dumps(data.non_tensor_batch["extra_info"][0]) == before


def test_a_score_depends_on_the_row_alone_so_mono_sessions_are_scored_alike():
    other = item(GOOD)
    other.non_tensor_batch["mars_view"] = np.array(["mono:infrared"])
    other.non_tensor_batch["session_id"] = np.array([4])
    assert run(config(), other) == run(config(), item(GOOD))
    own = item(GOOD, {"answers": ["blue"]})  # what the rollout worker puts there for a source with its own truth
    assert run(config(), own)["reward_extra_info"]["acc"] == 0.0


def test_a_row_at_fault_is_named():
    with pytest.raises(RowError, match="data source 'set', index 12.*'detection' is no task"):
        run(config(), item(GOOD, task="detection"))
    data = item(GOOD)
    data.non_tensor_batch["reward_model"] = np.array([{"style": "rule"}])
    with pytest.raises(RowError, match="index 12.*reward_model has no 'ground_truth'"):
        run(config(), data)


def test_settings_are_checked_when_the_manager_is_made():
    with pytest.raises(ValueError, match="reward.reward_kwargs.wieght: unknown key"):
        run(config({"wieght": 1}), item(GOOD))
    with pytest.raises(ValueError, match="must be a mapping"):
        run(config([1]), item(GOOD))


# ---------------------------------------------------------------- cut-off responses, overlong penalty


@pytest.mark.parametrize(
    ("limit", "eos", "truncated"),
    [(len(GOOD), False, 1.0), (len(GOOD) + 1, False, 0.0), (len(GOOD) + 1, True, 0.0), (1000, False, 0.0)],
)
def test_a_response_that_fills_the_length_without_an_end_has_no_form(limit, eos, truncated):
    info = run(config(response_length=limit), item(GOOD, eos=eos))["reward_extra_info"]
    assert (info["truncated"], info["format"], info["acc"]) == (truncated, 1.0 - truncated, 1.0)


@pytest.mark.parametrize("length", [1, 50, 60, 61, 70, 89, 90, 100])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_the_overlong_penalty_is_that_of_verls_dapo_manager(length, factor):
    buffer = {"enable": True, "len": 30, "penalty_factor": factor, "log": True}
    reward = {"overlong_buffer_cfg": buffer, "max_resp_len": 90}
    data = item("x" * length, eos=False)

    async def theirs():
        settings = config(reward)
        settings.reward.reward_manager.name = "dapo"
        manager = get_reward_manager_cls("dapo")(settings, Letters(), lambda **_: 0.0)
        return await manager.run_single(data)

    wanted = asyncio.run(theirs())
    got = run(config(reward), data)
    assert got["reward_score"] == pytest.approx(float(wanted["reward_score"]))
    for key in ("overlong_reward", "overlong"):
        assert float(got["reward_extra_info"][key]) == pytest.approx(float(wanted["reward_extra_info"][key]))
    assert got["reward_extra_info"]["score"] == 0.0, "the score before the penalty, as verl's manager reports it"


def test_the_penalty_is_off_unless_enabled():
    off = RewardSettings.read({"overlong_buffer_cfg": {"enable": False, "len": 5}, "max_resp_len": 9})
    assert overlong_penalty(100, off) is None
    assert "overlong" not in run(config({"max_resp_len": 5}), item(GOOD))["reward_extra_info"]


# ---------------------------------------------------------------- the user's own function


def write_function(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    return str(path)


def test_the_users_own_function_is_called_as_by_verls_naive_manager(tmp_path):
    path = write_function(
        tmp_path,
        "SEEN = []\n"
        "def compute_score(data_source, solution_str, ground_truth, extra_info, bonus=0):\n"
        "    return {'score': 0.25 + bonus, 'said': (data_source, solution_str, ground_truth, sorted(extra_info))}\n",
    )
    ours = config(path=path, reward_kwargs={"bonus": 1})
    theirs = config(path=path, reward_kwargs={"bonus": 1})
    theirs.reward.reward_manager.name = "naive"
    data = item(GOOD)
    result = run(ours, data)
    assert "num_turns" not in data.non_tensor_batch["extra_info"][0], "the row was written into"
    assert result == run(theirs, item(GOOD)) and result["reward_score"] == 1.25


def test_the_users_own_function_may_be_a_coroutine_or_give_a_number(tmp_path):
    path = write_function(tmp_path, "async def compute_score(**kwargs):\n    return 0.5\n")
    assert run(config(path=path), item(GOOD)) == {"reward_score": 0.5, "reward_extra_info": {"score": 0.5, "acc": 0.5}}


def test_a_score_that_is_not_finite_is_refused(tmp_path):
    path = write_function(tmp_path, "def compute_score(**kwargs):\n    return float('nan')\n")
    with pytest.raises(ValueError, match="score of a response is nan.*index 12"):
        run(config(path=path), item(GOOD))


@pytest.mark.parametrize("path", ["pkg://verl_mars.reward", None])
def test_compute_score_serves_any_manager_as_a_custom_function(path):
    path = path or inspect.getfile(compute_score)
    settings = config(path=path, reward_kwargs={"accuracy_weight": 0.9, "format_weight": 0.1})
    settings.reward.reward_manager.name = "naive"
    assert run(settings, item("<answer>red</answer>"))["reward_score"] == pytest.approx(0.95)


# ---------------------------------------------------------------- keys in verl's metrics


def test_keys_of_mixed_tasks_pass_through_verls_validation_metrics():
    rows = [
        ("toy", "1", compute_score("d", GOOD, {"answers": ["red"]}, {"task": "vqa"})),
        ("toy", "1", compute_score("d", "", {"answers": ["red"]}, {"task": "vqa"})),
        ("toy", "2", compute_score("d", "<answer>[]</answer>", BOXES, {"task": "grounding"})),
    ]
    infos = {key: [row[2][key] for row in rows] for key in KEYS}
    metrics = process_validation_metrics([row[0] for row in rows], [row[1] for row in rows], infos)["toy"]
    assert metrics["acc"]["mean@2"] == 0.5 and metrics["format"]["mean@2"] == 0.5
    assert metrics["f1"]["mean@1"] == 0.0 and "error" not in metrics and "pred" not in metrics
    assert "maj@2/mean" in metrics["acc"], "verl no longer takes the majority over `pred`"


def test_a_batch_of_mixed_tasks_has_the_keys_of_its_first_row():
    """``RewardLoopManager.compute_rm_score`` asks every row for the first row's keys: all rows must have them."""
    tasks = {"vqa": {"answers": ["x"]}, "grounding": BOXES, "count": {"value": 1}, "math": {"answer": "1"}}
    results = [compute_score("d", GOOD, truth, {"task": task}) for task, truth in tasks.items()]
    columns = {key: np.array([result[key] for result in results]) for key in results[0]}
    assert set(columns) == set(KEYS)


# ---------------------------------------------------------------- frames: verl's real path


def processors():
    from transformers import Qwen2VLImageProcessor

    for patch, low, high in [
        (14, 3136, 12845056),
        (14, 3136, 28 * 28 * 1280),
        (14, 50176, 200704),
        (16, 65536, 16777216),
    ]:
        yield Qwen2VLImageProcessor(patch_size=patch, size={"shortest_edge": low, "longest_edge": high})


def random_sizes(number, seed):
    rng = random.Random(seed)
    yield from [(1280, 1024), (56, 56), (28, 28), (1, 1), (10, 1900), (1900, 10), (29, 5000), (640, 512), (27, 29)]
    for _ in range(number):
        width, height = int(2 ** rng.uniform(0, 11.5)), int(2 ** rng.uniform(0, 11.5))
        if max(width, height) <= 200 * min(width, height):
            yield width, height


def seen_by(processor, width, height):
    """The size of the image after both resizes, by verl's own code and the processor's."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    image = Image.new("L", (width, height))
    messages = [{"role": "user", "content": [{"type": "image", "image": image}]}]
    images, _ = asyncio.run(
        RLHFDataset.process_vision_info(messages, image_patch_size=processor.patch_size, config=OmegaConf.create())
    )
    _, rows, columns = processor(images=images)["image_grid_thw"][0].tolist()
    return columns * processor.patch_size, rows * processor.patch_size


@pytest.mark.parametrize("number", range(4))
def test_the_image_as_the_model_sees_it(number):
    """The sizes after verl's real path: RLHFDataset (qwen_vl_utils) and then the model's image processor."""
    processor = list(processors())[number]
    limits = limits_of(processor.to_dict())
    for width, height in random_sizes(40, number):
        wanted = seen_by(processor, width, height)
        assert seen_size((width, height), limits) == wanted, (
            f"{width} x {height}: the resizes of qwen_vl_utils or transformers changed; look at "
            "verl_mars/vision/resize.py"
        )


def test_a_perfect_answer_in_the_models_own_pixels_scores_one_through_the_real_path():
    processor = list(processors())[1]
    width, height = seen_by(processor, 1280, 1024)
    box = [10 * width / 1280, 20 * height / 1024, 110 * width / 1280, 220 * height / 1024]
    text = f'<think>a</think><answer>[{{"bbox_2d": {box}, "label": "person"}}]</answer>'
    arguments = ("d", text, json.dumps(BOXES), {"task": "grounding", "coordinates": "qwen2_5_vl"})
    right = compute_score(*arguments, image_processor=limits_of(processor.to_dict()))
    assert right["acc"] == pytest.approx(1.0) and (width, height) == (1092, 896)
    assert compute_score(*arguments)["acc"] < 0.8, "the processor's limits make no difference: no test"


def test_limits_of_a_call_are_those_the_processor_uses():
    processor = list(processors())[0]
    image = Image.new("RGB", (1288, 1036))
    for call in (
        {"min_pixels": 3136, "max_pixels": 500_000},
        {"size": {"shortest_edge": 3136, "longest_edge": 500_000}},
        {"max_pixels": 500_000},
        {},
    ):
        _, rows, columns = processor(images=[image], **call)["image_grid_thw"][0].tolist()
        assert seen_size((1288, 1036), limits_of(processor.to_dict(), call)) == (columns * 14, rows * 14), call


def test_a_saved_model_is_read_from_its_own_files(tmp_path):
    """Whatever files this version of transformers writes; no torchvision, no processor in the reading."""
    from verl_mars.toy.model import build_processor

    processor = build_processor()
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    size = processor.image_processor.size
    wanted = ImageLimits(min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
    assert (read_family(str(tmp_path)), read_limits(str(tmp_path))) == ("qwen2_5_vl", wanted)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_the_manager_reads_the_frame_from_the_model(tmp_path, model_type, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    processor = {"size": {"shortest_edge": 3136, "longest_edge": 28 * 28 * 1280}, "patch_size": 14, "merge_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    x, y = frame_named(model_type).scale((1280, 1024), limits_of(processor))
    answers = {}
    for name, (left, top) in {"own": (x, y), "pixel": (1.0, 1.0)}.items():
        box = [10 / left, 20 / top, 110 / left, 220 / top]
        answers[name] = f'<think>a</think><answer>[{{"bbox_2d": {box}, "label": "person"}}]</answer>'
    settings = config(model=str(tmp_path))
    assert run(settings, item(answers["own"], BOXES, task="grounding"))["reward_score"] == pytest.approx(1.0)
    assert f"boxes are read as '{model_type}'" in capsys.readouterr().out
    by_row = item(answers["pixel"], BOXES, task="grounding", coordinates="pixel")
    assert run(settings, by_row)["reward_score"] == pytest.approx(1.0), "the row's own frame goes before the model's"
    forced = config({"coordinates": "pixel"}, model=str(tmp_path))
    assert run(forced, item(answers["pixel"], BOXES, task="grounding"))["reward_score"] == pytest.approx(1.0)
    limited = config(model=str(tmp_path), data={"mm_processor_kwargs": {"min_pixels": 3136, "max_pixels": 250_000}})
    own = run(limited, item(answers["own"], BOXES, task="grounding"))["reward_extra_info"]["acc"]
    assert (own < 0.5) == (model_type == "qwen2_5_vl"), "data.mm_processor_kwargs changes what the model sees"


def test_a_model_of_an_unknown_family_needs_the_frame_of_its_boxes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    text = '<think>a</think><answer>[{"bbox_2d": [10, 20, 110, 220], "label": "person"}]</answer>'
    data = item(text, BOXES, task="grounding")
    with pytest.raises(ValueError, match="'llava' gives boxes is unknown.*reward.reward_kwargs.coordinates"):
        run(config(model=str(tmp_path)), data)
    assert run(config({"coordinates": "pixel"}, model=str(tmp_path)), data)["reward_score"] == pytest.approx(1.0)
    named = item(text, BOXES, task="grounding", coordinates="pixel")
    assert run(config(model=str(tmp_path)), named)["reward_score"] == pytest.approx(1.0)


def test_a_task_without_boxes_needs_no_model_files():
    assert run(config(model="/no/such/model"), item(GOOD))["reward_score"] == 1.0
