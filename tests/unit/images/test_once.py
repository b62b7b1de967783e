"""The images of a prompt, loaded and processed once, with loaders and processors that count."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
from transformers import BatchFeature  # noqa: E402

from verl_mars.images.once import PromptImages, SharedImageProcessor, SharedProcessor, owner_of  # noqa: E402


def picture(value, size=(28, 28)):
    return Image.fromarray(np.full((*size[::-1], 3), value, dtype=np.uint8))


class Patcher:
    """An image processor like Qwen-VL's: a patch for each 14x14 pixels, all images one after the other."""

    patch_size = 14

    def __init__(self, together=True):
        self.calls, self.together = [], together

    def __call__(self, images=None, scale=1.0, return_tensors=None):
        time.sleep(0.02)
        self.calls.append(len(images))
        grids = [(1, image.height // 14, image.width // 14) for image in images]
        pixels = [
            torch.full((rows * columns, 3), scale * image.getpixel((0, 0))[0])
            for image, (_, rows, columns) in zip(images, grids, strict=True)
        ]
        data = {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(grids)}
        return BatchFeature(data if self.together else {**data, "sizes": torch.zeros(len(images))})


@pytest.fixture
def owners():
    return {}


@pytest.fixture
def prompt(owners):
    return PromptImages(owners)


@pytest.fixture
def images(prompt):
    found = [picture(1), picture(2, (42, 28))]
    for image in found:
        prompt.adopt(image)
    return found


def in_threads(*calls):
    """All calls at once, as the sessions of a prompt start."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("together", [True, False], ids=["put-together", "whole-lists-only"])
def test_every_view_gets_what_the_processor_would_say(owners, images, together):
    plain, patcher = Patcher(together), Patcher(together)
    shared = SharedImageProcessor(patcher, owners)
    views = [images, images[:1] * 2, images[1:] * 2, images[::-1], images[:1]] * 4
    results = in_threads(*(lambda view=view: shared(list(view)) for view in views))
    for view, result in zip(views, results, strict=True):
        expected = plain(view)
        assert result.keys() == expected.keys()
        assert all(torch.equal(result[key], expected[key]) for key in expected)
    # Each image is cut to patches once; a processor whose output cannot be put together works on each list once.
    assert sum(patcher.calls) == 2 if together else len(patcher.calls) <= 5 + 2


def test_all_sessions_get_one_object_and_may_change_their_own_dict(owners, images):
    shared = SharedImageProcessor(Patcher(), owners)
    one, other = in_threads(lambda: shared(list(images)), lambda: shared(list(images)))
    assert one["pixel_values"] is other["pixel_values"]
    one.pop("pixel_values")
    assert "pixel_values" in other and "pixel_values" in shared(list(images))


def test_other_settings_are_another_work(owners, images):
    shared = SharedImageProcessor(Patcher(), owners)
    assert shared(list(images), scale=2.0)["pixel_values"][0, 0] == 2 * shared(list(images))["pixel_values"][0, 0]


def test_images_of_nobody_or_of_two_prompts_are_processed_as_ever(owners, images):
    patcher = Patcher()
    shared = SharedImageProcessor(patcher, owners)
    stranger = PromptImages(owners)
    other = picture(9)
    stranger.adopt(other)
    for view in ([picture(5)], [images[0], picture(5)], [images[0], other]):
        assert shared(view)["pixel_values"] is not shared(view)["pixel_values"]
    assert shared([]) if False else owner_of([], owners) is None
    assert patcher.calls == [1, 1, 2, 2, 2, 2]


def test_after_a_prompt_nothing_is_held(owners, prompt, images):
    shared = SharedImageProcessor(Patcher(), owners)
    result = shared(list(images))
    assert prompt.made(result["pixel_values"]) and prompt.bytes > 0 and prompt.pixels == 28 * 28 + 42 * 28
    prompt.close()
    assert owners == {} and not prompt.made(result["pixel_values"])
    prompt.adopt(picture(1))  # of a session that was cancelled
    assert owners == {}


def test_a_failure_is_not_remembered(owners, images):
    class Broken(Patcher):
        def __call__(self, images=None):
            super().__call__(images)
            if len(self.calls) == 1:
                raise OSError("out of memory")
            return Patcher()(images)

    shared = SharedImageProcessor(Broken(), owners)
    with pytest.raises(OSError, match="out of memory"):
        shared(list(images))
    assert len(shared(list(images))["image_grid_thw"]) == 2


def test_a_text_with_the_same_images_is_processed_once(owners, images):
    calls = []

    def processor(text=None, images=None, videos=None, **_):
        calls.append((text, videos))
        return BatchFeature({"input_ids": [len(text[0])]})

    shared = SharedProcessor(processor, owners)
    for _ in range(3):
        shared(text=["what?"], images=list(images), videos=None).pop("input_ids")
    shared(text=["why?"], images=list(images), videos=None)
    assert calls == [(["what?"], None), (["why?"], None)]
    # Videos are tensors, which a text does not tell apart.
    for _ in range(2):
        shared(text=["what?"], images=list(images), videos=[torch.zeros(3)])
    assert len(calls) == 4


# ---------------------------------------------------------------- loading


def conversation(*names, text="?"):
    content = [{"type": "image", "image": name} for name in names]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


class Loader:
    def __init__(self, fails=0):
        self.calls, self.fails = [], fails

    async def __call__(self, messages):
        names = [part["image"] for part in messages[0]["content"] if part["type"] == "image"]
        self.calls.append(names)
        await asyncio.sleep(0.01)
        if len(self.calls) <= self.fails:
            raise OSError("truncated file")
        return [picture(int(name)) for name in names], None, None


def test_each_image_is_loaded_once_for_all_views(prompt, owners):
    load = Loader()

    async def sessions():
        views = [conversation("1", "2"), conversation("1", "1", text="!"), conversation("2", "2")] * 3
        return await asyncio.gather(*(prompt.load(view, load, piecewise=True) for view in views))

    results = asyncio.run(sessions())
    assert sorted(load.calls) == [["1"], ["2"]]
    (fused, *_), (mono, *others) = results[0], results[1]
    assert mono == [fused[0], fused[0]] and mono[0] is fused[0] and others == [None, None]
    assert results[0][0] is not results[3][0], "a tool may add images to its session's list"
    assert owner_of(fused, owners) is prompt


def test_a_loader_of_the_users_own_gets_whole_conversations(prompt):
    load = Loader()

    async def sessions():
        views = [conversation("1", "2"), conversation("1", "2", text="!"), conversation("1", "2")]
        return await asyncio.gather(*(prompt.load(view, load, piecewise=False) for view in views))

    asyncio.run(sessions())
    assert load.calls == [["1", "2"], ["1", "2"]], "its text may matter"


def test_a_cancelled_session_takes_no_image_from_the_others(prompt):
    load = Loader()

    async def sessions():
        first = asyncio.create_task(prompt.load(conversation("1"), load, piecewise=True))
        second = asyncio.create_task(prompt.load(conversation("1"), load, piecewise=True))
        await asyncio.sleep(0.001)
        first.cancel()
        return await second

    images, *_ = asyncio.run(sessions())
    assert len(images) == 1 and load.calls == [["1"]]


def test_a_failed_load_is_tried_again(prompt):
    load = Loader(fails=1)

    async def sessions():
        with pytest.raises(OSError, match="truncated"):
            await prompt.load(conversation("1"), load, piecewise=True)
        return await prompt.load(conversation("1"), load, piecewise=True)

    assert len(asyncio.run(sessions())[0]) == 1


def test_seconds_are_those_of_the_thread_that_works(owners, prompt, images):
    def process(some):
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        return Patcher()(some)

    threads = [threading.Thread(target=prompt.process, args=(list(images), "", process)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.05 <= prompt.seconds < 0.15, "waiting costs nothing, and four sessions cost what one does"
