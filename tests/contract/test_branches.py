"""VOGUE's branches in the agent-loop worker, without Ray: who is noisy, on which images, and with which beside."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from verl_mars.methods import METHODS, Presentation
from verl_mars.rollout.worker import MarsAgentLoopWorker, RunningPrompt
from verl_mars.rows import NOISY

STEPS = 10


class Images:
    """A data set class whose images are 8x8 pictures, and whose videos are what ``videos`` says."""

    videos = None

    @classmethod
    async def process_multi_modal_info(cls, messages, image_patch_size, config):
        names = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
        return [Image.new("RGB", (8, 8), (10 * int(name), 100, 100)) for name in names] or None, cls.videos, None


class FilmedImages(Images):
    videos = ["a film"]


def make_worker(variant="paper", seed=0, dataset=Images):
    worker = MarsAgentLoopWorker.__new__(MarsAgentLoopWorker)
    worker.method = METHODS["vogue"]({"vogue": {"variant": variant}})
    worker.processor, worker.dataset_cls = SimpleNamespace(), dataset
    rollout = {"rollout": {"seed": seed}}
    worker.config = OmegaConf.create(
        {"trainer": {"total_training_steps": STEPS}, "actor_rollout_ref": rollout, "data": {}}
    )
    return worker


def prompt(index=0, images=("1", "2")):
    content = [{"type": "image", "image": name} for name in images] + [{"type": "text", "text": "?"}]
    return {"uid": f"u{index}", "index": index, "raw_prompt": [{"role": "user", "content": content}]}


def present(worker, row, step=0):
    context = worker._prompt_context(row, {"step": step, "validate": False})
    return asyncio.run(worker.method.present(row, context))


def branch(worker, row, step=0):
    return present(worker, row, step).prompt


def shown(row):
    return [part["image"] for part in row["raw_prompt"][0]["content"] if part["type"] == "image"]


def test_the_share_of_noisy_groups_falls_to_none():
    worker = make_worker()
    shares = [np.mean([branch(worker, prompt(i), step)[NOISY] for i in range(300)]) for step in (0, 5, STEPS)]
    assert shares[0] == 1 and shares[2] == 0
    assert shares[1] == pytest.approx(0.5, abs=0.1)


def test_paper_shows_the_noisy_images_and_keeps_the_raw_ones_beside():
    worker, row = make_worker(), prompt()
    group = present(worker, row)
    got = group.prompt
    raw = asyncio.run(worker._load_images(row["raw_prompt"]))
    assert all(isinstance(image, Image.Image) for image in shown(got)) and len(shown(got)) == 2
    assert [np.asarray(image).tolist() for image in group.other_images] == [np.asarray(i).tolist() for i in raw]
    assert all(not np.array_equal(a, b) for a, b in zip(shown(got), raw, strict=True))
    assert group.stored_messages is row["raw_prompt"] and shown(row) == ["1", "2"], "nothing is changed in place"


def test_released_shows_the_raw_images_and_keeps_the_noisy_ones_beside():
    worker, row = make_worker("released"), prompt()
    group = present(worker, row)
    raw = asyncio.run(worker._load_images(row["raw_prompt"]))
    assert shown(group.prompt) == ["1", "2"] and group.prompt[NOISY]
    others = group.other_images
    assert all(not np.array_equal(a, b) for a, b in zip(others, raw, strict=True))


def test_the_noise_depends_on_seed_prompt_and_step_alone():
    def noise(seed=0, index=0, step=0):
        return np.asarray(shown(branch(make_worker(seed=seed), prompt(index), step))[0]).tolist()

    assert noise() == noise()
    assert all(noise() != other for other in (noise(seed=1), noise(index=1), noise(step=1)))


def test_a_prompt_without_images_is_never_noisy():
    group = present(make_worker(), prompt(images=()))
    assert group.prompt[NOISY] is False and group.other_images == []


def test_videos_are_refused():
    with pytest.raises(ValueError, match="this prompt has videos or audio"):
        branch(make_worker(dataset=FilmedImages), prompt())


def test_images_of_a_tool_are_refused():
    group = RunningPrompt(Presentation({}, other_images=[Image.new("RGB", (8, 8))]))
    output = SimpleNamespace(multi_modal_data={"images": [1, 2]})
    with pytest.raises(ValueError, match="2 images and its prompt 1.*a tool returned"):
        asyncio.run(make_worker()._other_inputs(group, output))


def test_inputs_of_the_other_view_are_made_once_for_a_group():
    worker, made = make_worker(), []

    def compute(output, input_ids):
        made.append((output.multi_modal_data["images"], input_ids.tolist()))
        return {"pixel_values": 1, "mm_token_type_ids": 2}

    worker._compute_multi_modal_inputs = compute
    other = [Image.new("RGB", (8, 8))]
    group = RunningPrompt(Presentation({}, other_images=other))
    output = SimpleNamespace(multi_modal_data={"images": ["own"]}, prompt_ids=[1, 2], response_ids=[3])
    output.model_copy = lambda update: SimpleNamespace(**{**vars(output), **update})

    async def sessions():
        return await asyncio.gather(worker._other_inputs(group, output), worker._other_inputs(group, [output]))

    assert asyncio.run(sessions()) == [{"pixel_values": 1}] * 2
    assert made == [(other, [1, 2, 3])]
