"""The worker that handles images once against the worker that does not, on verl's own code, without Ray."""

import asyncio
import functools

import numpy as np
import pytest
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.utils.model import extract_multi_modal_inputs
from verl.utils.tokenizer import hf_processor, hf_tokenizer
from verl_contract import expect

from verl_mars.images import reference
from verl_mars.images.once import PromptImages, SharedImageProcessor
from verl_mars.images.reference import PARTITION, StoredInputs, uid_of
from verl_mars.methods import METHODS
from verl_mars.methods.base import Method
from verl_mars.rollout.image_sharing import SharesImages
from verl_mars.rows import IMAGE_COSTS
from verl_mars.trainer.image_costs import metrics_of

N = 3
SOURCES = [{"name": "rgb", "images": [0]}, {"name": "infrared", "images": [1]}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from verl_mars.toy import model

    folder = tmp_path_factory.mktemp("model")
    model.save(model.build_model(seed=0), folder)
    return folder


@pytest.fixture
def files(tmp_path):
    names = [str(tmp_path / f"{i}.png") for i in range(2)]
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 255, (56, 56 * (i + 1), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return names


class Counted:
    """The toy's image processor, with the number of images of each call."""

    def __init__(self, processor):
        self.calls, self.processor = [], processor

    def __call__(self, images, **kwargs):
        self.calls.append(len(images))
        return self.processor(images, **kwargs)

    def __getattr__(self, name):
        return getattr(self.processor, name)


@pytest.fixture
def plane(monkeypatch):
    """TransferQueue as a dict of partitions, as another process reads it."""
    partitions = {}

    async def put(keys, fields, tags, partition_id):
        for i, key in enumerate(keys):
            row = {name: fields[name][i] for name in fields.keys()}
            partitions.setdefault(partition_id, {})[key] = {
                k: getattr(v, "data", v) if not isinstance(v, torch.Tensor) else v for k, v in row.items()
            }

    async def put_tag(key, partition_id, tag):
        partitions.setdefault("tags", {})[key] = tag

    monkeypatch.setattr(tq, "async_kv_batch_put", put)
    monkeypatch.setattr(tq, "async_kv_put", put_tag)
    monkeypatch.setattr(agent_loop_tq.tq, "async_kv_batch_put", put)
    monkeypatch.setattr(reference, "_fetched", {})
    return partitions


def make_worker(folder, sharing, method=None, dataset=RLHFDataset):
    worker = SharesImages.__new__(SharesImages)
    worker.method, worker.running_prompts, worker.seed_key = method or Method(), {}, None
    worker.tokenizer, worker.processor = hf_tokenizer(str(folder)), hf_processor(str(folder))
    worker.mm_processor_kwargs, worker.distillation_enabled, worker.dataset_cls = {}, False, dataset
    rollout = {"n": N, "seed": 0, "val_kwargs": {"n": 1}, "temperature": 1.0}
    worker.config = OmegaConf.create(
        {
            "actor_rollout_ref": {"rollout": rollout},
            "trainer": {"total_training_steps": 2},
            "data": {"max_response_length": 8, "images_once": {"enable": sharing}},
        }
    )
    worker.ask_reward_workers = lambda: None
    worker.reward_loop_worker_handles, worker.llm_client = None, None
    counted = worker.counted = Counted(worker.processor.image_processor)
    worker.processor.image_processor = counted
    worker.share_images()

    async def agent_loop(self, sampling_params, trajectory, *, session_id, raw_prompt, tool=None, **kwargs):
        """verl's single-turn loop, with an engine that answers in numbers."""
        images = await self._load_images(raw_prompt)
        text = self.processor.apply_chat_template(raw_prompt, tokenize=False, add_generation_prompt=True)
        prompt = self.processor(text=[text], images=images, videos=None, return_tensors="pt")["input_ids"][0].tolist()
        if tool is not None and session_id == 0:
            images = [*images, tool]
        output = AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=[session_id + 30, 31],
            response_mask=[1, 1],
            num_turns=2,
            multi_modal_data={"images": images},
            metrics=AgentLoopMetrics(),
            extra_fields={},
            reward_score=1.0,
            mm_processor_kwargs={},
            mm_processor_output=[],
        )
        output.extra_fields["reward_extra_info"] = {}
        return await self._agent_loop_postprocess(
            output, trajectory["validate"], session_id=session_id, raw_prompt=raw_prompt, **kwargs
        )

    worker._run_agent_loop = functools.partial(agent_loop, worker)
    return worker


def rows(worker, plane, files, validate=False, **more):
    """Run one prompt; the rows by key."""
    content = [{"type": "image", "image": file} for file in files] + [{"type": "text", "text": "where"}]
    prompt = {
        "uid": "u",
        "index": 0,
        "raw_prompt": [{"role": "user", "content": content}],
        "global_steps": 1,
        "sources": SOURCES,
        "reward_model": {"ground_truth": "1"},
        **more,
    }
    plane.clear()
    reference._fetched.clear()
    trajectory = {"step": 1, "validate": validate, "sample_index": 0, "rollout_n": 0}
    asyncio.run(worker._run_prompt(prompt, {}, trajectory))
    assert plane.pop("tags")["u"]["status"] == "finished"
    return plane["val" if validate else "train"]


ELSEWHERE = {IMAGE_COSTS, "raw_prompt", "anchor_seconds", "multi_modal_inputs", "other_visual_inputs"}


def assert_same_rows(one, other):
    """Every field, bit for bit; visual inputs as verl reads them."""
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].keys() - {IMAGE_COSTS} == other[key].keys() - {IMAGE_COSTS}
        for name in other[key].keys() - ELSEWHERE:
            a, b = one[key][name], other[key][name]
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
            else:
                assert repr(a) == repr(b), name
        for name in {"multi_modal_inputs", "other_visual_inputs"} & other[key].keys():
            a, b = (extract_multi_modal_inputs([rows[key][name]]) for rows in (one, other))
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name


def test_rows_are_those_of_verl_and_hold_references(model, files, plane):
    plain = rows(make_worker(model, sharing=False), plane, files)
    worker = make_worker(model, sharing=True)
    shared = rows(worker, plane, files)
    assert_same_rows(shared, plain)
    assert {type(row["multi_modal_inputs"]) for row in plain.values()} == {dict}
    references = [row["multi_modal_inputs"] for row in shared.values()]
    assert all(type(row) is StoredInputs for row in references) and len({row.name for row in references}) == 1
    assert list(map(uid_of, plane[PARTITION])) == ["u"]
    assert worker.counted.calls == [2], "both images, for three sessions"
    assert worker.owners == {} and worker.prepared == {}


def test_mono_sessions_use_the_patches_of_the_fused_ones(model, files, plane):
    plain = rows(make_worker(model, False, METHODS["mars"]()), plane, files)
    worker = make_worker(model, True, METHODS["mars"]())
    prepare, prepared = worker._prepare, []

    async def counted(scope, output, stored):
        prepared.append(stored)
        await prepare(scope, output, stored)

    worker._prepare = counted
    shared = rows(worker, plane, files)
    assert prepared == [True] * N, "a mono session becomes no row: its visual inputs would be thrown away"
    assert_same_rows(shared, plain)
    assert {tuple(row["anchor_scores"].tolist()) for row in shared.values()} == {(1.0, 1.0)}
    assert sum(worker.counted.calls) == 2, "each image once, for three fused and two mono sessions"
    assert len(plane[PARTITION]) == 1, "no row shows one source alone"


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_other_view_of_vogue_is_stored_once(model, files, plane, variant):
    vogue = METHODS["vogue"]({"vogue": {"variant": variant, "noisy_end": 1.0}})
    plain = rows(make_worker(model, False, vogue), plane, files)
    worker = make_worker(model, True, vogue)
    shared = rows(worker, plane, files)
    assert_same_rows(shared, plain)
    for row in shared.values():
        assert type(row["other_visual_inputs"]) is type(row["multi_modal_inputs"]) is StoredInputs
        assert row["other_visual_inputs"].name != row["multi_modal_inputs"].name
    assert len(plane[PARTITION]) == 2
    costs = metrics_of({key: row[IMAGE_COSTS] for key, row in shared.items()})
    assert costs["perf/image_bytes_saved"] == (N - 1) * costs["perf/image_bytes"] > 0


def test_a_session_whose_tool_added_an_image_keeps_its_own(model, files, plane):
    tool = Image.new("RGB", (56, 56), (1, 2, 3))
    plain = rows(make_worker(model, False), plane, files, tool=tool)
    shared = rows(make_worker(model, True), plane, files, tool=tool)
    assert_same_rows(shared, plain)
    kinds = {key: type(row["multi_modal_inputs"]) for key, row in shared.items()}
    assert kinds == {"u_0_0": dict, "u_1_0": StoredInputs, "u_2_0": StoredInputs}
    assert shared["u_0_0"][IMAGE_COSTS]["references"] == []


def test_validation_stores_copies_as_ever(model, files, plane):
    row = rows(make_worker(model, True), plane, files, validate=True)["u_0_0"]
    assert type(row["multi_modal_inputs"]) is dict and PARTITION not in plane


def test_costs_of_a_prompt(model, files, plane):
    shared = rows(make_worker(model, True), plane, files)
    (name, inputs), *_ = plane[PARTITION].items()
    size = sum(tensor.nbytes for tensor in inputs["object"].values())
    costs = metrics_of({key: row[IMAGE_COSTS] for key, row in shared.items()})
    assert {row[IMAGE_COSTS]["references"][0][0] for row in shared.values()} == {name}
    assert costs["perf/image_bytes"] == size and costs["perf/image_bytes_saved"] == (N - 1) * size
    assert 0 < costs["perf/image_seconds"] < 10


def test_a_prompt_whose_image_is_missing_fails_as_ever(model, files, plane):
    worker = make_worker(model, True)
    with pytest.raises(AssertionError, match="failure"):
        rows(worker, plane, [files[0], files[1] + ".gone"])
    assert worker.owners == {}


def test_a_loader_of_the_users_own_is_asked_for_whole_conversations(model, files, plane):
    asked = []

    class Own(RLHFDataset):
        @classmethod
        async def process_multi_modal_info(cls, messages, image_patch_size, config):
            asked.append(len([part for part in messages[0]["content"] if part["type"] == "image"]))
            return await super().process_multi_modal_info(messages, image_patch_size, config)

    rows(make_worker(model, True, dataset=Own), plane, files)
    assert asked == [2]


def test_verls_loader_treats_each_image_by_itself(files):
    """Why each image may be loaded alone, and what is run in a thread for it."""
    content = [{"type": "image", "image": file} for file in files]
    config = OmegaConf.create({})
    load = RLHFDataset.process_multi_modal_info
    whole = asyncio.run(load([{"role": "user", "content": content}], image_patch_size=14, config=config))
    alone = [
        RLHFDataset._process_multi_modal_info([{"role": "user", "content": [part]}], 14, config) for part in content
    ]
    same = [np.array_equal(a, b[0]) for a, (b, *_) in zip(whole[0], alone, strict=True)]
    expect(
        all(same) and [list(one[1:]) for one in alone] == [list(whole[1:])] * 2,
        "how RLHFDataset loads images",
        "shared_loading in verl_mars/rollout/image_sharing.py",
    )


@pytest.mark.parametrize("sizes", [[(448, 448)] * 3, [(448, 448), (1280, 1024), (60, 300)]])
def test_qwens_processor_cuts_each_image_by_itself(sizes):
    """Why patches may be put together: an image's are the same whatever stands beside it."""
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor()
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)) for size in sizes]
    whole = processor(images, return_tensors="pt")
    owners = {}
    prompt = PromptImages(owners)
    for image in images:
        prompt.adopt(image)
    shared = SharedImageProcessor(processor, owners)
    for i in range(len(images)):
        shared([images[i]] * 2, return_tensors="pt")
    put_together = shared(list(images), return_tensors="pt")
    assert all(torch.equal(whole[key], put_together[key]) for key in whole)
